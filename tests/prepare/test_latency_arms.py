"""The arms on a tiny Conv + BatchNorm network: what each one really runs, and that all of them agree."""

import copy
import warnings
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from service.errors import ExportFailed, PrepareError
from service.prepare import latency_arms
from service.prepare.latency import MIN_ROUNDS, TimedArm
from service.prepare.latency_arms import (
    count_batch_normalization,
    open_session,
    require_unfolded,
    run_latency,
    torch_arm,
)

SIZE = 32


class TinyNet(nn.Module):
    """uint8 (1, S, S, 3) in, two Conv + BatchNorm pairs, float32 (1, 4, S, S) out."""

    threads_seen: ClassVar[set[int]] = set()  # shared with the copies that the arms make

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8, eps=1e-3)
        self.conv2, self.bn2 = nn.Conv2d(8, 4, 1, bias=False), nn.BatchNorm2d(4, eps=1e-3)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.threads_seen.add(torch.get_num_threads())
        x = image.permute(0, 3, 1, 2).float() / 255
        x = nn.functional.silu(self.bn1(self.conv1(x)))
        return nn.functional.silu(self.bn2(self.conv2(x)))


def export(module: nn.Module, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the TorchScript exporter is deprecated, and alone in keeping BatchNorm
        torch.onnx.export(
            module,
            (torch.zeros(1, SIZE, SIZE, 3, dtype=torch.uint8),),
            str(path),
            training=torch.onnx.TrainingMode.PRESERVE,
            dynamo=False,
            opset_version=20,
            input_names=["images"],
        )
    return path


class Nets:
    def __init__(self, folder: Path) -> None:
        torch.manual_seed(0)
        self.unfolded = TinyNet()
        for bn in (self.unfolded.bn1, self.unfolded.bn2):
            assert bn.running_mean is not None and bn.running_var is not None
            nn.init.normal_(bn.running_mean, std=0.2)
            nn.init.uniform_(bn.running_var, 0.5, 2.0)
            nn.init.uniform_(bn.weight, 0.5, 2.0)
        self.unfolded.eval()
        self.folded = copy.deepcopy(self.unfolded)
        for number in ("1", "2"):
            conv, bn = getattr(self.folded, f"conv{number}"), getattr(self.folded, f"bn{number}")
            setattr(self.folded, f"conv{number}", fuse_conv_bn_eval(conv, bn))
            setattr(self.folded, f"bn{number}", nn.Identity())
        self.reference = export(self.unfolded, folder / "reference.onnx")
        self.deployed = export(self.folded, folder / "model.onnx")


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> Nets:
    return Nets(tmp_path_factory.mktemp("nets"))


def ops(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(str(path)).graph.node]


def test_the_files_are_what_the_other_tests_take_them_for(nets: Nets) -> None:
    assert (count_batch_normalization(nets.reference), count_batch_normalization(nets.deployed)) == (2, 0)


def test_onnxruntime_folds_by_itself_at_its_defaults(nets: Nets, tmp_path: Path) -> None:
    open_session(nets.reference, 1, save_as=tmp_path / "reference.onnx")
    open_session(nets.deployed, 1, save_as=tmp_path / "deployed.onnx")
    assert count_batch_normalization(tmp_path / "reference.onnx") == 0
    assert sorted(ops(tmp_path / "reference.onnx")) == sorted(ops(tmp_path / "deployed.onnx"))


def test_the_unfolded_arm_keeps_every_batch_normalization(nets: Nets, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[tuple[str, int]] = []

    def spy(path: Path) -> int:
        counted.append((path.name, count_batch_normalization(path)))
        return counted[-1][1]

    monkeypatch.setattr(latency_arms, "count_batch_normalization", spy)
    require_unfolded(nets.reference, 1)
    assert counted == [("reference.onnx", 2), ("optimised.onnx", 2)]


def test_the_extended_pair_differs_in_batch_normalization_only(nets: Nets, tmp_path: Path) -> None:
    paths = {}
    for name, source in (("unfolded", nets.reference), ("folded", nets.deployed)):
        paths[name] = tmp_path / f"{name}.onnx"
        open_session(
            source,
            1,
            level=latency_arms.EXTENDED,
            disabled=latency_arms.FOLDING_OPTIMISERS,
            save_as=paths[name],
        )
    assert [op for op in ops(paths["unfolded"]) if op != "BatchNormalization"] == ops(paths["folded"])


def test_a_runtime_that_folds_regardless_is_noticed(nets: Nets, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency_arms, "FOLDING_OPTIMISERS", ())
    with pytest.raises(PrepareError, match=r"kept 0 of 2 BatchNormalization nodes of reference\.onnx"):
        require_unfolded(nets.reference, 1)


def test_batch_normalization_turned_into_convolution_is_noticed(nets: Nets, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency_arms, "EXTENDED", ort.GraphOptimizationLevel.ORT_ENABLE_ALL)
    with pytest.raises(PrepareError, match="kept 0 of 2"):
        require_unfolded(nets.reference, 1)


def test_a_reference_without_batch_normalization_is_refused(nets: Nets) -> None:
    with pytest.raises(ExportFailed, match=r"model\.onnx has no BatchNormalization"):
        require_unfolded(nets.deployed, 1)


def test_a_module_in_training_mode_is_refused() -> None:
    with pytest.raises(PrepareError, match=r"arm torch_folded is in training mode; call eval\(\)"):
        torch_arm("torch_folded", "", TinyNet().train(), np.zeros((1, SIZE, SIZE, 3), np.uint8))


def test_all_arms_compute_the_same(nets: Nets, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs: dict[str, NDArray[np.float32]] = {}

    def run_each_once(arms: list[TimedArm], **_: object) -> None:
        for arm in arms:
            result = arm.open()()
            outputs[arm.name] = np.asarray(result[0] if isinstance(result, list) else result)

    monkeypatch.setattr(latency_arms, "measure_latency", run_each_once)
    run_latency(nets.unfolded, nets.folded, nets.reference, nets.deployed, imgsz=SIZE, threads=1)
    assert len(outputs) == 7
    for name, output in outputs.items():
        np.testing.assert_allclose(output, outputs["torch_unfolded"], rtol=1e-4, atol=1e-5, err_msg=name)


def test_compared_sessions_differ_in_their_file_only(nets: Nets, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[tuple[str, int, dict[str, object]]] = []
    by_arm: dict[str, list[tuple[str, int, dict[str, object]]]] = {}

    def spy_open(path: Path, threads: int, **options: object) -> ort.InferenceSession:
        opened.append((path.name, threads, options))
        return open_session(path, threads, **options)  # type: ignore[arg-type]

    def open_each_twice(arms: list[TimedArm], **_: object) -> None:
        for arm in arms:
            opened.clear()
            first, second = arm.open(), arm.open()
            assert first is not second
            by_arm[arm.name] = list(opened)

    monkeypatch.setattr(latency_arms, "open_session", spy_open)
    monkeypatch.setattr(latency_arms, "measure_latency", open_each_twice)
    run_latency(nets.unfolded, nets.folded, nets.reference, nets.deployed, imgsz=SIZE, threads=2)

    kept = {"level": latency_arms.EXTENDED, "disabled": latency_arms.FOLDING_OPTIMISERS}
    assert by_arm == {
        "torch_unfolded": [],
        "torch_folded": [],
        "ort_reference_default": 2 * [("reference.onnx", 2, {})],
        "ort_reference_unfolded": 2 * [("reference.onnx", 2, kept)],
        "ort_deployed_extended": 2 * [("model.onnx", 2, kept)],
        "ort_deployed": 2 * [("model.onnx", 2, {})],
        "ort_deployed_copy": 2 * [("model.onnx", 2, {})],
    }


def test_each_opening_of_a_torch_arm_is_a_network_of_its_own() -> None:
    class Stateful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.calls = 0

        def forward(self, image: torch.Tensor) -> int:
            self.calls += 1
            return self.calls

    arm = torch_arm("torch_folded", "", Stateful().eval(), np.zeros((1, SIZE, SIZE, 3), np.uint8))
    first, second = arm.open(), arm.open()
    assert (first(), first(), second()) == (1, 2, 1)


def test_run_latency_times_all_arms_and_restores_torch_threads(nets: Nets) -> None:
    before, threads = torch.get_num_threads(), torch.get_num_threads() + 1
    TinyNet.threads_seen.clear()
    calls: list[tuple[int, int]] = []
    report = run_latency(
        nets.unfolded,
        nets.folded,
        nets.reference,
        nets.deployed,
        imgsz=SIZE,
        threads=threads,
        rounds=MIN_ROUNDS,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert torch.get_num_threads() == before
    assert TinyNet.threads_seen == {threads}
    assert calls[-1] == (MIN_ROUNDS, MIN_ROUNDS)
    assert (report.imgsz, report.threads, report.batch, report.rounds) == (SIZE, threads, 1, MIN_ROUNDS)
    names = {arm.name: arm.runtime for arm in report.arms}
    assert sorted(names.values()) == ["onnxruntime"] * 5 + ["torch"] * 2
    pairs = [(answer.baseline, answer.candidate) for answer in (report.null_control, *report.comparisons)]
    assert pairs == [
        ("ort_deployed", "ort_deployed_copy"),
        ("torch_unfolded", "torch_folded"),
        ("ort_reference_unfolded", "ort_deployed_extended"),
        ("ort_reference_default", "ort_deployed"),
    ]
    assert all(arm.median_ms > 0 and arm.samples == MIN_ROUNDS for arm in report.arms)


def test_an_arm_that_fails_stops_the_run_and_restores_torch_threads(nets: Nets) -> None:
    class Broken(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("no such kernel")

    before = torch.get_num_threads()
    with pytest.raises(RuntimeError, match="no such kernel"):
        run_latency(
            nets.unfolded,
            Broken().eval(),
            nets.reference,
            nets.deployed,
            imgsz=SIZE,
            threads=before + 1,
            rounds=MIN_ROUNDS,
        )
    assert torch.get_num_threads() == before

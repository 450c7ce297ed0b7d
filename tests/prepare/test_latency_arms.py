"""The arms of a preparation: torch's own, that all of them agree, and the whole measurement."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from service.errors import PrepareError
from service.measurement.runner import MIN_ROUNDS, TimedArm
from service.prepare import latency_arms
from service.prepare.latency_arms import run_latency, torch_arm
from tests.tiny_network import SIZE, Nets, TinyNet


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> Nets:
    return Nets(tmp_path_factory.mktemp("nets"))


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

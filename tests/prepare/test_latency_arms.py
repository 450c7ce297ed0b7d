"""The arms of a preparation: torch's own, that all of them agree, and the whole measurement."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from service.errors import PrepareError
from service.measurement import study
from service.measurement.peak_memory import measure_peak
from service.measurement.runner import MIN_ROUNDS
from service.measurement.runtime_arms import folding_arms, random_images
from service.measurement.study import LEFT_OUT, Effort, Place
from service.prepare.checkpoint import drop_unused_head, has_two_heads, select_head
from service.prepare.dataflow import observe_dataflow
from service.prepare.deployed_network import DeployedNetwork
from service.prepare.fold import fold_batchnorm
from service.prepare.latency_arms import HEAD_QUESTIONS, Networks, TorchArms, inspect_module, run_latency
from tests.networks import calibrated_network
from tests.tiny_network import SIZE, Nets, TinyNet

IMGSZ = 128
HEAD_NAMES = [question.name for question in HEAD_QUESTIONS]


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> Nets:
    return Nets(tmp_path_factory.mktemp("nets"))


@pytest.fixture(scope="module")
def place(nets: Nets) -> Place:
    return Place(nets.reference, nets.deployed, SIZE, threads=1, callers=1)


@pytest.fixture(scope="module", params=["one2one", "one2many"])
def yolo(request: pytest.FixtureRequest) -> Networks:
    """A YOLO26 in all four forms, answering from either head."""
    checkpoint, head = calibrated_network("yolo26n.yaml"), request.param
    assert has_two_heads(checkpoint)
    whole, one_head = checkpoint, calibrated_network("yolo26n.yaml")
    select_head(whole, head)
    drop_unused_head(one_head, head)
    forms = [one_head, _folded(one_head), whole, _folded(whole)]
    return Networks(*(DeployedNetwork(form, head).eval() for form in forms))


def _folded(network: nn.Module) -> nn.Module:
    return fold_batchnorm(network, observe_dataflow(network, 64).sites).network


@pytest.fixture(scope="module")
def yolo_arms(yolo: Networks) -> TorchArms:
    return TorchArms(yolo, Place(Path(), Path(), IMGSZ, 1, 1), with_both_heads=True)


def test_a_module_in_training_mode_is_refused() -> None:
    image = torch.zeros(1, SIZE, SIZE, 3, dtype=torch.uint8)
    with pytest.raises(PrepareError, match=r"arm torch_folded is in training mode; call eval\(\)"):
        inspect_module("torch_folded", "", TinyNet().train(), image)


@pytest.mark.parametrize("batch", [1, 3])
def test_all_arms_compute_the_same(nets: Nets, place: Place, batch: int) -> None:
    images = random_images(SIZE, batch)
    arms = [
        *TorchArms(Networks(nets.unfolded, nets.folded), place, False).timed(images),
        *(arm.timed(images) for arm in folding_arms(nets.reference, nets.deployed, 1)),
    ]
    outputs = {}
    for arm in arms:
        result = arm.open()()
        outputs[arm.name] = np.asarray(result[0] if isinstance(result, list) else result)
    assert len(outputs) == 7
    for name, output in outputs.items():
        assert len(output) == batch
        np.testing.assert_allclose(output, outputs["torch_unfolded"], rtol=1e-4, atol=1e-5, err_msg=name)


def test_both_heads_are_executed_and_one_answers(yolo: Networks, yolo_arms: TorchArms) -> None:
    """Only then is what is dropped the head and nothing else: more layers run, and the answer stays."""
    arms = {arm.name: arm for arm in yolo_arms._arms}
    batchnorms = {name: arm.facts.batch_normalizations for name, arm in arms.items()}
    # Each of three scales has 2 BatchNorms in its box branch and 4 in its class branch.
    assert batchnorms == {
        "torch_unfolded": 96,
        "torch_folded": 0,
        "torch_both_heads_unfolded": 96 + 3 * 6,
        "torch_both_heads_folded": 0,
    }
    convolutions = {name: arm.convolutions for name, arm in arms.items()}
    # The same, and the last convolution of each branch, which has no BatchNorm.
    assert convolutions["torch_both_heads_unfolded"] - convolutions["torch_unfolded"] == 3 * 8
    assert convolutions["torch_both_heads_folded"] - convolutions["torch_folded"] == 3 * 8
    assert arms["torch_both_heads_unfolded"].facts.bytes > arms["torch_unfolded"].facts.bytes
    images = random_images(IMGSZ, 2)
    answers = {arm.name: arm.open()() for arm in yolo_arms.timed(images)}
    for kept, folded in (("torch_unfolded", "torch_both_heads_unfolded"), ("torch_folded", "torch_both_heads_folded")):
        torch.testing.assert_close(answers[folded], answers[kept])
    # Rows may change places where confidences are nearly equal; those confidences must not change.
    confidences = [answers[name][..., 4] for name in ("torch_unfolded", "torch_folded")]
    torch.testing.assert_close(*confidences, rtol=1e-3, atol=1e-4)


def test_heads_are_compared_with_all_else_the_same(yolo_arms: TorchArms) -> None:
    assert [(q.name, q.baseline, q.candidate) for q in yolo_arms.questions] == [
        ("folding_in_torch", "torch_unfolded", "torch_folded"),
        ("dropping_head_unfolded", "torch_both_heads_unfolded", "torch_unfolded"),
        ("dropping_head_folded", "torch_both_heads_folded", "torch_folded"),
        ("dropping_and_folding", "torch_both_heads_unfolded", "torch_folded"),
    ]
    assert list(yolo_arms.not_measured) == []


def test_memory_of_a_module_is_measured_in_a_process_of_its_own(yolo_arms: TorchArms, tmp_path: Path) -> None:
    programs = yolo_arms.programs(IMGSZ, 2, tmp_path)
    assert set(programs) == {arm.name for arm in yolo_arms._arms}
    peak = measure_peak("torch_folded", 2, programs["torch_folded"], lambda: None)
    assert peak.peak_bytes > peak.baseline_bytes > 50_000_000


@pytest.mark.parametrize(
    ("both", "thorough", "reason"),
    [
        (False, False, LEFT_OUT),
        (True, False, LEFT_OUT),
        (False, True, "The checkpoint has one head"),
        # A network that only holds a second head without running it.
        (True, True, "executes only the head that is deployed"),
    ],
)
def test_heads_that_cannot_be_compared_are_said(
    nets: Nets, place: Place, both: bool, thorough: bool, reason: str
) -> None:
    networks = Networks(nets.unfolded, nets.folded, *((nets.unfolded, nets.folded) if both else ()))
    arms = TorchArms(networks, place, thorough)
    assert [question.name for question in arms.questions] == ["folding_in_torch"]
    assert [item.name for item in arms.not_measured] == HEAD_NAMES
    assert all(reason in item.reason for item in arms.not_measured)


def test_each_opening_of_a_torch_arm_is_a_network_of_its_own() -> None:
    class Stateful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.calls = 0

        def forward(self, image: torch.Tensor) -> int:
            self.calls += 1
            return self.calls

    image = torch.zeros(1, SIZE, SIZE, 3, dtype=torch.uint8)
    arm = inspect_module("torch_folded", "", Stateful().eval(), image).timed(random_images(SIZE, 1))
    first, second = arm.open(), arm.open()
    start = first()
    assert (first(), first(), second()) == (start + 1, start + 2, start)


def test_run_latency_times_all_arms_and_restores_torch_threads(nets: Nets) -> None:
    before, threads = torch.get_num_threads(), torch.get_num_threads() + 1
    TinyNet.threads_seen.clear()
    calls: list[tuple[str, int, int]] = []
    report = run_latency(
        Networks(nets.unfolded, nets.folded),
        Place(nets.reference, nets.deployed, SIZE, threads, callers=1),
        Effort(MIN_ROUNDS, budget_s=math.inf),
        progress=lambda *call: calls.append(call),
    )
    assert torch.get_num_threads() == before
    assert TinyNet.threads_seen == {threads}
    assert calls[-1] == ("latency on cpu, batch 1", MIN_ROUNDS, MIN_ROUNDS)
    (series,) = report.series
    assert (report.imgsz, report.threads, series.batch, series.rounds) == (SIZE, threads, 1, MIN_ROUNDS)
    assert sorted(arm.engine for arm in series.arms) == ["onnxruntime"] * 5 + ["torch"] * 2
    pairs = [(answer.baseline, answer.candidate) for answer in (series.null_control, *series.comparisons)]
    assert pairs == [
        ("ort_deployed", "ort_deployed_copy"),
        ("torch_unfolded", "torch_folded"),
        ("ort_reference_unfolded", "ort_deployed_extended"),
        ("ort_reference_default", "ort_deployed"),
    ]
    assert all(arm.median_ms > 0 and arm.samples == MIN_ROUNDS for arm in series.arms)
    assert [item.name for item in report.not_measured if "head" in item.question] == HEAD_NAMES


def test_a_thorough_measurement_has_torch_in_its_latency_only(
    nets: Nets, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[str] = []
    monkeypatch.setattr(study, "measure_peak", lambda arm, *_rest: measured.append(arm))
    monkeypatch.setattr(study, "LatencyReport", lambda **fields: fields)
    report = run_latency(Networks(nets.unfolded, nets.folded), place, Effort(MIN_ROUNDS, thorough=True))
    engines = [{arm.engine for arm in series.arms} for series in report["series"]]
    assert engines[0] == {"torch", "onnxruntime"}
    assert all(
        "torch" not in found
        for found, series in zip(engines, report["series"], strict=True)
        if (series.kind, series.device) != ("latency", "cpu")
    )
    assert {"torch_unfolded", "torch_folded", "ort_deployed"} <= set(measured)


def test_an_arm_that_fails_stops_the_run_and_restores_torch_threads(nets: Nets) -> None:
    class Broken(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("no such kernel")

    before = torch.get_num_threads()
    place = Place(nets.reference, nets.deployed, SIZE, before + 1, callers=1)
    with pytest.raises(RuntimeError, match="no such kernel"):
        run_latency(Networks(nets.unfolded, Broken().eval()), place, Effort(MIN_ROUNDS))
    assert torch.get_num_threads() == before

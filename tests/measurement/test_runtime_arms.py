"""The arms in ONNX Runtime: what each one really runs."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from service.errors import MeasurementRefused
from service.measurement import runtime_arms
from service.measurement.onnx_file import count_nodes, write_float_input
from service.measurement.runtime_arms import (
    NULL_CONTROL,
    PREPROCESSING_QUESTIONS,
    RUNTIME_QUESTIONS,
    THROUGHPUT_ARMS,
    AllowedDevice,
    Feed,
    GraphArm,
    SessionPlan,
    folding_arms,
    inspect_plan,
    installed_providers,
    measured_devices,
    multiplied_in,
    open_session,
    opencv_tensor,
    preprocessing_arms,
    random_images,
    session_run,
)
from tests.tiny_graphs import SIZE, Graphs


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Graphs:
    return Graphs(tmp_path_factory.mktemp("graphs"))


@pytest.fixture(scope="module")
def without(graphs: Graphs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The deployed graph without its preprocessing."""
    path = tmp_path_factory.mktemp("cut") / "without.onnx"
    write_float_input(graphs.deployed, path)
    return path


@pytest.fixture(scope="module")
def arms(graphs: Graphs, without: Path) -> list[GraphArm]:
    return [*folding_arms(graphs.reference, graphs.deployed, threads=2), *preprocessing_arms(without, threads=2)]


def ops(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(str(path)).graph.node]


def optimised(plan: SessionPlan, path: Path) -> list[str]:
    """Kinds of the nodes that ONNX Runtime makes of a graph."""
    open_session(plan, save_as=path)
    return ops(path)


@pytest.mark.parametrize("batch", [1, 3])
def test_the_arms_agree_on_a_batch(arms: list[GraphArm], batch: int) -> None:
    outputs = [arm.timed(random_images(SIZE, batch)).open()()[0] for arm in arms]
    assert len(outputs) == 7
    for output in outputs:
        assert output.shape == (batch, 4, SIZE, SIZE)
        np.testing.assert_allclose(output, outputs[0], rtol=1e-4, atol=1e-5)


def test_every_question_is_about_arms_that_there_are(arms: list[GraphArm]) -> None:
    names = {arm.name for arm in arms}
    assert len(names) == len(arms)
    for question in (NULL_CONTROL, *RUNTIME_QUESTIONS, *PREPROCESSING_QUESTIONS):
        assert {question.baseline, question.candidate} <= names
    assert set(THROUGHPUT_ARMS) <= names


def test_opencv_does_the_graphs_preprocessing() -> None:
    images = random_images(SIZE, 2)
    expected = images[..., ::-1].astype(np.float64).transpose(0, 3, 1, 2) / 255
    tensor = opencv_tensor(images)
    assert (tensor.dtype, tensor.shape) == (np.float32, (2, 3, SIZE, SIZE))
    np.testing.assert_allclose(tensor, expected, rtol=3e-7)


def test_onnxruntime_folds_by_itself_at_its_defaults(graphs: Graphs, tmp_path: Path) -> None:
    reference = optimised(SessionPlan(graphs.reference, 1), tmp_path / "reference.onnx")
    deployed = optimised(SessionPlan(graphs.deployed, 1), tmp_path / "deployed.onnx")
    assert "BatchNormalization" not in reference
    assert sorted(reference) == sorted(deployed)


def test_the_extended_pair_differs_in_batch_normalization_only(graphs: Graphs, tmp_path: Path) -> None:
    unfolded = optimised(SessionPlan(graphs.reference, 1, may_fold=False), tmp_path / "unfolded.onnx")
    folded = optimised(SessionPlan(graphs.deployed, 1, may_fold=False), tmp_path / "folded.onnx")
    assert unfolded.count("BatchNormalization") == 2
    assert [op for op in unfolded if op != "BatchNormalization"] == folded


def test_the_facts_are_those_of_what_is_executed(arms: list[GraphArm], tmp_path: Path) -> None:
    for arm in arms:
        executed = optimised(arm.plan, tmp_path / f"{arm.name}.onnx")
        assert arm.facts.nodes == len(executed)
        assert arm.facts.batch_normalizations == executed.count("BatchNormalization")
        assert arm.facts.bytes == arm.plan.graph.stat().st_size
        assert (arm.facts.engine, arm.facts.device, arm.facts.precision) == ("onnxruntime", "cpu", "fp32")
    kept = {arm.name: arm.facts.batch_normalizations for arm in arms if arm.facts.batch_normalizations}
    assert kept == {"ort_reference_unfolded": 2}


def test_a_runtime_that_folds_regardless_is_noticed(graphs: Graphs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime_arms, "FOLDING_OPTIMISERS", ())
    with pytest.raises(MeasurementRefused, match=r"kept 0 of 2 BatchNormalization nodes of reference\.onnx"):
        folding_arms(graphs.reference, graphs.deployed, 1)


def test_batch_normalization_turned_into_convolution_is_noticed(
    graphs: Graphs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime_arms, "EXTENDED", ort.GraphOptimizationLevel.ORT_ENABLE_ALL)
    with pytest.raises(MeasurementRefused, match="kept 0 of 2"):
        folding_arms(graphs.reference, graphs.deployed, 1)


def test_a_reference_without_batch_normalization_is_refused(graphs: Graphs) -> None:
    assert count_nodes(graphs.deployed)["BatchNormalization"] == 0
    with pytest.raises(MeasurementRefused, match=r"model\.onnx has no BatchNormalization"):
        folding_arms(graphs.deployed, graphs.deployed, 1)


def test_compared_sessions_differ_in_what_is_asked_only(graphs: Graphs, without: Path, arms: list[GraphArm]) -> None:
    reference, deployed = SessionPlan(graphs.reference, 2), SessionPlan(graphs.deployed, 2)
    assert {arm.name: arm.plan for arm in arms} == {
        "ort_reference_default": reference,
        "ort_reference_unfolded": replace(reference, may_fold=False),
        "ort_deployed_extended": replace(deployed, may_fold=False),
        "ort_deployed": deployed,
        "ort_deployed_copy": deployed,
        "ort_opencv_outside": SessionPlan(without, 2, feed="opencv"),
        "ort_tensor_ready": SessionPlan(without, 2, feed="tensor"),
    }


def test_each_opening_is_a_session_of_its_own(arms: list[GraphArm], monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[tuple[SessionPlan, ort.InferenceSession]] = []

    def spy(plan: SessionPlan) -> ort.InferenceSession:
        opened.append((plan, open_session(plan)))
        return opened[-1][1]

    monkeypatch.setattr(runtime_arms, "open_session", spy)
    for arm in arms:
        opened.clear()
        timed = arm.timed(random_images(SIZE, 2))
        assert opened == []
        timed.open(), timed.open()
        assert [plan for plan, _ in opened] == [arm.plan, arm.plan]
        assert opened[0][1] is not opened[1][1]


CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


@pytest.mark.parametrize(
    ("allowed", "providers", "devices"),
    [
        ("auto", [CPU], ["cpu"]),
        ("auto", [CUDA, CPU], ["cpu", "cuda"]),
        ("cuda", [CUDA, CPU], ["cpu", "cuda"]),
        ("cuda", [CPU], ["cpu"]),
        ("cpu", [CUDA, CPU], ["cpu"]),
    ],
)
def test_cuda_is_measured_where_it_is_installed_and_allowed(
    allowed: AllowedDevice, providers: list[str], devices: list[str]
) -> None:
    assert measured_devices(allowed, providers) == devices


def test_the_providers_are_those_of_the_installed_runtime() -> None:
    assert installed_providers() == ort.get_available_providers()


@pytest.mark.parametrize(
    ("options", "precision"),
    [
        ({CPU: {}}, "fp32"),
        ({CUDA: {"device_id": "0", "use_tf32": "1"}, CPU: {}}, "tf32"),
        ({CUDA: {"device_id": "0", "use_tf32": "0"}, CPU: {}}, "fp32"),
        ({CUDA: {"device_id": "0"}, CPU: {}}, "tf32"),  # releases that had no option for it used TF32
    ],
)
def test_cuda_multiplies_in_tf32_unless_told_not_to(options: dict[str, dict[str, str]], precision: str) -> None:
    assert multiplied_in(options) == precision


@pytest.mark.skipif(CUDA not in ort.get_available_providers(), reason="needs a GPU")
def test_an_arm_on_cuda_is_recorded_as_tf32(graphs: Graphs) -> None:
    facts = inspect_plan(SessionPlan(graphs.deployed, 1, "cuda"))
    assert (facts.device, facts.precision) == ("cuda", "tf32")


@pytest.mark.parametrize("feed", ["pixels", "opencv"])
def test_a_run_that_fails_is_refused_with_the_runtimes_reason(graphs: Graphs, without: Path, feed: Feed) -> None:
    """Pictures of another size than the graph takes, which only a run brings to light."""
    graph = graphs.deployed if feed == "pixels" else without
    run = session_run(SessionPlan(graph, 1, feed=feed), random_images(SIZE + 1, 1))
    with pytest.raises(MeasurementRefused, match=rf"(?s)cannot run {graph.name} on cpu: .*Got: {SIZE + 1}"):
        run()


def test_more_images_than_fit_into_memory_are_refused() -> None:
    with pytest.raises(MeasurementRefused, match="do not fit into memory"):
        random_images(640, 10**9)  # 1.2 PB


@pytest.mark.skipif(CUDA in ort.get_available_providers(), reason="CUDA may well start here")
def test_cuda_that_does_not_start_is_refused(graphs: Graphs) -> None:
    with pytest.raises(MeasurementRefused, match="CUDA"):
        inspect_plan(SessionPlan(graphs.deployed, 1, "cuda"))


def test_a_graph_that_cannot_be_loaded_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"nothing")
    with pytest.raises(MeasurementRefused, match=r"cannot load broken\.onnx on cpu"):
        open_session(SessionPlan(broken, 1))

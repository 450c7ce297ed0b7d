"""Both graphs in OpenVINO: what is timed, that all of it computes the same, and what is said where that cannot be."""

import math
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from service.bundle.int8 import GateBar, GateVerdict, Int8Gate, Int8Precision, Int8Spec, PictureList
from service.errors import MeasurementRefused
from service.machine import describe_machine, usable_cores
from service.measurement import bench, openvino_arms, study
from service.measurement.openvino_arms import NO_INT8, OpenVinoArms, share_cores
from service.measurement.openvino_session import OpenVinoPlan, inspect_openvino, openvino_run
from service.measurement.peak_memory import measure_peak
from service.measurement.quantized import QuantizedGraph
from service.measurement.runner import MIN_ROUNDS
from service.measurement.runtime_arms import RUNTIME_QUESTIONS, SessionPlan, random_images, session_run
from service.measurement.study import Effort, Place, run_study
from tests.conftest import ROOT, clean_environ
from tests.inference.processors import HAS_BF16, needs_bf16
from tests.tiny_graphs import SIZE, Graphs

CALLERS = 2
WAYS: tuple[Int8Precision, ...] = ("int8+bf16", "int8+fp32")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    graphs = Graphs(tmp_path_factory.mktemp("graphs"))
    return Place(graphs.reference, graphs.deployed, SIZE, threads=1, callers=CALLERS, device="cpu")


@pytest.fixture
def only_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a processor without bf16."""
    monkeypatch.setattr(openvino_arms, "float_precisions", lambda: ["fp32"])


@pytest.mark.parametrize("batch", [1, 3])
def test_both_graphs_compute_what_they_do_in_onnx_runtime(place: Place, batch: int) -> None:
    images = random_images(SIZE, batch)
    expected = session_run(SessionPlan(place.deployed, 1), images)()[0]
    for graph in (place.reference, place.deployed):
        found = openvino_run(OpenVinoPlan(graph, "fp32", threads=1), images)()
        np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_openvino_executes_no_batchnorm_of_its_own_accord(place: Place) -> None:
    reference, deployed = (
        inspect_openvino(OpenVinoPlan(graph, "fp32", 1)) for graph in (place.reference, place.deployed)
    )
    assert (reference.engine, reference.precision, reference.batch_normalizations) == ("openvino", "fp32", 0)
    assert reference.nodes == deployed.nodes, "it folds by itself"
    assert reference.bytes == place.reference.stat().st_size != deployed.bytes


def test_several_threads_run_one_graph(place: Place) -> None:
    images, found = random_images(SIZE, 1), list[np.ndarray]()
    run = openvino_run(OpenVinoPlan(place.deployed, "fp32", threads=1, streams=3), images)
    threads = [threading.Thread(target=lambda: found.append(run())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    expected = run()
    assert len(found) == 3 and all(np.array_equal(answer, expected) for answer in found)


@pytest.mark.usefixtures("only_fp32")
def test_the_report_has_its_arms_in_latency_throughput_and_memory(place: Place) -> None:
    report = run_study(place, Effort(MIN_ROUNDS, thorough=True), more=OpenVinoArms(place))
    latency, throughput = report.series
    names = {"openvino_reference_fp32", "openvino_deployed_fp32"}
    for series in (latency, throughput):
        arms = [arm for arm in series.arms if arm.engine == "openvino"]
        assert {arm.name for arm in arms} == names
        assert all(arm.median_ms > 0 and arm.load_ms > 0 and arm.precision == "fp32" for arm in arms)
        answers = {answer.name: (answer.baseline, answer.candidate) for answer in series.comparisons}
        assert answers["folding_when_openvino_folds_itself_fp32"] == tuple(sorted(names, reverse=True))
        assert answers["openvino_fp32"] == ("ort_deployed", "openvino_deployed_fp32")
        assert "folding_when_runtime_folds_itself" in answers
    assert names <= {item.arm for item in report.memory}
    assert "openvino_bf16" in {item.name for item in report.not_measured}


@needs_bf16
def test_where_the_processor_has_bf16_it_is_measured_too(place: Place) -> None:
    arms = OpenVinoArms(place)
    names = [arm.name for arm in arms.timed(random_images(SIZE, 1))]
    graphs = ("reference", "deployed")
    assert names == [f"openvino_{graph}_{precision}" for precision in ("fp32", "bf16") for graph in graphs]
    assert "openvino_bf16" in {question.name for question in arms.questions} and arms.not_measured == [NO_INT8]


@pytest.mark.parametrize(
    ("chosen", "threads", "callers", "cores", "streams", "of_each"),
    [
        (False, 2, 2, 2, 2, 1),
        (False, 2, 16, 2, 2, 1),  # never more streams than cores
        (False, 8, 3, 8, 3, 3),  # rather a thread too many than a core left idle
        (True, 3, 4, 8, 2, 3),
        (True, 16, 4, 8, 1, 16),
        (True, 8, 4, 8, 1, 8),  # as many as there are cores, but because somebody said so
    ],
)
def test_callers_share_the_cores_as_they_do_of_the_served_network(
    chosen: bool, threads: int, callers: int, cores: int, streams: int, of_each: int
) -> None:
    plan = share_cores(OpenVinoPlan(Path("model.onnx"), "fp32", threads), callers, cores, chosen=chosen)
    assert (plan.streams, plan.threads) == (streams, of_each)


@pytest.mark.parametrize("chosen", [False, True])
def test_bursts_go_by_whether_threads_were_chosen(place: Place, chosen: bool) -> None:
    cores = usable_cores()
    arms = OpenVinoArms(replace(place, threads=cores, threads_chosen=chosen)).under_load(cores)
    assert {(arm.plan.streams, arm.plan.threads) for arm in arms} == {(1, cores) if chosen else (cores, 1)}


@pytest.mark.usefixtures("only_fp32")
@pytest.mark.parametrize("first", [True, False])
def test_its_questions_come_before_or_after_those_of_onnx_runtime(place: Place, first: bool) -> None:
    arms = OpenVinoArms(place)
    arms.asked_first = first
    report = run_study(place, Effort(MIN_ROUNDS), more=arms)
    asked = [answer.name for answer in report.series[0].comparisons]
    own = [question.name for question in RUNTIME_QUESTIONS]
    assert (asked[2:] if first else asked[:2]) == own and len(asked) == 4


@pytest.mark.usefixtures("only_fp32")
@pytest.mark.parametrize("fails_in", ["latency on cpu, batch 4", "throughput on cpu, batch 1"])
def test_where_it_fails_the_others_are_measured_without_it(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_in: str
) -> None:
    monkeypatch.setattr(study._Study, "_measure_memory", lambda *_: None)
    copies = [Path(shutil.copy(graph, tmp_path)) for graph in (place.reference, place.deployed)]
    arms = OpenVinoArms(replace(place, reference=copies[0], deployed=copies[1]))

    def break_its_graphs(stage: str, *_: int) -> None:
        for copy in copies if stage == fails_in else ():
            copy.write_bytes(b"no graph")

    effort = Effort(MIN_ROUNDS, math.inf, thorough=True, batches=(1, 4))
    report = run_study(place, effort, more=arms, progress=break_its_graphs)
    found = {f"{s.kind} on cpu, batch {s.batch}": {arm.engine for arm in s.arms} for s in report.series}
    stages = [f"{kind} on cpu, batch {batch}" for kind in ("latency", "throughput") for batch in (1, 4)]
    both, alone = {"onnxruntime", "openvino"}, {"onnxruntime"}
    assert found == {stage: both if n < stages.index(fails_in) else alone for n, stage in enumerate(stages)}
    assert all("folding_when_runtime_folds_itself" in {a.name for a in s.comparisons} for s in report.series)
    said = [item for item in report.not_measured if item.reason.startswith(f"{fails_in}: OpenVINO cannot load ")]
    assert [item.name for item in said] == [question.name for question in arms.questions]


def test_memory_is_that_of_a_process_of_its_own(place: Place, tmp_path: Path) -> None:
    program = OpenVinoArms(place).programs(SIZE, 2, tmp_path)["openvino_deployed_fp32"]
    found = measure_peak("openvino_deployed_fp32", 2, program, lambda: None)
    assert 10_000_000 < found.baseline_bytes < found.peak_bytes


def test_a_graph_that_cannot_be_loaded_or_run_is_refused_with_the_reason(place: Place, tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no graph")
    with pytest.raises(MeasurementRefused, match=r"OpenVINO cannot load broken\.onnx: "):
        openvino_run(OpenVinoPlan(broken, "fp32", 1), random_images(SIZE, 1))
    with pytest.raises(MeasurementRefused, match=r"OpenVINO cannot run model\.onnx: "):
        openvino_run(OpenVinoPlan(place.deployed, "fp32", 1), random_images(2 * SIZE, 1))()


def test_where_it_is_not_installed_the_report_says_so(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "find_spec", lambda name: None)
    said = {item.name: item.reason for item in bench._openvino(place, None).not_measured}
    assert said["openvino"] == said["openvino_int8"] == "OpenVINO is not installed." and "torch" in said


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("ImportError('libopenvino.so is gone')", "ImportError: libopenvino.so is gone"),
        ("RuntimeError('no such instruction')", "RuntimeError: no such instruction"),
    ],
)
def test_one_that_is_installed_and_broken_is_said(place: Place, tmp_path: Path, fault: str, reason: str) -> None:
    (tmp_path / "openvino.py").write_text(f"raise {fault}")
    program = f"""
from pathlib import Path
from service.measurement.bench import _openvino
from service.measurement.study import Place
place = Place(Path({str(place.reference)!r}), Path({str(place.deployed)!r}), {SIZE}, 1, 1)
print(*(item.reason for item in _openvino(place, None).not_measured if item.name == "openvino"))
"""
    environ = clean_environ() | {"PYTHONPATH": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environ, check=True, stdout=subprocess.PIPE, text=True
    )
    assert run.stdout == f"OpenVINO cannot be loaded: {reason}\n"


def test_the_measurement_needs_no_openvino() -> None:
    program = "import sys; import service.measurement.bench; sys.exit(sys.modules.get('openvino') is not None)"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=clean_environ(), check=True)


@pytest.fixture(scope="module")
def quantized(place: Place, tmp_path_factory: pytest.TempPathFactory) -> QuantizedGraph:
    """The deployed graph in int8, as ``quantize`` makes it, and what a gate would have said that let it pass."""
    from service.quantization.graph import quantize_graph  # brings the quantizer, hence only where it is needed

    graph = tmp_path_factory.mktemp("int8") / "model.int8.onnx"
    written = quantize_graph(place.deployed, graph, iter(random_images(SIZE, 8)), [], 7)
    pictures = PictureList(pictures=1, sha256="0" * 64)
    ways = [
        GateVerdict(
            precision=way, runtime="", boxes=200, repeated=200, new=0, repeated_at_least=0.98, passed=True, reason=None
        )
        for way in WAYS
    ]
    bar = GateBar(iou=0.9, confidence=0.05, share=0.95, least_boxes=100)
    gate = Int8Gate(folder="pictures", pictures=pictures, bar=bar, ways=ways, machine=describe_machine())
    spec = Int8Spec(
        source_version="0" * 12,
        quantizer="",
        graph=written,
        weight_bits=7,
        convolutions=2,
        kept_in_float=[],
        calibration=pictures,
        gate=gate,
    )
    return QuantizedGraph(graph, spec)


def judged(quantized: QuantizedGraph, **changes: object) -> QuantizedGraph:
    """The same with other verdicts or weights."""
    return replace(quantized, spec=quantized.spec.model_copy(update=changes))


def test_int8_is_timed_where_the_bundle_holds_it(place: Place, quantized: QuantizedGraph) -> None:
    arms = OpenVinoArms(place, (), quantized)
    report = run_study(place, Effort(MIN_ROUNDS, thorough=True), more=arms)
    for series in report.series:
        found = {arm.name: arm for arm in series.arms}
        answers = {answer.name: (answer.baseline, answer.candidate) for answer in series.comparisons}
        for way in WAYS if HAS_BF16 else WAYS[1:]:
            floats = way.removeprefix("int8+")
            arm = found[f"openvino_int8_{floats}"]
            assert (arm.engine, arm.precision) == ("openvino", way) and arm.median_ms > 0
            assert arm.bytes == quantized.graph.stat().st_size
            assert answers[f"int8_in_openvino_{floats}"] == (f"openvino_deployed_{floats}", arm.name)
            assert answers[f"openvino_int8_{floats}"] == ("ort_deployed", arm.name)
    assert "openvino_int8_fp32" in {item.arm for item in report.memory}
    left = {item.name: item.reason for item in report.not_measured}
    assert ("openvino_int8_bf16" in left) != HAS_BF16


def test_what_is_timed_as_int8_computes_in_int8(place: Place, quantized: QuantizedGraph) -> None:
    images = random_images(SIZE, 1)
    exact = openvino_run(OpenVinoPlan(place.deployed, "fp32", 1), images)()
    coarse = openvino_run(OpenVinoPlan(quantized.graph, "fp32", 1), images)()
    apart = np.abs(coarse - exact).max() / np.abs(exact).max()
    assert 1e-3 < apart < 0.2, "another result, and the same network"


@pytest.mark.usefixtures("only_fp32")
@pytest.mark.parametrize(
    ("changes", "dot_products", "reason"),
    [
        ({"weight_bits": 8}, False, "Its 8-bit weights need VNNI or its like, which this processor lacks."),
        ({"passed": ()}, True, "It did not pass: it does not"),
        ({"ways": ()}, True, "Where the bundle was quantized, this could not be judged."),
    ],
)
def test_int8_that_may_not_be_served_here_is_named_with_the_reason(
    place: Place,
    quantized: QuantizedGraph,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict,
    dot_products: bool,
    reason: str,
) -> None:
    monkeypatch.setattr(openvino_arms, "has_int8_dot_products", lambda: dot_products)
    gate = quantized.spec.gate
    if "passed" in changes:
        ways = [way.model_copy(update={"passed": False, "reason": "it does not"}) for way in gate.ways]
        changes = {"gate": gate.model_copy(update={"ways": ways})}
    elif "ways" in changes:
        changes = {"gate": gate.model_copy(update={"ways": []})}
    arms = OpenVinoArms(place, (), judged(quantized, **changes))
    assert not any("int8" in question.name for question in arms.questions)
    left = {item.name: item.reason for item in arms.not_measured}
    assert left["int8_in_openvino_fp32"] == left["openvino_int8_fp32"] == reason
    assert "int8_in_openvino_bf16" in left


def test_a_bundle_without_int8_says_what_makes_one(place: Place) -> None:
    left = {item.name: item.reason for item in bench._openvino(place, None).not_measured}
    assert "`python -m service quantize`" in left["openvino_int8"] and "onnxruntime_int8" in left

"""What makes up a report: which series, with which arms, and what is said of the rest."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from service.bundle.latency import LatencyReport
from service.errors import MeasurementCancelled, MeasurementRefused
from service.machine import describe_machine
from service.measurement import study
from service.measurement.runner import MIN_ROUNDS, whole_sessions
from service.measurement.runtime_arms import NULL_CONTROL, PREPROCESSING_QUESTIONS, RUNTIME_QUESTIONS, THROUGHPUT_ARMS
from service.measurement.study import LEFT_OUT, Effort, Place, run_study
from service.measurement.terminal import report_lines
from service.measurement.throughput import RUNS_PER_CALLER
from service.measurement.traffic import NoTraffic
from tests.tiny_graphs import SIZE, Graphs

FOLDING_ARMS = {
    "ort_reference_default",
    "ort_reference_unfolded",
    "ort_deployed_extended",
    "ort_deployed",
    "ort_deployed_copy",
}
PREPROCESSING_ARMS = {"ort_opencv_outside", "ort_tensor_ready"}
CALLERS = 3


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    graphs = Graphs(tmp_path_factory.mktemp("graphs"))
    return Place(graphs.reference, graphs.deployed, SIZE, threads=1, callers=CALLERS, device="cpu")


@pytest.fixture(scope="module")
def calls() -> list[tuple[str, int, int]]:
    """Progress of the thorough measurement."""
    return []


@pytest.fixture(scope="module")
def thorough(place: Place, calls: list[tuple[str, int, int]]) -> LatencyReport:
    effort = Effort(MIN_ROUNDS, budget_s=math.inf, thorough=True, batches=(1, 4))
    return run_study(place, effort, progress=lambda *call: calls.append(call))


@pytest.fixture(autouse=True, scope="module")
def cuda_installed() -> None:
    """All that a machine without a GPU can show is where CUDA would be used."""
    patch = pytest.MonkeyPatch()
    patch.setattr(study, "installed_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    yield
    patch.undo()


def test_a_quick_measurement_is_folding_of_one_image_and_says_what_it_leaves_out(place: Place) -> None:
    report = run_study(place, Effort(MIN_ROUNDS))
    (series,) = report.series
    assert (series.kind, series.device, series.batch, series.callers) == ("latency", "cpu", 1, 1)
    assert {arm.name for arm in series.arms} == FOLDING_ARMS
    assert report.memory == []
    left = [question.name for question in PREPROCESSING_QUESTIONS] + ["throughput", "peak_memory"]
    assert [item.name for item in report.not_measured] == left
    assert {item.reason for item in report.not_measured} == {LEFT_OUT}
    assert (report.imgsz, report.threads, report.machine) == (SIZE, 1, describe_machine())


def test_questions_that_the_time_does_not_do_for_are_named_with_the_reason(place: Place) -> None:
    report = run_study(place, Effort(MIN_ROUNDS, budget_s=0.001))
    (series,) = report.series
    (answered,) = series.comparisons
    (given_up,) = [item for item in report.not_measured if item.reason != LEFT_OUT]
    assert {answered.name, given_up.name} == {question.name for question in RUNTIME_QUESTIONS}
    assert "too slow here for the 0.001 s" in given_up.reason
    assert {arm.name for arm in series.arms} == NULL_CONTROL.arms | {answered.baseline, answered.candidate}


def test_a_thorough_one_has_latency_and_throughput_at_every_batch(thorough: LatencyReport) -> None:
    assert [(s.kind, s.batch, s.callers, s.runs_per_caller) for s in thorough.series] == [
        ("latency", 1, 1, 1),
        ("latency", 4, 1, 1),
        ("throughput", 1, CALLERS, RUNS_PER_CALLER),
        ("throughput", 4, CALLERS, RUNS_PER_CALLER),
    ]
    for series in thorough.series:
        names = {arm.name for arm in series.arms}
        latency = series.kind == "latency"
        assert names == (FOLDING_ARMS | PREPROCESSING_ARMS if latency else set(THROUGHPUT_ARMS))
        assert {series.null_control.baseline, series.null_control.candidate} == {"ort_deployed", "ort_deployed_copy"}
        for answer in series.comparisons:
            assert {answer.baseline, answer.candidate} <= names
            assert answer.ci95_low <= answer.speedup <= answer.ci95_high
        images = series.batch * series.callers * series.runs_per_caller
        for arm in series.arms:
            assert arm.samples == series.rounds == MIN_ROUNDS
            assert arm.images_per_second == pytest.approx(1e3 * images / arm.median_ms)
            assert arm.nodes and arm.bytes and arm.load_ms > 0
    questions = [answer.name for answer in thorough.series[0].comparisons]
    assert questions == [
        "folding_when_runtime_cannot",
        "folding_when_runtime_folds_itself",
        "preprocessing_in_graph",
        "without_preprocessing",
    ]
    assert [a.name for a in thorough.series[2].comparisons] == ["folding_when_runtime_folds_itself"]


def test_memory_is_measured_at_both_ends_of_the_batches_for_all_but_the_copy(thorough: LatencyReport) -> None:
    names = (FOLDING_ARMS | PREPROCESSING_ARMS) - {"ort_deployed_copy"}
    assert {(item.arm, item.batch) for item in thorough.memory} == {(name, batch) for name in names for batch in (1, 4)}
    for item in thorough.memory:
        assert 10_000_000 < item.baseline_bytes <= item.peak_bytes  # an interpreter alone takes as much


def test_the_report_survives_its_own_schema(thorough: LatencyReport) -> None:
    assert LatencyReport.model_validate_json(thorough.model_dump_json()) == thorough


def test_progress_runs_through_all_series(thorough: LatencyReport, calls: list[tuple[str, int, int]]) -> None:
    total = 4 * whole_sessions(MIN_ROUNDS)
    assert {wanted for _, _, wanted in calls} == {total}
    done = [done for _, done, _ in calls]
    assert (done[0], done[-1], done) == (0, total, sorted(done))
    assert list(dict.fromkeys(stage for stage, _, _ in calls)) == [
        "latency on cpu, batch 1",
        "latency on cpu, batch 4",
        "throughput on cpu, batch 1",
        "throughput on cpu, batch 4",
        "peak memory, batch 1",
        "peak memory, batch 4",
    ]


def test_a_setting_that_forbids_cuda_is_obeyed_and_said(thorough: LatencyReport) -> None:
    assert {series.device for series in thorough.series} == {"cpu"}
    assert [(item.name, item.reason) for item in thorough.not_measured] == [
        ("cuda", "YOLOFOLD_DEVICE=cpu keeps the measurement on the processor.")
    ]


def test_a_device_that_does_not_start_is_said_and_the_rest_measured(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study._Study, "_measure_memory", lambda *_: None)
    open_arms = study.folding_arms

    def no_cuda(reference: Path, deployed: Path, threads: int, device: str) -> list:
        if device == "cuda":
            raise MeasurementRefused("its driver is missing")
        return open_arms(reference, deployed, threads)

    monkeypatch.setattr(study, "folding_arms", no_cuda)
    report = run_study(replace(place, device="auto"), Effort(MIN_ROUNDS, thorough=True))
    assert [(s.kind, s.device) for s in report.series] == [("latency", "cpu"), ("throughput", "cpu")]
    assert [(item.name, item.reason) for item in report.not_measured] == [("cuda", "its driver is missing")]


def test_a_graph_that_cannot_be_cut_is_said_and_the_rest_measured(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(study, "write_float_input", refuse)
    monkeypatch.setattr(study, "installed_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(study._Study, "_measure_memory", lambda *_: None)
    report = run_study(replace(place, device="auto"), Effort(MIN_ROUNDS, thorough=True))
    assert {arm.name for arm in report.series[0].arms} == FOLDING_ARMS
    said = {item.name: item.reason for item in report.not_measured}
    assert all(said[question.name] == "No space left on device" for question in PREPROCESSING_QUESTIONS)
    assert said["cuda"] == "The installed ONNX Runtime has no CUDA provider."


def test_memory_that_cannot_be_measured_is_said(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(arm: str, *_: object) -> None:
        raise MeasurementRefused(f"{arm} ended with code -9")

    monkeypatch.setattr(study, "measure_peak", refuse)
    report = run_study(place, Effort(MIN_ROUNDS, thorough=True))
    assert report.memory == []
    said = [item.reason for item in report.not_measured if item.name == "peak_memory"]
    assert "ort_tensor_ready ended with code -9" in said and len(said) == 6


def test_too_few_rounds_are_refused(place: Place) -> None:
    with pytest.raises(MeasurementRefused, match=f"at least {MIN_ROUNDS} rounds"):
        run_study(place, Effort(MIN_ROUNDS - 1))


@pytest.mark.parametrize("after", [0, 1, 30, 107])
def test_a_cancelled_measurement_ends_wherever_it_is(place: Place, after: int) -> None:
    class Cancelled(NoTraffic):
        waits = 0

        def wait_until_quiet(self) -> int:
            self.waits += 1
            if self.waits > after:
                raise MeasurementCancelled("asked to end")
            return 0

    with pytest.raises(MeasurementCancelled, match="asked to end"):
        run_study(place, Effort(MIN_ROUNDS, thorough=True), traffic=Cancelled())


def test_it_ends_while_memory_is_measured_too(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study._Study, "_measure", lambda *_: None)  # the timing, which takes longest

    class Cancelled(NoTraffic):
        def require_wanted(self) -> None:
            raise MeasurementCancelled("asked to end")

    with pytest.raises(MeasurementCancelled, match="asked to end"):
        run_study(place, Effort(MIN_ROUNDS, thorough=True), traffic=Cancelled())


def test_a_graph_that_cannot_be_run_fails_the_measurement_with_the_reason(place: Place) -> None:
    with pytest.raises(MeasurementRefused, match=r"ONNX Runtime cannot run (reference|model)\.onnx on cpu: "):
        run_study(replace(place, imgsz=SIZE + 1), Effort(MIN_ROUNDS))


def test_the_terminal_shows_everything(thorough: LatencyReport) -> None:
    text = "\n".join(report_lines(thorough))
    for series in thorough.series:
        for answer in (series.null_control, *series.comparisons):
            assert answer.question in text
        for arm in series.arms:
            assert arm.title in text and f"{arm.images_per_second:.1f} images/s" in text
    for item in thorough.memory:
        assert f"{(item.peak_bytes - item.baseline_bytes) / 1e6:.1f} MB above" in text
    for left in thorough.not_measured:
        assert left.reason in text
    assert text.count("dropped") == len(thorough.series)

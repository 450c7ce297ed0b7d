"""Candidates side by side: the wrong are refused, the slow dropped, and time is kept to."""

import shutil
import threading
import time
import weakref
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from service.bundle.store import Bundle
from service.errors import EngineError
from service.inference.engine import InferenceEngine
from service.inference.onnxruntime_engine import OnnxRuntimeEngine
from service.inference.openvino_engine import OpenVinoEngine
from service.inference.self_check import check_engine
from service.tuning.pictures import comparison_pictures
from service.tuning.records import Candidate, CandidateResult
from service.tuning.selection import choose
from service.tuning.tolerance import LEAST_BOXES, Reference
from service.tuning.trial import Budget, Entry, Trial
from tests.bundles import change_bias
from tests.inference.processors import needs_bf16
from tests.tuning.choices import candidate

PICTURES = 4


@pytest.fixture(scope="module")
def plain(bundle: Bundle) -> OnnxRuntimeEngine:
    return OnnxRuntimeEngine(bundle.deployed_graph, "cpu", 2)


@pytest.fixture(scope="module")
def all_pictures(bundle: Bundle) -> list[np.ndarray]:
    return comparison_pictures(bundle)


@pytest.fixture(scope="module")
def pictures(all_pictures: list[np.ndarray]) -> list[np.ndarray]:
    return all_pictures[:PICTURES]


@pytest.fixture(scope="module")
def answers(plain: OnnxRuntimeEngine, pictures: list[np.ndarray]) -> list[np.ndarray]:
    return [plain.run(picture[None])[0] for picture in pictures]


def used_up() -> Budget:
    """One round, and nothing is loaded after it."""
    return Budget(seconds=1e-9)


def test_the_pictures_differ_and_fit(bundle: Bundle, all_pictures: list[np.ndarray]) -> None:
    side = bundle.manifest.model.input.height
    assert len({picture.tobytes() for picture in all_pictures}) == len(all_pictures) == 21
    for picture in all_pictures:
        assert (picture.shape, picture.dtype) == ((side, side, 3), np.uint8)
        assert picture.flags.c_contiguous and picture.std() > 10
    np.testing.assert_array_equal(all_pictures[0], bundle.self_check_arrays()[0])
    np.testing.assert_array_equal(all_pictures[3], all_pictures[0][:, ::-1])


def wrong_graph(bundle: Bundle, folder: Path) -> Path:
    """The deployed graph with the sign of one convolution's biases changed."""
    graph = Path(shutil.copy(bundle.deployed_graph, folder / "wrong.onnx"))
    change_bias(graph, "model.4.cv1", np.negative)
    return graph


def no_check(engine: InferenceEngine) -> None:
    """Stands for a start-up check that notices nothing."""


@pytest.mark.parametrize("checked", [True, False], ids=["start-up check", "comparison"])
def test_a_wrong_candidate_is_refused_and_never_chosen(
    bundle: Bundle,
    plain: OnnxRuntimeEngine,
    pictures: list[np.ndarray],
    answers: list[np.ndarray],
    tmp_path: Path,
    checked: bool,
) -> None:
    graph = wrong_graph(bundle, tmp_path)

    def missing() -> InferenceEngine:
        raise EngineError("its library is missing")

    entries = [
        Entry(candidate("openvino"), lambda: OpenVinoEngine(graph, "fp32", 2, 1)),
        Entry(candidate("openvino", threads=1), missing),
        Entry(candidate(), lambda: plain),
        Entry(candidate("onnxruntime", "tf32", device="cuda"), missing),
    ]
    approve = partial(check_engine, bundle) if checked else no_check
    trial = Trial(entries, pictures, Reference(bundle, answers), approve, "balanced", used_up())
    wrong, layout, right, absent = choose(trial.run(), "balanced")
    assert (wrong.verdict, wrong.latency_ms, wrong.runs) == ("refused", None, 0)
    assert ("does not compute what" if checked else f"in {PICTURES} of {PICTURES} pictures") in wrong.reason
    # What is refused is refused with any number of threads; it is not even loaded.
    assert (layout.verdict, layout.reason) == ("not_measured", "its kind refused in another layout")
    assert (right.verdict, right.boxes, right.boxes_matched, right.box_px) == ("chosen", 200, 200, 0.0)
    assert right.runs == 6 and right.latency_ms is not None and right.latency_ms > 0
    assert (absent.verdict, absent.reason) == ("failed", "its library is missing")


@needs_bf16
def test_bf16_passes_and_the_wrong_graph_does_not_pass_for_it(
    bundle: Bundle, plain: OnnxRuntimeEngine, all_pictures: list[np.ndarray], tmp_path: Path
) -> None:
    reference = Reference(bundle, [plain.run(picture[None])[0] for picture in all_pictures])
    rounded, wrong = (
        reference.judge("bf16", [engine.run(picture[None])[0] for picture in all_pictures])
        for engine in (
            OpenVinoEngine(bundle.deployed_graph, "bf16", 2, 1),
            OnnxRuntimeEngine(wrong_graph(bundle, tmp_path), "cpu", 2),
        )
    )
    assert rounded.fault is None and rounded.boxes >= LEAST_BOXES
    assert 0 < rounded.confidence < 0.05
    assert wrong.fault is not None


class ReplayEngine:
    """Answers at once, or after a while, what another engine answered."""

    provider, runtime, precision, threads = "replay", "replay", "fp32", 1

    def __init__(self, pictures: list[np.ndarray], answers: list[np.ndarray], delay_s: float = 0.0) -> None:
        self._answers = {p.tobytes(): a for p, a in zip(pictures, answers, strict=True)}
        self.delay_s, self.fails = delay_s, False
        self.runs, self.at_once, self._running, self._lock = 0, 0, 0, threading.Lock()

    def run(self, images: np.ndarray) -> np.ndarray:
        with self._lock:
            self.runs, self._running = self.runs + 1, self._running + 1
            self.at_once = max(self.at_once, self._running)
        time.sleep(self.delay_s)
        with self._lock:
            self._running -= 1
        if self.fails:
            raise EngineError("out of memory")
        return self._answers[images[0].tobytes()][None]


class Stage:
    """A trial of engines that replay, each loaded when it is asked for."""

    def __init__(self, bundle: Bundle, pictures: list[np.ndarray], answers: list[np.ndarray], budget: Budget) -> None:
        self._bundle, self._pictures, self._answers, self._budget = bundle, pictures, answers, budget
        self._entries: list[Entry] = []
        self.loaded: dict[Candidate, ReplayEngine] = {}

    def add(self, who: Candidate, delay_s: float) -> Candidate:
        def load() -> ReplayEngine:
            self.loaded[who] = ReplayEngine(self._pictures, self._answers, delay_s)
            return self.loaded[who]

        self._entries.append(Entry(who, load))  # type: ignore[arg-type]
        return who

    def run(self) -> dict[Candidate, CandidateResult]:
        reference = Reference(self._bundle, self._answers)
        trial = Trial(self._entries, self._pictures, reference, no_check, "balanced", self._budget)
        found = trial.run()
        assert [result.candidate for result in found] == [entry.candidate for entry in self._entries]
        return {result.candidate: result for result in found}


def test_who_is_clearly_behind_is_dropped_with_all_its_layouts(
    bundle: Bundle, pictures: list[np.ndarray], answers: list[np.ndarray]
) -> None:
    stage = Stage(bundle, pictures, answers, Budget(seconds=600))
    slow, slow_too = stage.add(candidate(), 0.4), stage.add(candidate(threads=1), 0.0)
    fast, rival = stage.add(candidate("openvino"), 0.05), stage.add(candidate("openvino", threads=1, workers=4), 0.05)
    found = stage.run()
    assert (found[slow].verdict, found[slow].runs) == ("slower", 3)
    assert found[slow].latency_ms is not None and found[slow].latency_ms >= 400
    assert (found[slow_too].verdict, found[slow_too].reason) == ("not_measured", "clearly behind in another layout")
    assert slow_too not in stage.loaded
    assert found[fast].runs > 3 and found[rival].runs >= 3
    # As many callers as workers, each with runs of 50 ms.
    assert stage.loaded[fast].at_once == 2 and stage.loaded[rival].at_once == 4
    assert found[rival].images_per_second is not None and found[rival].images_per_second <= 4 / 0.05


def test_when_time_is_up_no_more_is_loaded_but_what_is_loaded_gets_its_turn(
    bundle: Bundle, pictures: list[np.ndarray], answers: list[np.ndarray]
) -> None:
    stage = Stage(bundle, pictures, answers, used_up())
    first, second = stage.add(candidate(), 0.0), stage.add(candidate("openvino"), 0.0)
    layouts = [stage.add(candidate(threads=1), 0.0), stage.add(candidate("openvino", threads=1), 0.0)]
    found = stage.run()
    assert all(found[who].runs >= 3 and found[who].images_per_second for who in (first, second))
    assert list(stage.loaded) == [first, second]
    assert not any(found[who].measured for who in layouts)


def test_one_that_fails_in_the_middle_spoils_nothing(
    bundle: Bundle, pictures: list[np.ndarray], answers: list[np.ndarray]
) -> None:
    class FailsLater(ReplayEngine):
        def run(self, images: np.ndarray) -> np.ndarray:
            self.fails = self.runs >= len(pictures) + 1
            return super().run(images)

    failing = Entry(candidate(), lambda: FailsLater(pictures, answers))  # type: ignore[arg-type,return-value]
    sound = Entry(candidate("openvino"), lambda: ReplayEngine(pictures, answers))  # type: ignore[arg-type,return-value]
    trial = Trial([failing, sound], pictures, Reference(bundle, answers), no_check, "balanced", used_up())
    first, second = choose(trial.run(), "balanced")
    assert (first.verdict, first.reason, first.boxes_matched) == ("failed", "out of memory", 200)
    assert second.verdict == "chosen"


def test_whatever_a_candidate_raises_is_its_own_failure(
    bundle: Bundle, pictures: list[np.ndarray], answers: list[np.ndarray]
) -> None:
    def no_room() -> InferenceEngine:
        raise MemoryError

    class Broken(ReplayEngine):
        def run(self, images: np.ndarray) -> np.ndarray:
            if self.runs > len(pictures):
                raise RuntimeError("the driver is gone")
            return super().run(images)

    def refuse_odd(engine: InferenceEngine) -> None:
        if engine.runtime == "odd":
            raise ZeroDivisionError("in the check")

    odd = ReplayEngine(pictures, answers)
    odd.runtime = "odd"
    entries = [
        Entry(candidate(), no_room),
        Entry(candidate("openvino"), lambda: Broken(pictures, answers)),  # type: ignore[arg-type,return-value]
        Entry(candidate("openvino", "bf16"), lambda: odd),  # type: ignore[arg-type,return-value]
        Entry(candidate("onnxruntime", "tf32", device="cuda"), lambda: ReplayEngine(pictures, answers)),  # type: ignore[arg-type,return-value]
    ]
    trial = Trial(entries, pictures, Reference(bundle, answers), refuse_odd, "balanced", used_up())
    *failed, sound = choose(trial.run(), "balanced")
    assert [(result.verdict, result.reason) for result in failed] == [
        ("failed", "MemoryError"),
        ("failed", "RuntimeError: the driver is gone"),
        ("failed", "ZeroDivisionError: in the check"),
    ]
    assert sound.verdict == "chosen"


def test_an_engine_out_of_the_race_is_given_back_while_others_run(
    bundle: Bundle, pictures: list[np.ndarray], answers: list[np.ndarray]
) -> None:
    slow: list[weakref.ref[ReplayEngine]] = []
    loaded_at_layout: list[bool] = []

    def load_slow() -> ReplayEngine:
        engine = ReplayEngine(pictures, answers, 0.3)
        slow.append(weakref.ref(engine))
        return engine

    def load_layout() -> ReplayEngine:
        loaded_at_layout.append(slow[0]() is not None)
        return ReplayEngine(pictures, answers)

    entries = [
        Entry(candidate(), load_slow),  # type: ignore[arg-type]
        Entry(candidate("openvino"), lambda: ReplayEngine(pictures, answers)),  # type: ignore[arg-type,return-value]
        Entry(candidate("openvino", threads=1), load_layout),  # type: ignore[arg-type]
    ]
    trial = Trial(entries, pictures, Reference(bundle, answers), no_check, "balanced", Budget(seconds=600))
    found = trial.run()
    assert loaded_at_layout == [False]
    assert found[0].latency_ms is not None  # its figures are still told

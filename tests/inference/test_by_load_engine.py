"""Which of two real engines a run goes to; when runs begin and end is up to the test."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue

import numpy as np
import pytest

from service.bundle.store import Bundle
from service.errors import EngineError, SelfCheckFailed
from service.inference.by_load_engine import ByLoadEngine
from service.inference.engine_choice import open_engine
from service.inference.onnxruntime_engine import OnnxRuntimeEngine
from service.inference.self_check import check_engine
from service.settings import load_settings
from tests.inference.test_startup_check import AlteredEngine


@dataclass(frozen=True)
class HeldRun:
    """A run that has begun and waits."""

    engine: str
    go_on: threading.Event = field(default_factory=threading.Event)


class HeldEngine(OnnxRuntimeEngine):
    """The real engine; a run begins, says so and goes on when it is let."""

    def __init__(self, graph: Path, threads: int, begun: SimpleQueue[HeldRun]) -> None:
        super().__init__(graph, "cpu", threads)
        self._begun = begun

    def run(self, images: np.ndarray) -> np.ndarray:
        held = HeldRun("narrow" if self.threads == 1 else "wide")
        self._begun.put(held)
        assert held.go_on.wait(60)
        return super().run(images)


class Stage:
    """Callers of one engine for load on two cores."""

    def __init__(self, bundle: Bundle, callers: ThreadPoolExecutor) -> None:
        self._begun, self._callers = SimpleQueue[HeldRun](), callers
        graph, size = bundle.deployed_graph, bundle.manifest.model.input.height
        wide, narrow = (HeldEngine(graph, threads, self._begun) for threads in (2, 1))
        self.engine = ByLoadEngine(wide, narrow, 2)
        self._picture = np.zeros((1, size, size, 3), np.uint8)

    def begin(self) -> tuple[HeldRun, Future[np.ndarray]]:
        """Begin a run: which engine got it, and its answer to come."""
        answer = self._callers.submit(self.engine.run, self._picture)
        return self._begun.get(timeout=60), answer

    def end(self, held: HeldRun, answer: Future[np.ndarray]) -> None:
        held.go_on.set()
        assert answer.result(timeout=60).shape[0] == 1


@pytest.fixture
def stage(bundle: Bundle) -> Iterator[Stage]:
    with ThreadPoolExecutor(3) as callers:
        yield Stage(bundle, callers)


def test_runs_one_after_the_other_take_every_core(stage: Stage) -> None:
    for _ in range(3):
        held, answer = stage.begin()
        assert held.engine == "wide"
        stage.end(held, answer)


def test_runs_that_fill_the_cores_take_their_share(stage: Stage) -> None:
    runs = [stage.begin() for _ in range(3)]
    assert [held.engine for held, _ in runs] == ["wide", "narrow", "narrow"]
    for held, answer in runs:
        stage.end(held, answer)
    held, answer = stage.begin()
    assert held.engine == "wide"
    stage.end(held, answer)


@pytest.mark.parametrize(("jobs", "expected"), [(0, "wide"), (1, "wide"), (2, "narrow"), (7, "narrow")])
def test_jobs_that_have_not_come_to_their_run_count(stage: Stage, jobs: int, expected: str) -> None:
    stage.engine.follow(lambda: jobs)
    held, answer = stage.begin()
    assert held.engine == expected
    stage.end(held, answer)


def test_a_run_that_fails_counts_no_longer(bundle: Bundle) -> None:
    wide = OnnxRuntimeEngine(bundle.deployed_graph, "cpu", 2)
    engine = ByLoadEngine(wide, AlteredEngine(bundle, lambda rows: rows + 1, "fp32"), 2)
    image, _ = bundle.self_check_arrays()
    for _ in range(3):
        with pytest.raises(EngineError):
            engine.run(np.zeros((1, 32, 32), np.uint8))
    np.testing.assert_array_equal(engine.run(image[None]), wide.run(image[None]))  # not the altered one's


@pytest.mark.parametrize("broken", ["alone", "shared"])
def test_each_of_the_two_has_to_pass_the_startup_check(bundle: Bundle, broken: str) -> None:
    plain = OnnxRuntimeEngine(bundle.deployed_graph, "cpu", 1)
    altered = AlteredEngine(bundle, lambda rows: rows + 1, "fp32")
    pair = (altered, plain) if broken == "alone" else (plain, altered)
    with pytest.raises(SelfCheckFailed):
        check_engine(bundle, ByLoadEngine(*pair, 2))
    check_engine(bundle, ByLoadEngine(plain, plain, 2))


def test_both_answer_the_same(bundle: Bundle) -> None:
    engine = open_engine(bundle, load_settings({}), cores=2, workers=2)
    wide, narrow = engine.layouts
    assert (engine.threads, wide.threads, narrow.threads) == (2, 2, 1)
    image, _ = bundle.self_check_arrays()
    np.testing.assert_array_equal(wide.run(image[None]), narrow.run(image[None]))


@pytest.mark.parametrize(
    ("cores", "workers", "threads", "expected"),
    [
        (1, 1, "0", [1]),
        (2, 1, "0", [2]),
        (2, 2, "1", [1]),
        (2, 2, "2", [2]),
        (2, 4, "0", [2, 1]),
        (4, 4, "0", [4, 1]),
        (8, 4, "0", [8, 2]),
        (6, 4, "0", [6, 2]),
        (3, 2, "0", [3, 2]),
    ],
)
def test_cores_are_shared_out_unless_the_threads_are_set(
    bundle: Bundle, cores: int, workers: int, threads: str, expected: list[int]
) -> None:
    engine = open_engine(bundle, load_settings({}, threads=threads), cores=cores, workers=workers)
    assert [layout.threads for layout in engine.layouts] == expected

"""Which pictures share a run of the real engine; when runs begin and end is up to the test."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue

import numpy as np
import pytest

from service.bundle.store import Bundle
from service.errors import EngineError, SelfCheckFailed, SettingsError
from service.inference.batching_engine import BatchingEngine
from service.inference.engine_choice import open_engine
from service.inference.onnxruntime_engine import OnnxRuntimeEngine
from service.inference.self_check import check_engine
from service.settings import load_settings

CALLERS = 12


@dataclass(frozen=True)
class HeldRun:
    """A run that has begun with so many pictures and waits."""

    shape: tuple[int, ...]
    go_on: threading.Event = field(default_factory=threading.Event)


class HeldEngine(OnnxRuntimeEngine):
    """The real engine; a run begins, says so and goes on when it is let. Pictures that are all 255 are too much, and
    those that are all 254 end the thread that runs them."""

    def __init__(self, graph: Path) -> None:
        super().__init__(graph, "cpu", 1)
        self.begun = SimpleQueue[HeldRun]()

    def run(self, images: np.ndarray) -> np.ndarray:
        held = HeldRun(images.shape)
        self.begun.put(held)
        assert held.go_on.wait(60)
        if images.min() == 255:
            raise EngineError("too bright")
        if images.min() == 254:
            raise SystemExit("enough")
        return super().run(images)


class Stage:
    """Callers of one engine whose runs hold up to ``most`` pictures."""

    def __init__(self, bundle: Bundle, most: int, callers: ThreadPoolExecutor) -> None:
        self._held = HeldEngine(bundle.deployed_graph)
        self.engine, self._callers = BatchingEngine(self._held, most), callers

    def call(self, picture: np.ndarray) -> Future[np.ndarray]:
        """Ask for a picture; returns once it waits or runs."""
        before = self._known()
        answer = self._callers.submit(self.engine.run, picture)
        deadline = time.monotonic() + 60
        while self._known() == before:
            assert time.monotonic() < deadline
        return answer

    def next_run(self, patience_s: float = 60) -> HeldRun:
        return self._held.begun.get(timeout=patience_s)

    def rests(self) -> bool:
        """No run has begun that was not asked for."""
        try:
            self._held.begun.get(timeout=0.2)
        except Empty:
            return True
        return False

    def _known(self) -> int:
        return self._held.begun.qsize() + len(self.engine._waiting)


@contextmanager
def letting_go(stage: Stage) -> Iterator[None]:
    """Inside, every run goes on as soon as it has begun."""
    over = threading.Event()

    def let_go() -> None:
        while not over.is_set():
            with suppress(Empty):
                stage.next_run(patience_s=0.05).go_on.set()

    thread = threading.Thread(target=let_go)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.fixture
def callers() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(CALLERS) as pool:
        yield pool


@pytest.fixture(scope="module")
def pictures(bundle: Bundle) -> list[np.ndarray]:
    """Parts of the stored picture, moved about: (1, H, W, 3)."""
    image, _ = bundle.self_check_arrays()
    return [np.roll(image[None], 23 * number, axis=2) for number in range(CALLERS)]


@pytest.fixture(scope="module")
def answers(bundle: Bundle, pictures: list[np.ndarray]) -> list[np.ndarray]:
    """What each picture has in a run of its own."""
    engine = OnnxRuntimeEngine(bundle.deployed_graph, "cpu", 1)
    return [engine.run(picture) for picture in pictures]


def same(found: np.ndarray, expected: np.ndarray) -> bool:
    """Boxes above a tenth agree; the order of the others is a matter of rounding."""
    kept = int((expected[0, :, 4] > 0.1).sum())
    return found.shape == expected.shape and np.allclose(found[0, :kept], expected[0, :kept], rtol=0, atol=0.05)


def test_who_is_alone_is_run_at_once_and_who_comes_meanwhile_shares_the_next_run(
    bundle: Bundle, pictures: list[np.ndarray], answers: list[np.ndarray], callers: ThreadPoolExecutor
) -> None:
    stage = Stage(bundle, 8, callers)
    given = [stage.call(pictures[0])]
    runs = [stage.next_run()]
    given += [stage.call(picture) for picture in pictures[1:]]
    assert stage.rests()
    # Eleven wait: the oldest eight, then the two that two go into, then the last.
    for pictures_in_run in (8, 2, 1):
        runs[-1].go_on.set()
        runs.append(stage.next_run())
        assert len(runs[-1].shape) == 4 and runs[-1].shape[0] == pictures_in_run
        assert stage.rests()
    runs[-1].go_on.set()
    found = [answer.result(60) for answer in given]
    assert all(same(one, expected) for one, expected in zip(found, answers, strict=True))
    assert not any(same(found[number], answers[number - 1]) for number in range(1, CALLERS))
    found[1][:] = 0  # what a caller does with its rows is nobody else's business
    assert same(found[2], answers[2])


def test_whoever_waits_longest_is_first_and_takes_those_of_its_size_along(
    bundle: Bundle, pictures: list[np.ndarray], callers: ThreadPoolExecutor
) -> None:
    stage = Stage(bundle, 4, callers)
    first = stage.call(pictures[0])
    held = stage.next_run()
    small, two = np.zeros((1, 320, 320, 3), np.uint8), np.concatenate(pictures[:2])
    rest = [stage.call(picture) for picture in (pictures[1], small, pictures[2], two, small)]
    shapes = []
    for _ in rest:
        held.go_on.set()
        if len(shapes) == 3:
            break
        held = stage.next_run()
        shapes.append(held.shape[:2])
    held.go_on.set()
    # Whoever brings two pictures has them run for itself.
    assert shapes == [(2, 640), (2, 320), (2, 640)]
    assert first.result(60).shape[0] == 1
    for answer, batch in zip(rest, (1, 1, 1, 2, 1), strict=True):
        if batch == 2:
            assert answer.result(60).shape[0] == 2


def test_a_failure_is_everybodys_in_the_run_and_nobodys_after_it(
    bundle: Bundle, pictures: list[np.ndarray], answers: list[np.ndarray], callers: ThreadPoolExecutor
) -> None:
    stage = Stage(bundle, 2, callers)
    bright = np.full_like(pictures[0], 255)
    given = [stage.call(picture) for picture in (pictures[0],)]
    held = stage.next_run()
    given += [stage.call(picture) for picture in (bright, bright, pictures[1])]
    for _ in range(2):
        held.go_on.set()
        held = stage.next_run()
    held.go_on.set()
    assert same(given[0].result(60), answers[0]) and same(given[3].result(60), answers[1])
    errors = [answer.exception(60) for answer in given[1:3]]
    assert all(isinstance(error, EngineError) and str(error) == "too bright" for error in errors)
    assert errors[0] is not errors[1]


def test_a_thread_that_is_ended_leaves_nobody_waiting(
    bundle: Bundle, pictures: list[np.ndarray], answers: list[np.ndarray], callers: ThreadPoolExecutor
) -> None:
    """Whose thread runs a batch is open: of three that wake up, one whose picture may have been in the run before."""
    stage = Stage(bundle, 2, callers)
    first = stage.call(pictures[0])
    held = stage.next_run()
    given = [stage.call(np.full_like(pictures[0], 254)) for _ in range(2)]
    given.append(stage.call(pictures[1]))
    with letting_go(stage):
        held.go_on.set()
        ended = [answer.exception(60) for answer in [first, *given]]
        # It ended one thread, and everybody else in the run was told.
        assert [type(error) for error in ended].count(SystemExit) == 1
        assert isinstance(ended[1], EngineError | SystemExit) and isinstance(ended[2], EngineError | SystemExit)
        assert same(callers.submit(stage.engine.run, pictures[2]).result(60), answers[2])
    for answer, error, expected in ((first, ended[0], answers[0]), (given[2], ended[3], answers[1])):
        assert isinstance(error, SystemExit) or same(answer.result(60), expected)


def test_the_start_up_check_looks_at_every_size(bundle: Bundle) -> None:
    engine = BatchingEngine(OnnxRuntimeEngine(bundle.deployed_graph, "cpu", 2), 6)
    image, _ = bundle.self_check_arrays()
    assert len(engine.layouts) == 4  # 1, 2, 4 and 6
    check = check_engine(bundle, engine)
    assert check.matched == check.rows and check.extra == 0
    for layout in engine.layouts:
        assert layout.run(image[None]).shape[0] == 1


class WrongAtTheEnd(OnnxRuntimeEngine):
    """The last picture of four gets the boxes of black."""

    def run(self, images: np.ndarray) -> np.ndarray:
        if len(images) == 4:
            images = images.copy()
            images[3] = 0
        return super().run(images)


def test_a_size_that_computes_something_else_is_not_served(bundle: Bundle) -> None:
    engine = BatchingEngine(WrongAtTheEnd(bundle.deployed_graph, "cpu", 2), 4)
    with pytest.raises(SelfCheckFailed):
        check_engine(bundle, engine)


def test_the_setting_makes_one(bundle: Bundle) -> None:
    settings = load_settings({}, max_batch_size=4)
    engine = open_engine(bundle, settings, cores=2, workers=settings.workers_on(2))
    assert isinstance(engine, BatchingEngine) and engine.max_batch_size == 4 and engine.threads == 2
    for one in (0, 1):
        plain = open_engine(bundle, load_settings({}, max_batch_size=one), cores=2, workers=2)
        assert not isinstance(plain, BatchingEngine)
    with pytest.raises(SettingsError, match="YOLOFOLD_MAX_BATCH_SIZE=4, but OpenVINO"):
        open_engine(bundle, load_settings({}, engine="openvino", max_batch_size=4), cores=2, workers=8)


def test_there_are_callers_enough_to_fill_it() -> None:
    assert load_settings({}, max_batch_size=8).workers_on(2) == 16
    assert load_settings({}, max_batch_size=1).workers_on(2) == load_settings({}).workers_on(2) == 2
    assert load_settings({}, max_batch_size=4, workers=4).workers_on(2) == 4
    with pytest.raises(
        SettingsError, match=r"YOLOFOLD_MAX_BATCH_SIZE='5': .*YOLOFOLD_WORKERS=4 there are never so many"
    ):
        load_settings({"YOLOFOLD_MAX_BATCH_SIZE": "5", "YOLOFOLD_WORKERS": "4"})

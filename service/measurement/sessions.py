"""The timed part of a measurement: sessions, each of which loads every arm anew and runs all of them in rounds."""

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.errors import MeasurementRefused
from service.measurement.economy import Question, affordable_arms
from service.measurement.statistics import MIN_SESSIONS
from service.measurement.timed_arm import Run, TimedArm
from service.measurement.traffic import Traffic

ROUNDS_PER_SESSION = 3
WARMUP_WINDOW = 3
WARMUP_TOLERANCE = 0.02
MAX_DROPPED_IN_A_ROW = 20
MAX_WARMUP_RUNS = 8 * WARMUP_WINDOW
WARMUP_SHARE = 0.3
#: Of one arm in one session, whatever the budget: on a busy machine medians may never agree.
MAX_WARMUP_S = 2.0

#: Monotonic, nanoseconds.
Clock = Callable[[], int]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Sessions:
    """What was timed: the arms, milliseconds of each run as (sessions, rounds, arms) and of each loading as
    (sessions, arms), rounds dropped."""

    arms: Sequence[TimedArm]
    times_ms: NDArray[np.float64]
    load_ms: NDArray[np.float64]
    dropped: int


@dataclass(frozen=True)
class _Ready:
    """Arms that are open and warm, with what that took, each (arms,): milliseconds to open, nanoseconds to warm up and
    of the last run of that."""

    runs: Sequence[Run]
    load_ms: NDArray[np.float64]
    warmup_ns: NDArray[np.float64]
    run_ns: NDArray[np.float64]

    def only(self, kept: Sequence[int]) -> "_Ready":
        """The arms of these columns."""
        columns = np.asarray(kept)
        return _Ready(
            [self.runs[column] for column in kept], self.load_ms[columns], self.warmup_ns[columns], self.run_ns[columns]
        )


class SessionRunner:
    """Runs the sessions of one measurement."""

    def __init__(
        self,
        arms: Sequence[TimedArm],
        null_control: Question,
        questions: Sequence[Question],
        traffic: Traffic,
        order: np.random.Generator,
        budget_ns: float,
        clock_ns: Clock,
    ) -> None:
        self._arms, self._null_control, self._questions = arms, null_control, questions
        self._traffic, self._order, self._budget_ns, self._clock_ns = traffic, order, budget_ns, clock_ns
        self._dropped = self._waited_ns = 0

    def run(self, wanted: int, progress: Progress | None) -> Sessions:
        """At most ``wanted`` sessions, and at least four whatever they take."""
        started = self._clock_ns()
        end = started + self._budget_ns
        warmup_ns = min(MAX_WARMUP_S * 1e9, WARMUP_SHARE * self._budget_ns / (wanted * len(self._arms)))
        times: list[NDArray[np.float64]] = []
        loads: list[NDArray[np.float64]] = []
        while len(times) < wanted:
            now = self._clock_ns()
            if len(times) >= MIN_SESSIONS and now + (now - started) / len(times) > end:
                break
            rounds = len(times[0]) if times else None
            times_ms, load_ms = self._session(rounds, started, warmup_ns)
            times.append(times_ms)
            loads.append(load_ms)
            if progress:
                progress(len(times) * len(times[0]), wanted * len(times[0]))
        return Sessions(self._arms, np.stack(times), np.stack(loads), self._dropped)

    def _session(
        self, rounds: int | None, started: float, warmup_ns: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Times (rounds, arms) and loading times (arms,). The first session, without a number of rounds, decides which
        arms and how many rounds the budget has room for. What it has loaded is let go of at its end."""
        begun = self._clock_ns()
        ready = self._make_ready(warmup_ns)
        if rounds is not None:
            return np.stack([self._round(ready.runs) for _ in range(rounds)]), ready.load_ms
        spent_ns = self._clock_ns() - started - self._waited_ns  # waiting says nothing about the network
        kept = self._affordable(ready, self._budget_ns - spent_ns)
        self._arms, ready = [self._arms[column] for column in kept], ready.only(kept)
        return np.stack(self._first_rounds(ready.runs, begun + self._budget_ns / MIN_SESSIONS)), ready.load_ms

    def _affordable(self, ready: _Ready, left_ns: float) -> list[int]:
        """Which arms can be run once now, and made ready and run once in each of three more sessions."""
        costs = ready.run_ns + (MIN_SESSIONS - 1) * (ready.load_ms * 1e6 + ready.warmup_ns + ready.run_ns)
        if costs.sum() <= left_ns:
            return list(range(len(self._arms)))
        by_name = {arm.name: float(cost) for arm, cost in zip(self._arms, costs, strict=True)}
        kept = affordable_arms(self._null_control, self._questions, by_name, left_ns)
        return [column for column, arm in enumerate(self._arms) if arm.name in kept]

    def _make_ready(self, warmup_ns: float) -> _Ready:
        """Open every arm, then warm each one up."""
        runs, load_ms = self._open()
        warmed_ns, run_ns = np.empty(len(runs)), np.empty(len(runs))
        for column, run in enumerate(runs):
            self._wait_until_quiet()
            started = self._clock_ns()
            with _garbage_collection_paused():
                run_ns[column] = warm_up(run, warmup_ns, self._clock_ns)
            warmed_ns[column] = self._clock_ns() - started
        return _Ready(runs, load_ms, warmed_ns, run_ns)

    def _first_rounds(self, runs: Sequence[Run], deadline: float) -> list[NDArray[np.float64]]:
        """As many of three rounds as end before ``deadline``, but one at least."""
        rows = [self._round(runs)]
        more = _rounds_that_fit(deadline - self._clock_ns(), float(rows[0].sum()) * 1e6)
        return rows + [self._round(runs) for _ in range(more)]

    def _open(self) -> tuple[list[Run], NDArray[np.float64]]:
        opened, load_ms = dict[int, Run](), np.empty(len(self._arms))
        for column in self._order.permutation(len(self._arms)).tolist():
            self._wait_until_quiet()
            started = self._clock_ns()
            opened[column] = self._arms[column].open()
            load_ms[column] = (self._clock_ns() - started) / 1e6
        return [opened[column] for column in range(len(self._arms))], load_ms

    def _wait_until_quiet(self) -> int:
        """What ``Traffic.wait_until_quiet`` returns."""
        begun = self._clock_ns()
        count = self._traffic.wait_until_quiet()
        self._waited_ns += self._clock_ns() - begun
        return count

    def _round(self, runs: Sequence[Run]) -> NDArray[np.float64]:
        """Milliseconds of each arm, from a round that nothing fell into."""
        row, dropped = np.empty(len(runs), np.float64), 0
        while True:
            before = self._wait_until_quiet()
            with _garbage_collection_paused():
                for column in self._order.permutation(len(runs)).tolist():
                    row[column] = _time_once(runs[column], self._clock_ns) / 1e6
            if self._traffic.count() == before:
                return row
            dropped += 1
            self._dropped += 1
            if dropped == MAX_DROPPED_IN_A_ROW:
                raise MeasurementRefused(f"Requests fell into {dropped} rounds in a row; the service is too busy.")


def _rounds_that_fit(left_ns: float, round_ns: float) -> int:
    """Further rounds of a session of ``ROUNDS_PER_SESSION``."""
    return next((more for more in range(ROUNDS_PER_SESSION - 1, 0, -1) if more * round_ns <= left_ns), 0)


def _time_once(run: Run, clock_ns: Clock) -> int:
    """Nanoseconds of one run."""
    started = clock_ns()
    run()
    return clock_ns() - started


def warm_up(run: Run, budget_ns: float, clock_ns: Clock = time.perf_counter_ns) -> int:
    """Run an arm until the medians of two successive windows of 3 runs agree within 2 %.

    Gives up after 24 runs or ``budget_ns`` nanoseconds, whichever comes first, but runs at least once. Returns the
    nanoseconds of the last run.
    """
    deadline = clock_ns() + budget_ns
    times: list[int] = []
    while len(times) < MAX_WARMUP_RUNS:
        times.append(_time_once(run, clock_ns))
        if clock_ns() >= deadline:
            break
        if len(times) % WARMUP_WINDOW == 0 and len(times) >= 2 * WARMUP_WINDOW:
            before = float(np.median(times[-2 * WARMUP_WINDOW : -WARMUP_WINDOW]))
            if abs(float(np.median(times[-WARMUP_WINDOW:])) - before) <= WARMUP_TOLERANCE * before:
                break
    return times[-1]


@contextmanager
def _garbage_collection_paused() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()

"""Times several ways of running one network against each other in one process. Knows no framework."""

import gc
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from service.bundle.latency import Arm, Comparison, Device, Engine, Precision, Series, SeriesKind
from service.errors import MeasurementRefused
from service.machine import CpuWatch
from service.measurement.economy import Question, affordable_arms
from service.measurement.statistics import MIN_SESSIONS, Speedup, estimate_speedup, judge, noise_floor

ROUNDS_PER_SESSION = 3
MIN_ROUNDS = MIN_SESSIONS * ROUNDS_PER_SESSION
DEFAULT_ROUNDS = 30
DEFAULT_BUDGET_S = 40.0
SEED = 20260114
WARMUP_WINDOW = 3
WARMUP_TOLERANCE = 0.02
MAX_DROPPED_IN_A_ROW = 20
MAX_WARMUP_RUNS = 8 * WARMUP_WINDOW
WARMUP_SHARE = 0.3
#: Of one arm in one session, whatever the budget: on a busy machine medians may never agree.
MAX_WARMUP_S = 2.0

Clock = Callable[[], int]
Progress = Callable[[int, int], None]
Run = Callable[[], object]


@dataclass(frozen=True)
class ArmFacts:
    """What is known of an arm before it is timed; meanings as in ``service.bundle.latency.Arm``."""

    engine: Engine
    nodes: int | None
    batch_normalizations: int
    bytes: int
    device: Device = "cpu"
    precision: Precision = "fp32"


@dataclass(frozen=True)
class TimedArm:
    """One thing to time. ``open`` loads it anew; what it returns does the whole work of one run or burst."""

    name: str
    title: str
    facts: ArmFacts
    open: Callable[[], Run]


class Traffic(Protocol):
    """Other work on the same machine, which a measurement gives way to and must not be falsified by."""

    def wait_until_quiet(self) -> int:
        """Return ``count()`` as it was at a moment at which nothing else was being worked on.

        Raises:
            MeasurementRefused: that did not happen, or the measurement is to end.
        """
        ...

    def count(self) -> int:
        """Pieces of other work begun so far; a round during which it changed is dropped."""
        ...

    def require_wanted(self) -> None:
        """Return at once.

        Raises:
            MeasurementCancelled: the measurement is to end.
        """
        ...


class NoTraffic:
    """A process in which nothing else happens."""

    def wait_until_quiet(self) -> int:
        """Return 0 at once."""
        return 0

    def count(self) -> int:
        """Always 0."""
        return 0

    def require_wanted(self) -> None:
        """Nobody asks for the end."""


@dataclass(frozen=True)
class MeasuredSeries:
    """A series, and the questions that it had to give up to keep its budget."""

    series: Series
    given_up: Sequence[Question]


@dataclass(frozen=True)
class _Sessions:
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


@dataclass(frozen=True)
class Workload:
    """What every arm is given: each of ``callers`` threads runs ``batch`` images ``runs_per_caller`` times."""

    kind: SeriesKind = "latency"
    device: Device = "cpu"
    batch: int = 1
    callers: int = 1
    runs_per_caller: int = 1

    @property
    def images(self) -> int:
        """Images of one timed run or burst."""
        return self.batch * self.callers * self.runs_per_caller


def measure_series(
    arms: Sequence[TimedArm],
    *,
    workload: Workload,
    null_control: Question,
    questions: Sequence[Question],
    rounds: int = DEFAULT_ROUNDS,
    budget_s: float = DEFAULT_BUDGET_S,
    progress: Progress | None = None,
    traffic: Traffic | None = None,
    clock_ns: Clock = time.perf_counter_ns,
) -> MeasuredSeries:
    """Load every arm anew for each session of three rounds, run all of them once per round, judge the ratios.

    Loading anew puts the luck of a load into the interval (see ``estimate_speedup``). The order of the arms is
    random, because an arm leaves caches and still-spinning threads behind for the next one: that cost then
    falls on all alike. Garbage collection is off while an arm runs. No round is dropped but those that other work
    fell into, which are repeated.

    Args:
        arms: what to time, each under a name of its own.
        workload: recorded in the report; the arms must already obey it.
        null_control: two arms that do the same work; how far they differ is the floor for all other verdicts.
        questions: the comparisons to report, in this order, the more important ones first.
        rounds: rounds wanted, at least 12, made up to whole sessions. The report says how many were run.
        budget_s: seconds for loading, warm-up and rounds. To keep it, sessions beyond the fourth are given up, on
            a slow machine rounds within a session, and where one round in each of four sessions is still too much,
            questions with the arms that only they need (see ``affordable_arms``). One question too slow for that
            exceeds it. ``math.inf`` runs everything.
        progress: called as ``progress(done, rounds)`` after each session, outside the timed part.
        traffic: what to give way to; nothing by default.
        clock_ns: monotonic clock in nanoseconds.

    Raises:
        MeasurementRefused: fewer than 12 rounds were asked for, or ``traffic`` ended it.
        ValueError: a question names an arm that is not there.
    """
    require_rounds(rounds)
    if missing := frozenset().union(null_control.arms, *(q.arms for q in questions)) - {arm.name for arm in arms}:
        raise ValueError(f"questions about arms that are not there: {sorted(missing)}")
    load, others, started = _load_average(), CpuWatch(), clock_ns()
    station = _Station(
        arms, null_control, questions, traffic or NoTraffic(), np.random.default_rng(SEED), budget_s * 1e9, clock_ns
    )
    with _heap_set_aside():
        measured = station.run(whole_sessions(rounds) // ROUNDS_PER_SESSION, progress)
    duration_s, times_ms = (clock_ns() - started) / 1e9, measured.times_ms
    by_arm = {arm.name: times_ms[:, :, column] for column, arm in enumerate(measured.arms)}
    null = _speedup(null_control, by_arm)
    floor = noise_floor(null)
    other_cores = others.other_cores()
    answered = [question for question in questions if question.arms <= by_arm.keys()]
    series = Series(
        kind=workload.kind,
        device=workload.device,
        batch=workload.batch,
        callers=workload.callers,
        runs_per_caller=workload.runs_per_caller,
        sessions=times_ms.shape[0],
        rounds=times_ms.shape[0] * times_ms.shape[1],
        dropped_rounds=measured.dropped,
        duration_s=round(duration_s, 3),
        load_average_before=load,
        other_cores=None if other_cores is None else round(other_cores, 3),
        arms=[
            _summarise(arm, by_arm[arm.name], measured.load_ms[:, column], workload)
            for column, arm in enumerate(measured.arms)
        ],
        null_control=_compare(null_control, null, floor=0.0),
        comparisons=[_compare(question, _speedup(question, by_arm), floor) for question in answered],
    )
    return MeasuredSeries(series, [question for question in questions if question not in answered])


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


def require_rounds(rounds: int) -> None:
    """Check that so many rounds allow a verdict.

    Raises:
        MeasurementRefused: they do not.
    """
    if rounds < MIN_ROUNDS:
        raise MeasurementRefused(f"A measurement needs at least {MIN_ROUNDS} rounds, not {rounds}.")


def whole_sessions(rounds: int) -> int:
    """Rounds made up to whole sessions of three."""
    return math.ceil(rounds / ROUNDS_PER_SESSION) * ROUNDS_PER_SESSION


class _Station:
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

    def run(self, wanted: int, progress: Progress | None) -> _Sessions:
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
        return _Sessions(self._arms, np.stack(times), np.stack(loads), self._dropped)

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


def _summarise(arm: TimedArm, times_ms: NDArray[np.float64], load_ms: NDArray[np.float64], workload: Workload) -> Arm:
    p05, median, p95 = (float(value) for value in np.percentile(times_ms, [5, 50, 95]))
    return Arm(
        name=arm.name,
        title=arm.title,
        **asdict(arm.facts),
        samples=times_ms.size,
        median_ms=median,
        p05_ms=p05,
        p95_ms=p95,
        load_ms=float(np.median(load_ms)),
        images_per_second=1e3 * workload.images / median,
    )


def _speedup(question: Question, times_ms: dict[str, NDArray[np.float64]]) -> Speedup:
    return estimate_speedup(times_ms[question.baseline], times_ms[question.candidate])


def _compare(question: Question, speedup: Speedup, floor: float) -> Comparison:
    return Comparison(
        name=question.name,
        question=question.question,
        baseline=question.baseline,
        candidate=question.candidate,
        speedup=speedup.estimate,
        ci95_low=speedup.low,
        ci95_high=speedup.high,
        verdict=judge(speedup, floor),
    )


def _load_average() -> float | None:
    """Mean number of runnable processes over the last minute, None where the system does not say."""
    try:
        return os.getloadavg()[0]
    except OSError:
        return None


@contextmanager
def _heap_set_aside() -> Iterator[None]:
    """Keep what there is already out of the collections before each round.

    In a process with torch, or with requests to answer meanwhile, each of them would walk through all objects again
    and keep every thread waiting for a third of a second.
    """
    if gc.get_freeze_count():  # somebody else's, who will undo it
        yield
        return
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


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

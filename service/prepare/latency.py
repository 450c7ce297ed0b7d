"""Times several ways of running one network against each other in one process. Knows no framework."""

import gc
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from service.bundle.latency import Arm, Comparison, LatencyReport
from service.errors import PrepareError
from service.machine import describe_machine
from service.prepare.latency_statistics import MIN_SESSIONS, Speedup, estimate_speedup, judge, noise_floor

ROUNDS_PER_SESSION = 3
MIN_ROUNDS = MIN_SESSIONS * ROUNDS_PER_SESSION
DEFAULT_ROUNDS = 30
DEFAULT_BUDGET_S = 40.0
SEED = 20260114
WARMUP_WINDOW = 3
WARMUP_TOLERANCE = 0.02
MAX_WARMUP_RUNS = 8 * WARMUP_WINDOW
WARMUP_SHARE = 0.3

Clock = Callable[[], int]
Progress = Callable[[int, int], None]
Run = Callable[[], object]


@dataclass(frozen=True)
class TimedArm:
    """One thing to time. ``open`` loads it anew; what it returns does the whole work of one inference."""

    name: str
    title: str
    runtime: Literal["torch", "onnxruntime"]
    open: Callable[[], Run]


@dataclass(frozen=True)
class Question:
    """Two arms, by name, and what their ratio (baseline / candidate) answers."""

    name: str
    question: str
    baseline: str
    candidate: str


@dataclass(frozen=True)
class Workload:
    """What every arm is given: ``batch`` square images of ``imgsz`` pixels, and ``threads`` to run on."""

    imgsz: int
    threads: int
    batch: int = 1


def measure_latency(
    arms: Sequence[TimedArm],
    *,
    workload: Workload,
    null_control: Question,
    questions: Sequence[Question],
    rounds: int = DEFAULT_ROUNDS,
    budget_s: float = DEFAULT_BUDGET_S,
    progress: Progress | None = None,
    clock_ns: Clock = time.perf_counter_ns,
) -> LatencyReport:
    """Load every arm anew for each session of three rounds, run all of them once per round, judge the ratios.

    Loading anew puts the luck of a load into the interval (see ``estimate_speedup``). The order of the arms is
    random, because an arm leaves caches and still-spinning threads behind for the next one: that cost then
    falls on all alike. Garbage collection is off within a session. No sample is dropped.

    Args:
        arms: what to time, each under a name of its own.
        workload: recorded in the report; the arms must already obey it.
        null_control: two arms that do the same work; how far they differ is the floor for all other verdicts.
        questions: the comparisons to report, in this order.
        rounds: rounds wanted, at least 12, made up to whole sessions. The report says how many were run.
        budget_s: seconds for loading, warm-up and rounds. To keep it, sessions beyond the fourth are given up,
            and on a slow machine rounds within a session. One too slow for four sessions of one round exceeds
            it. ``math.inf`` runs everything.
        progress: called as ``progress(done, rounds)`` after each session, outside the timed part.
        clock_ns: monotonic clock in nanoseconds.

    Raises:
        PrepareError: fewer than 12 rounds were asked for.
    """
    if rounds < MIN_ROUNDS:
        raise PrepareError(f"A latency run needs at least {MIN_ROUNDS} rounds, not {rounds}.")
    load, started = _load_average(), clock_ns()
    times_ms = _timed_sessions(arms, math.ceil(rounds / ROUNDS_PER_SESSION), budget_s * 1e9, progress, clock_ns)
    duration_s = (clock_ns() - started) / 1e9
    by_arm = {arm.name: times_ms[:, :, column] for column, arm in enumerate(arms)}
    null = _speedup(null_control, by_arm)
    floor = noise_floor(null)
    return LatencyReport(
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        sessions=times_ms.shape[0],
        rounds=times_ms.shape[0] * times_ms.shape[1],
        threads=workload.threads,
        batch=workload.batch,
        imgsz=workload.imgsz,
        duration_s=round(duration_s, 3),
        load_average_before=load,
        machine=describe_machine(),
        arms=[_summarise(arm, by_arm[arm.name]) for arm in arms],
        null_control=_compare(null_control, null, floor=0.0),
        comparisons=[_compare(question, _speedup(question, by_arm), floor) for question in questions],
    )


def warm_up(run: Run, budget_ns: float, clock_ns: Clock = time.perf_counter_ns) -> None:
    """Run an arm until the medians of two successive windows of 3 runs agree within 2 %.

    Gives up after 24 runs or ``budget_ns`` nanoseconds, whichever comes first, but runs at least once.
    """
    deadline = clock_ns() + budget_ns
    times: list[int] = []
    while len(times) < MAX_WARMUP_RUNS:
        times.append(_time_once(run, clock_ns))
        if clock_ns() >= deadline:
            return
        if len(times) % WARMUP_WINDOW == 0 and len(times) >= 2 * WARMUP_WINDOW:
            before = float(np.median(times[-2 * WARMUP_WINDOW : -WARMUP_WINDOW]))
            if abs(float(np.median(times[-WARMUP_WINDOW:])) - before) <= WARMUP_TOLERANCE * before:
                return


def _timed_sessions(
    arms: Sequence[TimedArm], wanted: int, budget_ns: float, progress: Progress | None, clock_ns: Clock
) -> NDArray[np.float64]:
    """Milliseconds as (sessions run, rounds of each, arms)."""
    order, started = np.random.default_rng(SEED), clock_ns()
    warmup_ns = WARMUP_SHARE * budget_ns / (wanted * len(arms))
    sessions: list[NDArray[np.float64]] = []
    while len(sessions) < wanted:
        now = clock_ns()
        if len(sessions) >= MIN_SESSIONS and now + (now - started) / len(sessions) > started + budget_ns:
            break
        rounds = len(sessions[0]) if sessions else None
        sessions.append(_timed_session(arms, rounds, now + budget_ns / MIN_SESSIONS, warmup_ns, order, clock_ns))
        if progress:
            progress(len(sessions) * len(sessions[0]), wanted * len(sessions[0]))
    return np.stack(sessions)


def _timed_session(
    arms: Sequence[TimedArm],
    rounds: int | None,
    deadline: float,
    warmup_ns: float,
    order: np.random.Generator,
    clock_ns: Clock,
) -> NDArray[np.float64]:
    """Milliseconds as (rounds, arms); without a number, as many of three rounds as end before ``deadline``."""
    with _garbage_collection_paused():
        runs = _open_and_warm(arms, order, warmup_ns, clock_ns)
        first = _timed_rounds(runs, 1, order, clock_ns)
        if rounds is None:
            rounds = 1 + _rounds_that_fit(deadline - clock_ns(), float(first.sum()) * 1e6)
        return np.concatenate([first, _timed_rounds(runs, rounds - 1, order, clock_ns)])


def _rounds_that_fit(left_ns: float, round_ns: float) -> int:
    """Further rounds of a session of ``ROUNDS_PER_SESSION``."""
    return next((more for more in range(ROUNDS_PER_SESSION - 1, 0, -1) if more * round_ns <= left_ns), 0)


def _open_and_warm(
    arms: Sequence[TimedArm], order: np.random.Generator, warmup_ns: float, clock_ns: Clock
) -> list[Run]:
    opened: dict[int, Run] = {}
    for column in order.permutation(len(arms)):
        opened[column] = arms[column].open()
    for column in opened:
        warm_up(opened[column], warmup_ns, clock_ns)
    return [opened[column] for column in range(len(arms))]


def _timed_rounds(runs: Sequence[Run], rounds: int, order: np.random.Generator, clock_ns: Clock) -> NDArray[np.float64]:
    """Milliseconds as (rounds, arms)."""
    times_ms = np.empty((rounds, len(runs)), np.float64)
    for row in times_ms:
        for column in order.permutation(len(runs)):
            row[column] = _time_once(runs[column], clock_ns) / 1e6
    return times_ms


def _time_once(run: Run, clock_ns: Clock) -> int:
    """Nanoseconds of one run."""
    started = clock_ns()
    run()
    return clock_ns() - started


def _summarise(arm: TimedArm, times_ms: NDArray[np.float64]) -> Arm:
    p05, median, p95 = (float(value) for value in np.percentile(times_ms, [5, 50, 95]))
    return Arm(
        name=arm.name,
        title=arm.title,
        runtime=arm.runtime,
        samples=times_ms.size,
        median_ms=median,
        p05_ms=p05,
        p95_ms=p95,
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
def _garbage_collection_paused() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()

"""Times several ways of running one network against each other in one process. Knows no framework."""

import gc
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
from service.prepare.latency_statistics import MIN_ROUNDS, SEED, Speedup, estimate_speedup, judge, noise_floor

DEFAULT_ROUNDS = 30
DEFAULT_BUDGET_S = 40.0
WARMUP_WINDOW = 3
WARMUP_TOLERANCE = 0.02
MAX_WARMUP_RUNS = 8 * WARMUP_WINDOW
WARMUP_SHARE = 0.3

Clock = Callable[[], int]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class TimedArm:
    """One thing to time. ``run`` does the whole work of one inference on an input it already holds."""

    name: str
    title: str
    runtime: Literal["torch", "onnxruntime"]
    run: Callable[[], object]


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
    """Warm every arm up, run all of them once per round in random order, and judge the ratios of each round.

    The order is random because an arm leaves caches and still-spinning threads behind for the next one: that
    cost then falls on all alike. Garbage collection is off meanwhile. No sample is dropped.

    Args:
        arms: what to time, each under a name of its own.
        workload: recorded in the report; the arms must already obey it.
        null_control: two arms that do the same work; how far they differ is the floor for all other verdicts.
        questions: the comparisons to report, in this order.
        rounds: rounds wanted, at least 12. The report says how many were run.
        budget_s: seconds for warm-up and rounds. Rounds beyond the 12th are given up to keep it; a machine
            too slow for 12 rounds exceeds it. ``math.inf`` runs every round.
        progress: called as ``progress(done, rounds)`` after each round, outside the timed part.
        clock_ns: monotonic clock in nanoseconds.

    Raises:
        PrepareError: fewer than 12 rounds were asked for.
    """
    if rounds < MIN_ROUNDS:
        raise PrepareError(f"A latency run needs at least {MIN_ROUNDS} rounds, not {rounds}.")
    load, started, budget_ns = _load_average(), clock_ns(), budget_s * 1e9
    with _garbage_collection_paused():
        for arm in arms:
            warm_up(arm, WARMUP_SHARE * budget_ns / len(arms), clock_ns)
        times_ms = _timed_rounds(arms, rounds, started + budget_ns, progress, clock_ns)
    duration_s = (clock_ns() - started) / 1e9
    by_arm = {arm.name: times_ms[:, column] for column, arm in enumerate(arms)}
    null = _speedup(null_control, by_arm)
    floor = noise_floor(null)
    return LatencyReport(
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        rounds=len(times_ms),
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


def warm_up(arm: TimedArm, budget_ns: float, clock_ns: Clock = time.perf_counter_ns) -> None:
    """Run an arm until the medians of two successive windows of 3 runs agree within 2 %.

    Gives up after 24 runs or ``budget_ns`` nanoseconds, whichever comes first, but runs at least once.
    """
    deadline = clock_ns() + budget_ns
    times: list[int] = []
    while len(times) < MAX_WARMUP_RUNS:
        times.append(_time_once(arm, clock_ns))
        if clock_ns() >= deadline:
            return
        if len(times) % WARMUP_WINDOW == 0 and len(times) >= 2 * WARMUP_WINDOW:
            before = float(np.median(times[-2 * WARMUP_WINDOW : -WARMUP_WINDOW]))
            if abs(float(np.median(times[-WARMUP_WINDOW:])) - before) <= WARMUP_TOLERANCE * before:
                return


def _timed_rounds(
    arms: Sequence[TimedArm], rounds: int, deadline: float, progress: Progress | None, clock_ns: Clock
) -> NDArray[np.float64]:
    """Milliseconds as (rounds run, arms). Past the floor, a round starts only if an average one would fit."""
    order = np.random.default_rng(SEED)
    times_ms = np.empty((rounds, len(arms)), np.float64)
    started = clock_ns()
    for done in range(rounds):
        now = clock_ns()
        if done >= MIN_ROUNDS and now + (now - started) / done > deadline:
            return times_ms[:done]
        for column in order.permutation(len(arms)):
            times_ms[done, column] = _time_once(arms[column], clock_ns) / 1e6
        if progress:
            progress(done + 1, rounds)
    return times_ms


def _time_once(arm: TimedArm, clock_ns: Clock) -> int:
    """Nanoseconds of one run."""
    started = clock_ns()
    arm.run()
    return clock_ns() - started


def _summarise(arm: TimedArm, times_ms: NDArray[np.float64]) -> Arm:
    p05, median, p95 = (float(value) for value in np.percentile(times_ms, [5, 50, 95]))
    return Arm(
        name=arm.name,
        title=arm.title,
        runtime=arm.runtime,
        samples=len(times_ms),
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

"""Times several ways of running one network against each other in one process. Knows no framework."""

import gc
import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from service.bundle.latency import Arm, Comparison, Device, Series, SeriesKind
from service.errors import MeasurementRefused
from service.machine import CpuWatch
from service.measurement.economy import Question
from service.measurement.sessions import ROUNDS_PER_SESSION, Clock, Progress, SessionRunner
from service.measurement.statistics import MIN_SESSIONS, Speedup, estimate_speedup, judge, noise_floor
from service.measurement.timed_arm import TimedArm
from service.measurement.traffic import NoTraffic, Traffic

MIN_ROUNDS = MIN_SESSIONS * ROUNDS_PER_SESSION
DEFAULT_ROUNDS = 30
DEFAULT_BUDGET_S = 40.0
SEED = 20260114


@dataclass(frozen=True)
class MeasuredSeries:
    """A series, and the questions that it had to give up to keep its budget."""

    series: Series
    given_up: Sequence[Question]


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
    sessions = SessionRunner(
        arms, null_control, questions, traffic or NoTraffic(), np.random.default_rng(SEED), budget_s * 1e9, clock_ns
    )
    with _heap_set_aside():
        measured = sessions.run(whole_sessions(rounds) // ROUNDS_PER_SESSION, progress)
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

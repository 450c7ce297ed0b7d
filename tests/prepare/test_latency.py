"""The runner, on a clock that only moves when an arm works: nothing here depends on real time."""

import gc
import math
from collections import Counter
from collections.abc import Callable

import pytest

from service.bundle.latency import LatencyReport
from service.errors import PrepareError
from service.prepare.latency import (
    MAX_WARMUP_RUNS,
    Question,
    TimedArm,
    Workload,
    measure_latency,
    warm_up,
)
from service.prepare.latency_statistics import MIN_ROUNDS

MS = 1_000_000
NAMES = ("slow", "fast", "twin")


class Bench:
    """A clock and arms that advance it by their cost; ``log`` holds the name of each run in order."""

    def __init__(self, **costs_ms: float) -> None:
        self.now_ns = 0
        self.log: list[str] = []
        self.costs_ms = {"slow": 30.0, "fast": 20.0, "twin": 20.0} | costs_ms
        self.arms = [TimedArm(name, name.title(), "torch", self._runner(name)) for name in self.costs_ms]

    def clock_ns(self) -> int:
        return self.now_ns

    def _runner(self, name: str) -> Callable[[], object]:
        def run() -> None:
            self.log.append(name)
            self.now_ns += round(self.costs_ms[name] * MS)

        return run

    def measure(
        self, rounds: int = 20, budget_s: float = 1e6, progress: Callable[[int, int], None] | None = None
    ) -> LatencyReport:
        return measure_latency(
            self.arms,
            workload=Workload(imgsz=64, threads=3),
            null_control=Question("null_control", "Same?", "fast", "twin"),
            questions=[
                Question("gain", "Faster?", "slow", "fast"),
                Question("loss", "Slower?", "fast", "slow"),
            ],
            rounds=rounds,
            budget_s=budget_s,
            progress=progress,
            clock_ns=self.clock_ns,
        )

    def timed_rounds(self, report: LatencyReport) -> list[tuple[str, ...]]:
        """Order of the arms in each timed round, without the warm-up."""
        width = len(self.arms)
        timed = self.log[-report.rounds * width :]
        return [tuple(timed[start : start + width]) for start in range(0, len(timed), width)]


def test_report_states_what_was_run() -> None:
    report = Bench().measure()
    assert (report.rounds, report.threads, report.batch, report.imgsz) == (20, 3, 1, 64)
    assert [(arm.name, arm.samples, arm.median_ms, arm.p05_ms, arm.p95_ms) for arm in report.arms] == [
        ("slow", 20, 30, 30, 30),
        ("fast", 20, 20, 20, 20),
        ("twin", 20, 20, 20, 20),
    ]
    # Warm-up of steady arms is two windows of three runs.
    assert report.duration_s == pytest.approx((6 + 20) * 0.070)
    assert LatencyReport.model_validate_json(report.model_dump_json()) == report


def test_report_answers_each_question() -> None:
    report = Bench().measure()
    assert (report.null_control.speedup, report.null_control.verdict) == (1, "indistinguishable")
    answers = {answer.name: answer for answer in report.comparisons}
    assert answers["gain"].speedup == pytest.approx(1.5)
    assert answers["loss"].speedup == pytest.approx(1 / 1.5)
    assert {name: answer.verdict for name, answer in answers.items()} == {"gain": "gain", "loss": "loss"}


def test_a_null_control_as_far_apart_as_the_arms_withdraws_the_verdict() -> None:
    report = Bench(twin=10.0).measure()
    assert report.null_control.verdict == "gain"
    assert [answer.verdict for answer in report.comparisons] == ["indistinguishable"] * 2


def test_every_round_runs_each_arm_once_in_changing_order() -> None:
    bench = Bench()
    rounds = bench.timed_rounds(bench.measure(rounds=60))
    assert all(sorted(order) == sorted(NAMES) for order in rounds)
    seen = Counter(rounds)
    assert len(seen) == 6  # all permutations of three arms
    assert max(seen.values()) < 25


def test_the_order_is_reproducible() -> None:
    first, second = Bench(), Bench()
    assert first.timed_rounds(first.measure()) == second.timed_rounds(second.measure())


def test_samples_are_kept_however_far_out() -> None:
    bench = Bench()
    arm, runs = bench.arms[0], 0

    def hiccup() -> None:
        nonlocal runs
        runs += 1
        bench.now_ns += (5000 if runs == 15 else 30) * MS

    bench.arms[0] = TimedArm(arm.name, arm.title, arm.runtime, hiccup)
    report = bench.measure(rounds=MIN_ROUNDS)
    assert report.arms[0].samples == MIN_ROUNDS
    assert report.arms[0].median_ms == 30
    assert report.arms[0].p95_ms > 1000


@pytest.mark.parametrize(
    ("budget_s", "expected"),
    [
        (math.inf, 40),
        (100.0, 40),
        (0.42 + 40 * 0.07, 40),  # six warm-up runs and 40 rounds of 70 ms fit exactly
        (0.42 + 39.9 * 0.07, 39),
        (0.42 + 20.5 * 0.07, 20),
    ],
)
def test_rounds_are_given_up_for_the_budget(budget_s: float, expected: int) -> None:
    bench = Bench()
    report = bench.measure(rounds=40, budget_s=budget_s)
    assert report.rounds == expected
    assert report.duration_s <= budget_s
    assert {arm.samples for arm in report.arms} == {expected}


def test_a_hopeless_budget_still_runs_the_floor() -> None:
    bench = Bench()
    report = bench.measure(rounds=40, budget_s=0.001)
    assert report.rounds == MIN_ROUNDS
    assert len(bench.log) == (1 + MIN_ROUNDS) * len(bench.arms)


def test_too_few_rounds_are_refused_before_any_run() -> None:
    bench = Bench()
    with pytest.raises(PrepareError, match=f"at least {MIN_ROUNDS} rounds, not {MIN_ROUNDS - 1}"):
        bench.measure(rounds=MIN_ROUNDS - 1)
    assert bench.log == []


def test_progress_counts_the_rounds() -> None:
    bench = Bench()
    calls: list[tuple[int, int]] = []
    report = bench.measure(budget_s=0.42 + 15 * 0.07, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(done, 20) for done in range(1, report.rounds + 1)]


def test_progress_is_outside_the_times() -> None:
    bench = Bench()

    def slow_progress(done: int, total: int) -> None:
        bench.now_ns += 1000 * MS

    assert bench.measure(progress=slow_progress).arms[0].p95_ms == 30


@pytest.mark.parametrize(
    ("cost_ms", "budget_ms", "runs"),
    [
        (lambda run: 10, 1e9, 6),
        (lambda run: 10 + 100 / 4 ** (run // 3), 1e9, 21),  # medians ..., 10.39, 10.10, 10.02
        (lambda run: 2.0**run, 1e30, MAX_WARMUP_RUNS),
        (lambda run: 100 if run < 6 else 10, 1e9, 6),
        (lambda run: 100 if run < 3 else 10, 1e9, 9),
        (lambda run: 10, 25, 3),
        (lambda run: 10, 0, 1),
    ],
)
def test_warm_up_ends(cost_ms: Callable[[int], float], budget_ms: float, runs: int) -> None:
    now_ns, count = 0.0, 0

    def run() -> None:
        nonlocal now_ns, count
        now_ns += cost_ms(count) * MS
        count += 1

    warm_up(TimedArm("a", "A", "torch", run), budget_ms * MS, lambda: int(now_ns))
    assert count == runs


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_garbage_collection_is_off_meanwhile_and_restored(enabled: bool, fails: bool) -> None:
    bench = Bench()
    during: list[bool] = []

    def run() -> None:
        during.append(gc.isenabled())
        bench.now_ns += MS
        if fails:
            raise RuntimeError("the arm broke")

    bench.arms[0] = TimedArm("slow", "Slow", "torch", run)
    before = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        if fails:
            with pytest.raises(RuntimeError, match="the arm broke"):
                bench.measure()
        else:
            bench.measure()
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if before else gc.disable)()
    assert during and not any(during)

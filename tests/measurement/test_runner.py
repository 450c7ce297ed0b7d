"""The runner, on a clock that only moves when an arm works: nothing here depends on real time."""

import gc
import math
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import pytest

from service.bundle.latency import Series
from service.errors import MeasurementCancelled, MeasurementRefused
from service.measurement.economy import Question
from service.measurement.runner import MIN_ROUNDS, MeasuredSeries, Workload, measure_series
from service.measurement.sessions import MAX_DROPPED_IN_A_ROW, MAX_WARMUP_RUNS, ROUNDS_PER_SESSION, warm_up
from service.measurement.statistics import MIN_SESSIONS
from service.measurement.timed_arm import ArmFacts, Run, TimedArm
from service.measurement.traffic import Traffic

MS = 1_000_000
FACTS = ArmFacts(engine="torch", nodes=None, batch_normalizations=4, bytes=500, precision="fp32", device="cpu")
NAMES = ("slow", "fast", "twin")
QUESTIONS = (Question("gain", "Faster?", "slow", "fast"), Question("loss", "Slower?", "fast", "slow"))
OPENING_MS = 50
WARMUP_RUNS = 6  # of steady arms: two windows of three
SESSION_MS = 3 * OPENING_MS + (WARMUP_RUNS + ROUNDS_PER_SESSION) * 70


class Bench:
    """A clock and arms that advance it by their cost; ``log`` holds each opening and run in order."""

    def __init__(self, **costs_ms: float) -> None:
        self.now_ns = 0
        self.log: list[str] = []
        self.costs_ms = {"slow": 30.0, "fast": 20.0, "twin": 20.0} | costs_ms
        self.arms = [TimedArm(name, name.title(), FACTS, self._opener(name)) for name in self.costs_ms]

    def clock_ns(self) -> int:
        return self.now_ns

    def _opener(self, name: str) -> Callable[[], Run]:
        def open_arm() -> Run:
            self.log.append(f"open {name}")
            self.now_ns += OPENING_MS * MS
            return run

        def run() -> None:
            self.log.append(name)
            self.now_ns += round(self.costs_ms[name] * MS)

        return open_arm

    def measure(
        self,
        rounds: int = 21,
        budget_s: float = 1e6,
        progress: Callable[[int, int], None] | None = None,
        traffic: Traffic | None = None,
        workload: Workload = Workload(),  # noqa: B008 (frozen)
    ) -> Series:
        found = self.measure_within(rounds, budget_s, progress, traffic, workload)
        assert not found.given_up
        return found.series

    def measure_within(
        self,
        rounds: int,
        budget_s: float,
        progress: Callable[[int, int], None] | None = None,
        traffic: Traffic | None = None,
        workload: Workload = Workload(),  # noqa: B008 (frozen)
        questions: Sequence[Question] = QUESTIONS,
    ) -> MeasuredSeries:
        return measure_series(
            self.arms,
            workload=workload,
            null_control=Question("null_control", "Same?", "fast", "twin"),
            questions=questions,
            rounds=rounds,
            budget_s=budget_s,
            progress=progress,
            traffic=traffic,
            clock_ns=self.clock_ns,
        )

    def sessions(self) -> list[list[str]]:
        """What each session ran after its openings, warm-up included."""
        width, found = len(self.arms), list[list[str]]()
        for number, entry in enumerate(self.log):
            if entry.startswith("open ") and (number == 0 or not self.log[number - 1].startswith("open ")):
                assert sorted(self.log[number : number + width]) == sorted(f"open {name}" for name in self.costs_ms)
                found.append([])
            elif not entry.startswith("open "):
                found[-1].append(entry)
        return found

    def timed_rounds(self) -> list[tuple[str, ...]]:
        """Order of the arms in each timed round."""
        width, timed = len(self.arms), list[tuple[str, ...]]()
        for runs in self.sessions():
            rounds = runs[-ROUNDS_PER_SESSION * width :]
            timed += [tuple(rounds[start : start + width]) for start in range(0, len(rounds), width)]
        return timed


def test_report_states_what_was_run() -> None:
    report = Bench().measure()
    assert (report.sessions, report.rounds, report.batch, report.callers, report.kind) == (7, 21, 1, 1, "latency")
    assert {(arm.engine, arm.nodes, arm.batch_normalizations, arm.bytes) for arm in report.arms} == {
        ("torch", None, 4, 500)
    }
    assert [(arm.name, arm.samples, arm.median_ms, arm.p05_ms, arm.p95_ms) for arm in report.arms] == [
        ("slow", 21, 30, 30, 30),
        ("fast", 21, 20, 20, 20),
        ("twin", 21, 20, 20, 20),
    ]
    assert {arm.load_ms for arm in report.arms} == {OPENING_MS}
    assert report.dropped_rounds == 0
    assert report.duration_s == pytest.approx(7 * SESSION_MS / 1000)
    assert Series.model_validate_json(report.model_dump_json()) == report


def test_images_per_second_are_those_of_all_callers() -> None:
    work = Workload("throughput", "cpu", batch=4, callers=3, runs_per_caller=2)
    series = Bench().measure(workload=work)
    assert (series.kind, series.batch, series.callers, series.runs_per_caller) == ("throughput", 4, 3, 2)
    # 24 images in 30 ms and in 20 ms.
    assert [arm.images_per_second for arm in series.arms] == pytest.approx([800, 1200, 1200])


def test_every_arm_is_loaded_anew_for_each_session() -> None:
    bench = Bench()
    report = bench.measure()
    assert len(bench.sessions()) == report.sessions
    openings = Counter(entry for entry in bench.log if entry.startswith("open "))
    assert set(openings.values()) == {report.sessions}


def test_rounds_are_made_up_to_whole_sessions() -> None:
    assert Bench().measure(rounds=13).rounds == 15


def test_the_luck_of_a_load_widens_the_interval() -> None:
    """Every load of the twin draws a speed of its own: no verdict, though each session by itself looks certain."""
    bench = Bench()
    lucks = iter([26, 16, 24, 17, 25, 18, 22])
    opened = bench.arms[0]

    def open_lucky() -> Run:
        bench.costs_ms["slow"] = next(lucks)
        return opened.open()

    bench.arms[0] = TimedArm(opened.name, opened.title, opened.facts, open_lucky)
    answer = bench.measure().comparisons[0]
    assert answer.verdict == "indistinguishable"
    assert answer.ci95_low < 1 < answer.ci95_high


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
    bench.measure(rounds=60)
    rounds = bench.timed_rounds()
    assert len(rounds) == 60
    assert all(sorted(order) == sorted(NAMES) for order in rounds)
    seen = Counter(rounds)
    assert len(seen) == 6  # all permutations of three arms
    assert max(seen.values()) < 25


def test_the_order_is_reproducible() -> None:
    first, second = Bench(), Bench()
    first.measure(), second.measure()
    assert first.log == second.log


def test_samples_are_kept_however_far_out() -> None:
    bench = Bench()
    opened, runs = bench.arms[0], 0

    def hiccup() -> None:
        nonlocal runs
        runs += 1
        bench.now_ns += (5000 if runs == WARMUP_RUNS + 2 else 30) * MS

    bench.arms[0] = TimedArm(opened.name, opened.title, opened.facts, lambda: hiccup)
    report = bench.measure(rounds=MIN_ROUNDS)
    assert report.arms[0].samples == MIN_ROUNDS
    assert report.arms[0].median_ms == 30
    assert report.arms[0].p95_ms > 1000


@pytest.mark.parametrize("budget_s", [math.inf, 100.0, 5.0, 4.0, 3.0])
def test_sessions_are_given_up_for_the_budget(budget_s: float) -> None:
    report = Bench().measure(rounds=30, budget_s=budget_s)
    assert report.sessions >= MIN_SESSIONS
    assert {arm.samples for arm in report.arms} == {report.sessions * ROUNDS_PER_SESSION}
    assert report.duration_s <= budget_s
    if budget_s >= 100:
        assert report.sessions == 10
    else:  # another session of the same length would not have ended in time
        assert report.duration_s * (report.sessions + 1) / report.sessions > budget_s


@pytest.mark.parametrize(
    ("budget_s", "rounds_each"),
    [
        (0.001, 1),
        # Warm-up ends after one run of each arm: its share is used up. Then 70 ms for every round.
        (4 * (0.15 + 0.07 + 1.9 * 0.07), 1),
        (4 * (0.15 + 0.07 + 2.1 * 0.07), 2),
        (4 * (0.15 + 0.07 + 3.1 * 0.07), 3),
    ],
)
def test_a_slow_machine_runs_fewer_rounds_in_each_session(budget_s: float, rounds_each: int) -> None:
    bench = Bench()
    report = bench.measure(rounds=120, budget_s=budget_s)
    assert (report.sessions, report.rounds) == (MIN_SESSIONS, MIN_SESSIONS * rounds_each)
    assert {len(runs) for runs in bench.sessions()} == {(1 + rounds_each) * len(NAMES)}


HUGE_QUESTION = Question("huge", "Much faster?", "huge", "fast")
#: Of the three arms that the other questions need: opening, warm-up and a round in each of four sessions.
THREE_ARMS_MS = MIN_SESSIONS * (3 * OPENING_MS + 70 + 70)
#: Of the arm that only its own question needs, in the first session, before it can be given up.
HUGE_MS = 1000
TRIED_MS = OPENING_MS + HUGE_MS
WHOLE_MS = THREE_ARMS_MS + MIN_SESSIONS * (TRIED_MS + HUGE_MS)


@pytest.mark.parametrize(
    ("budget_ms", "given_up"),
    [(WHOLE_MS, []), (WHOLE_MS - 1, ["huge"]), (THREE_ARMS_MS + TRIED_MS, ["huge"]), (1, ["huge"])],
)
def test_questions_that_the_budget_has_no_room_for_are_given_up_with_their_arms(
    budget_ms: float, given_up: list[str]
) -> None:
    bench = Bench(huge=float(HUGE_MS))
    found = bench.measure_within(rounds=3000, budget_s=budget_ms / 1000, questions=(*QUESTIONS, HUGE_QUESTION))
    assert [question.name for question in found.given_up] == given_up
    answered = [answer.name for answer in found.series.comparisons]
    assert answered == [name for name in ("gain", "loss", "huge") if name not in given_up]
    assert {arm.name for arm in found.series.arms} == {*NAMES, "huge"} - set(given_up)
    assert found.series.sessions >= MIN_SESSIONS
    assert Counter(bench.log)["open huge"] == (1 if given_up else MIN_SESSIONS)
    if budget_ms >= THREE_ARMS_MS + TRIED_MS:
        assert found.series.duration_s <= budget_ms / 1000


def test_a_session_of_fewer_arms_is_judged_by_the_right_times() -> None:
    """The arm given up is the first one: columns that stayed where they were would be one off."""
    bench = Bench(huge=float(HUGE_MS))
    bench.arms.insert(0, bench.arms.pop())
    found = bench.measure_within(rounds=3000, budget_s=0.001, questions=(HUGE_QUESTION, *QUESTIONS))
    assert [(arm.name, arm.median_ms) for arm in found.series.arms] == [("slow", 30), ("fast", 20), ("twin", 20)]
    assert found.series.comparisons[0].speedup == pytest.approx(1.5)


def test_waiting_for_quiet_gives_up_no_question() -> None:
    class Waits(Requests):
        def wait_until_quiet(self) -> int:
            if self.waits < 3:
                bench.now_ns += 60_000 * MS
            return super().wait_until_quiet()

    bench = Bench(huge=float(HUGE_MS))
    traffic = Waits(bench, set())
    budget_s = WHOLE_MS / 1000
    found = bench.measure_within(rounds=3000, budget_s=budget_s, traffic=traffic, questions=(HUGE_QUESTION, *QUESTIONS))
    assert found.given_up == [] and found.series.duration_s > 180


def test_a_session_lets_go_of_what_it_loaded_before_the_next_one_loads() -> None:
    bench = Bench()
    loaded = weakref.WeakSet[object]()
    most = 0

    class Network:
        def __call__(self) -> None:
            bench.now_ns += MS

    def opener() -> Run:
        nonlocal most
        network = Network()
        loaded.add(network)
        most = max(most, len(loaded))
        return network

    bench.arms = [TimedArm(name, name, FACTS, opener) for name in NAMES]
    bench.measure()
    assert most == len(NAMES)


def test_questions_about_other_arms_are_a_mistake() -> None:
    with pytest.raises(ValueError, match=r"not there: .*'huge'"):
        Bench().measure_within(rounds=MIN_ROUNDS, budget_s=1e6, questions=(HUGE_QUESTION,))


def test_the_warm_up_of_a_slow_arm_is_short_even_without_a_budget() -> None:
    """Each run is half as long again as the one before, so that medians never agree."""
    bench = Bench()
    opened = bench.arms[0]

    def open_slow() -> Run:
        run, cost_ms = opened.open(), 100.0

        def ever_slower() -> object:
            nonlocal cost_ms
            cost_ms *= 1.5
            bench.now_ns += round(cost_ms * MS)
            return run()

        return ever_slower

    bench.arms[0] = TimedArm(opened.name, opened.title, opened.facts, open_slow)
    bench.measure(rounds=MIN_ROUNDS, budget_s=math.inf)
    # 180, 255, 368, 536 and 789 ms, 30 of them its own, are the first to exceed 2 s.
    assert [runs.count("slow") for runs in bench.sessions()] == [5 + ROUNDS_PER_SESSION] * MIN_SESSIONS


def test_too_few_rounds_are_refused_before_any_run() -> None:
    bench = Bench()
    with pytest.raises(MeasurementRefused, match=f"at least {MIN_ROUNDS} rounds, not {MIN_ROUNDS - 1}"):
        bench.measure(rounds=MIN_ROUNDS - 1)
    assert bench.log == []


def test_progress_counts_the_rounds() -> None:
    bench = Bench()
    calls: list[tuple[int, int]] = []
    bench.measure(progress=lambda done, total: calls.append((done, total)))
    assert calls == [(3, 21), (6, 21), (9, 21), (12, 21), (15, 21), (18, 21), (21, 21)]


def test_progress_is_outside_the_times() -> None:
    bench = Bench()

    def slow_progress(done: int, total: int) -> None:
        bench.now_ns += 1000 * MS

    assert bench.measure(progress=slow_progress).arms[0].p95_ms == 30


class Requests:
    """Other work that begins during certain runs of an arm."""

    def __init__(self, bench: Bench, disturbed_runs: set[int]) -> None:
        self.begun, self.waits, self._runs = 0, 0, 0
        opened = bench.arms[0]

        def open_disturbed() -> Run:
            run = opened.open()

            def disturbed() -> object:
                self._runs += 1
                if self._runs in disturbed_runs:
                    self.begun += 1
                    bench.now_ns += 7000 * MS
                return run()

            return disturbed

        bench.arms[0] = TimedArm(opened.name, opened.title, opened.facts, open_disturbed)

    def wait_until_quiet(self) -> int:
        self.waits += 1
        return self.begun

    def count(self) -> int:
        return self.begun


def test_rounds_that_other_work_fell_into_are_repeated() -> None:
    bench = Bench()
    # The seventh run of the first session is its first timed one, the next repeats it.
    traffic = Requests(bench, {WARMUP_RUNS + 1, WARMUP_RUNS + 2, WARMUP_RUNS + 4})
    report = bench.measure(traffic=traffic)
    assert report.dropped_rounds == 3
    assert [(arm.samples, arm.median_ms, arm.p95_ms) for arm in report.arms] == [
        (21, 30, 30),
        (21, 20, 20),
        (21, 20, 20),
    ]


def test_requests_that_never_leave_a_round_alone_end_the_measurement() -> None:
    bench = Bench()
    traffic = Requests(bench, set(range(WARMUP_RUNS + 2, 10_000)))
    with pytest.raises(MeasurementRefused, match=f"{MAX_DROPPED_IN_A_ROW} rounds in a row"):
        bench.measure(traffic=traffic)
    assert traffic.begun == MAX_DROPPED_IN_A_ROW


def test_a_measurement_waits_before_each_opening_warm_up_and_round() -> None:
    bench = Bench()
    traffic = Requests(bench, set())
    report = bench.measure(traffic=traffic)
    assert traffic.waits == report.sessions * (2 * len(NAMES) + ROUNDS_PER_SESSION)


def test_a_wait_that_is_refused_ends_the_measurement() -> None:
    class Cancelled(Requests):
        def wait_until_quiet(self) -> int:
            if self.waits == 20:
                raise MeasurementCancelled("asked to end")
            return super().wait_until_quiet()

    bench = Bench()
    with pytest.raises(MeasurementCancelled, match="asked to end"):
        bench.measure(traffic=Cancelled(bench, set()))
    assert gc.isenabled()


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

    assert warm_up(run, budget_ms * MS, lambda: int(now_ns)) == int(cost_ms(runs - 1) * MS)
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

    bench.arms[0] = TimedArm("slow", "Slow", FACTS, lambda: run)
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


@pytest.mark.parametrize("fails", [True, False])
def test_what_was_there_is_set_aside_meanwhile_and_no_longer(fails: bool) -> None:
    bench = Bench()
    during: list[int] = []

    def run() -> None:
        during.append(gc.get_freeze_count())
        bench.now_ns += MS
        if fails:
            raise RuntimeError("the arm broke")

    bench.arms[0] = TimedArm("slow", "Slow", FACTS, lambda: run)
    frozen = gc.get_freeze_count() > 0
    gc.unfreeze()
    try:
        with pytest.raises(RuntimeError) if fails else nullcontext():
            bench.measure()
        assert gc.get_freeze_count() == 0
        gc.freeze()
        with pytest.raises(RuntimeError) if fails else nullcontext():
            bench.measure()
        assert gc.get_freeze_count() > 0, "what others set aside stays so"
    finally:
        if not frozen:
            gc.unfreeze()
    assert during and min(during) > 1000

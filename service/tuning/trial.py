"""Candidates run side by side on the same pictures: checked first, then timed in short rounds until the time is up.

Bounded by dropping early: of each kind of engine only the first layout is loaded at once, the other layouts only of
kinds that keep up, and whoever is clearly behind is not timed again.
"""

import logging
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import cycle, islice

import numpy as np
from numpy.typing import NDArray

from service.errors import SelfCheckFailed, YolofoldError, fault_in_words
from service.inference.engine import InferenceEngine
from service.settings import Objective
from service.tuning.records import Candidate, CandidateResult, Verdict
from service.tuning.selection import score
from service.tuning.tolerance import Agreement, Reference

log = logging.getLogger(__name__)

#: Seconds after which no further round begins. What is loaded by then has been checked and timed once in any case, so
#: a network that takes a second for a picture takes longer than this.
BUDGET_S = 6.0
#: Share of the budget after which no further layout is loaded.
_LOADING_SHARE = 0.6
#: Runs of one caller alone and, in the burst that follows, of each caller.
_RUNS_ALONE, _RUNS_PER_CALLER = 3, 2
_MOST_ROUNDS = 8
#: Who reaches less than this share of the best score is not timed again, nor are other layouts of its kind.
_CLEARLY_BEHIND = 0.75


@dataclass(frozen=True)
class Entry:
    """A candidate and how it is loaded; whatever loading raises is the candidate's failure."""

    candidate: Candidate
    load: Callable[[], InferenceEngine]


class Budget:
    """Wall-clock time, seconds."""

    def __init__(self, seconds: float = BUDGET_S, clock: Callable[[], float] = time.perf_counter) -> None:
        """Start counting."""
        self._clock, self._begun, self._seconds = clock, clock(), seconds

    @property
    def spent(self) -> float:
        """Share that has gone by; above 1 when it is used up."""
        return (self._clock() - self._begun) / self._seconds


@dataclass
class _Runner:
    """A candidate that passed, with what was timed so far; it outlives the engine that was timed."""

    candidate: Candidate
    agreement: Agreement
    alone_s: list[float] = field(default_factory=list)
    per_second: list[float] = field(default_factory=list)

    @property
    def latency_ms(self) -> float:
        return statistics.median(self.alone_s) * 1e3

    @property
    def images_per_second(self) -> float:
        return statistics.median(self.per_second)

    def time_round(
        self, engine: InferenceEngine, pictures: Sequence[NDArray[np.uint8]], callers: ThreadPoolExecutor
    ) -> None:
        """A few runs alone, then a burst of as many callers as workers."""
        turns = cycle(pictures)
        for picture in islice(turns, _RUNS_ALONE):
            begun = time.perf_counter()
            engine.run(picture[None])
            self.alone_s.append(time.perf_counter() - begun)
        burst = list(islice(turns, self.candidate.workers * _RUNS_PER_CALLER))
        begun = time.perf_counter()
        answer_all(engine, burst, callers)
        self.per_second.append(len(burst) / (time.perf_counter() - begun))


class Trial:
    """One comparison of candidates. ``run`` it once."""

    def __init__(
        self,
        entries: Sequence[Entry],
        pictures: Sequence[NDArray[np.uint8]],
        reference: Reference,
        approve: Callable[[InferenceEngine], object],
        objective: Objective,
        budget: Budget,
    ) -> None:
        """Prepare to compare.

        Args:
            entries: in the order in which the earlier one wins a tie.
            pictures: letterboxed ones (H, W, 3) uint8 BGR that ``reference`` holds the answers to.
            approve: the check that each engine has to pass at the start of the service; raises ``YolofoldError``.
        """
        self._entries, self._pictures, self._reference = entries, pictures, reference
        self._approve, self._objective, self._budget = approve, objective, budget
        self._results: dict[Candidate, CandidateResult] = {}
        self._runners: dict[Candidate, _Runner] = {}
        #: Of those still in the race only: each keeps weights and activations in memory.
        self._engines: dict[Candidate, InferenceEngine] = {}

    def run(self) -> list[CandidateResult]:
        """Check and time the candidates; those that were timed all have the verdict ``slower`` as yet.

        Returns:
            One result for each entry, in their order.
        """
        leaders: dict[tuple[str, str, str], Entry] = {}
        for entry in self._entries:
            leaders.setdefault(entry.candidate.kind, entry)
        for entry in leaders.values():
            self._admit(entry)
        self._time_round()
        for entry in self._entries:
            leader = leaders[entry.candidate.kind]
            if entry is not leader and not self._passed_over(entry, leader.candidate):
                self._admit(entry)
        for _ in range(_MOST_ROUNDS):
            self._time_round()
            # Whoever is left alone has won.
            if len(self._engines) <= 1 or self._budget.spent >= 1:
                break
        self._report_timed()
        return [self._results[entry.candidate] for entry in self._entries]

    def _admit(self, entry: Entry) -> None:
        """Load a candidate and check its boxes, through as many callers as it will have."""
        candidate = entry.candidate
        try:
            engine = entry.load()
            self._approve(engine)
            with ThreadPoolExecutor(candidate.workers) as callers:
                answers = answer_all(engine, self._pictures, callers)
            agreement = self._reference.judge(candidate.precision, answers)
        except SelfCheckFailed as error:
            self._conclude(candidate, "refused", str(error))
            return
        except Exception as error:
            self._fail(candidate, error)
            return
        if agreement.fault is None:
            self._runners[candidate], self._engines[candidate] = _Runner(candidate, agreement), engine
        else:
            self._conclude(candidate, "refused", agreement.fault, agreement)

    def _passed_over(self, entry: Entry, leader: Candidate) -> bool:
        """Whether another layout of a kind is not worth loading; then the reason is on record."""
        candidate, found = entry.candidate, self._results.get(leader)
        if found is not None:
            self._conclude(candidate, "not_measured", f"its kind {found.verdict} in another layout")
        elif self._behind(leader):
            self._conclude(candidate, "not_measured", "clearly behind in another layout")
        elif self._budget.spent > _LOADING_SHARE:
            self._conclude(candidate, "not_measured", "the time was up")
        else:
            return False
        return True

    def _time_round(self) -> None:
        """Time whoever is in the race; who has failed or is clearly behind then is not any more."""
        for candidate in list(self._engines):
            runner = self._runners[candidate]
            try:
                with ThreadPoolExecutor(candidate.workers) as callers:
                    runner.time_round(self._engines[candidate], self._pictures, callers)
            except Exception as error:
                del self._runners[candidate], self._engines[candidate]
                self._fail(candidate, error, runner.agreement)
        for candidate in [candidate for candidate in self._engines if self._behind(candidate)]:
            del self._engines[candidate]

    def _behind(self, candidate: Candidate) -> bool:
        best = max((self._score(runner) for runner in self._runners.values() if runner.alone_s), default=0.0)
        return self._score(self._runners[candidate]) < _CLEARLY_BEHIND * best

    def _score(self, runner: _Runner) -> float:
        if not runner.per_second:
            return 0.0
        return score(self._objective, runner.latency_ms, runner.images_per_second)

    def _report_timed(self) -> None:
        for candidate, runner in self._runners.items():
            self._conclude(candidate, "slower", "timed", runner.agreement, runner)

    def _fail(self, candidate: Candidate, error: Exception, agreement: Agreement | None = None) -> None:
        if not isinstance(error, YolofoldError):
            log.warning("%s failed while it was measured", candidate.title, exc_info=error)
        self._conclude(candidate, "failed", fault_in_words(error), agreement)

    def _conclude(
        self,
        candidate: Candidate,
        verdict: Verdict,
        reason: str,
        agreement: Agreement | None = None,
        runner: _Runner | None = None,
    ) -> None:
        self._results[candidate] = CandidateResult(
            candidate=candidate,
            verdict=verdict,
            reason=reason,
            latency_ms=None if runner is None else runner.latency_ms,
            images_per_second=None if runner is None else runner.images_per_second,
            runs=0 if runner is None else len(runner.alone_s),
            boxes=None if agreement is None else agreement.boxes,
            boxes_matched=None if agreement is None else agreement.matched,
            boxes_extra=None if agreement is None else agreement.extra,
            box_px=None if agreement is None else agreement.box_px,
            confidence=None if agreement is None else agreement.confidence,
        )


def answer_all(
    engine: InferenceEngine, pictures: Iterable[NDArray[np.uint8]], callers: ThreadPoolExecutor
) -> list[NDArray[np.float32]]:
    """Rows (N, 6) of each picture (H, W, 3), in their order. Raises what the engine raises."""
    return list(callers.map(lambda picture: engine.run(picture[None])[0], pictures))

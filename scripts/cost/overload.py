"""Overload: requests that come at their own pace, more of them than the server can answer."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from scripts.bench.closed_loop import LoadFailed
from scripts.bench.open_loop import Tally, due_times, run_tallied
from scripts.bench.running import Running
from scripts.bench.turns import PAUSE_S
from scripts.bench.upload import Address
from scripts.cost.measuring import Say, resident_bytes
from scripts.cost.paced import LONGER, run_paced_rounds
from scripts.cost.spots import Spot

#: Times the capacity.
FACTORS = (1, 2, 4)
#: The service is too busy; what it answers to requests beyond its queue.
REFUSED = 503


@dataclass(frozen=True)
class Overload:
    """What came of the rounds at one multiple of the capacity.

    Attributes:
        factor: requests due per second, over the capacity.
        capacity_per_s: images per second of a closed loop, median of the rounds.
        answered_share: answers 2xx per second, while requests came and until the last of them was answered, over the
            closed loop's of the same round: median of the rounds.
        least, greatest: of ``answered_share``.
        requests: of all rounds together.
        refused_share: of them, answered 503.
        failed_share: of them, neither 2xx nor 503: another status, a connection that broke, or no answer.
        refused_p50_ms, refused_p99_ms: from the time a request was due to its 503; None if there was none.
        send_lag_ms: largest delay of the sender itself. It is part of those latencies.
        before_mb, after_mb: resident memory before the load of the first round and some time after that of the last.
    """

    factor: int
    capacity_per_s: float
    answered_share: float
    least: float
    greatest: float
    requests: int
    refused_share: float
    failed_share: float
    refused_p50_ms: float | None
    refused_p99_ms: float | None
    send_lag_ms: float
    before_mb: float
    after_mb: float

    @property
    def words(self) -> str:
        """For people."""
        refusals = "no 503"
        if self.refused_p50_ms is not None and self.refused_p99_ms is not None:
            refusals = f"503 after p50 {self.refused_p50_ms:.0f}, p99 {self.refused_p99_ms:.0f} ms"
        return (
            f"{self.factor} times {self.capacity_per_s:.1f}/s: answers {self.answered_share:.3f} of the capacity "
            f"({self.least:.3f} to {self.greatest:.3f}), {self.refused_share:.1%} refused, {self.failed_share:.1%} "
            f"failed, {refusals}, {self.before_mb:.0f} to {self.after_mb:.0f} MB"
        )


@dataclass(frozen=True)
class _Round:
    capacity_per_s: float
    tally: Tally
    before_mb: float
    after_mb: float


def measure_overload(
    spot: Spot,
    cores: Sequence[int],
    rounds: int,
    seconds: int,
    scratch: Path,
    say: Say,
    factors: Sequence[int] = FACTORS,
) -> list[Overload]:
    """In each round measure the capacity, for ``seconds``, and then ask for each multiple of it, in a random order.

    The first round warms up and does not count. All requests come over connections that are kept open, of which there
    are as many as are busy at once, 512 at most (``open_loop.MOST_TALLIED_CONNECTIONS``).

    Args:
        spot: what is served and sent.
        cores: numbers of those that the server may use.

    Raises:
        ServerFailed, LoadFailed: the server does not start, refuses a request of the closed loop or answers none.
    """

    def load(up: Running, address: Address, capacity_per_s: float, factor: int) -> _Round:
        before = resident_bytes(up.pid)
        tally = run_tallied(address, spot.body, capacity_per_s * factor, LONGER * seconds)
        time.sleep(PAUSE_S)
        return _Round(capacity_per_s, tally, before / 1e6, resident_bytes(up.pid) / 1e6)

    found = run_paced_rounds(spot, cores, rounds, seconds, scratch / "overload.log", say, "Overload", factors, load)
    return [_summarise(factor, of_factor) for factor, of_factor in found.items()]


def _summarise(factor: int, rounds: Sequence[_Round]) -> Overload:
    shares = [_answered_per_s(one.tally) / one.capacity_per_s for one in rounds]
    answers = [answer for one in rounds for answer in one.tally.answers]
    refusals = [answer.latency_ms for answer in answers if answer.status == REFUSED]
    good = sum(answer.good for answer in answers)
    p50, p99 = (
        float(np.percentile(refusals, percent, method="inverted_cdf")) if refusals else None for percent in (50, 99)
    )
    return Overload(
        factor,
        median(one.capacity_per_s for one in rounds),
        median(shares),
        min(shares),
        max(shares),
        len(answers),
        len(refusals) / len(answers),
        (len(answers) - len(refusals) - good) / len(answers),
        p50,
        p99,
        max(one.tally.send_lag_ms for one in rounds),
        rounds[0].before_mb,
        rounds[-1].after_mb,
    )


def _answered_per_s(tally: Tally) -> float:
    due = due_times(tally.rate_per_s, len(tally.answers))
    ends = [
        after_s + answer.latency_ms / 1000 for after_s, answer in zip(due, tally.answers, strict=True) if answer.good
    ]
    if not ends:
        raise LoadFailed(f"of {len(tally.answers)} requests at {tally.rate_per_s:.1f} a second none was answered")
    return len(ends) / max(len(due) / tally.rate_per_s, *ends)

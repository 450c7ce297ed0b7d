"""From visits to the figures of the report: medians, pooled percentiles, and ratios with their intervals. Pure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from numpy.typing import NDArray

from scripts.bench.rounds import Cell, Visit
from service.measurement.statistics import MIN_SESSIONS, estimate_speedup

PERCENTILES = (50, 90, 99)


@dataclass(frozen=True)
class Ratio:
    """A server's figure over yolofold's of the same rounds, with its 95 % interval.

    Attributes:
        low, high: None with fewer than 4 rounds, which allow no interval worth the name.
    """

    estimate: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Throughput:
    """Images per second in one cell: the median over the rounds, and the ratio to yolofold's (above 1: more)."""

    images_per_s: float
    ratio: Ratio


@dataclass(frozen=True)
class Summary:
    """What the report says of one server.

    Attributes:
        latency_ms: by percentile, of all rounds' open-loop requests together; infinite if too few were answered.
        latency_ratio: of the rounds' medians (above 1: slower).
        requests: open-loop requests in all, of which ``unanswered`` had no answer when patience ended.
        peak_bytes: largest of the rounds.
        startup_s: median of the rounds.
    """

    rounds: int
    throughput: Mapping[Cell, Throughput]
    latency_ms: Mapping[int, float]
    latency_ratio: Ratio | None
    requests: int
    unanswered: int
    peak_bytes: int
    startup_s: float


def summarise(visits: Sequence[Visit], reference: Sequence[Visit]) -> Summary:
    """Summarise a server beside the reference, whose visits took place in the same rounds.

    Raises:
        ValueError: not the same number of rounds, or none.
    """
    if not visits or len(visits) != len(reference):
        raise ValueError(f"expected as many rounds as the reference has, got {len(visits)} and {len(reference)}")
    latencies = np.array([latency for visit in visits for latency in visit.open.latencies_ms])
    return Summary(
        rounds=len(visits),
        throughput={cell: _throughput(cell, visits, reference) for cell in visits[0].closed},
        latency_ms={p: percentile(latencies, p) for p in PERCENTILES},
        latency_ratio=_latency_ratio(visits, reference),
        requests=len(latencies),
        unanswered=int(np.isinf(latencies).sum()),
        peak_bytes=max(visit.peak_bytes for visit in visits),
        startup_s=median(visit.startup_s for visit in visits),
    )


def percentile(latencies: NDArray[np.float64], percent: int) -> float:
    """The smallest latency that at least ``percent`` of them do not exceed (nearest rank: no invented values)."""
    rank = math.ceil(percent / 100 * len(latencies))
    return float(np.sort(latencies)[max(rank, 1) - 1])


def ratio_to(candidate: Sequence[float], reference: Sequence[float]) -> Ratio:
    """Candidate over reference, round by round: the geometric mean, with Student's t over the rounds.

    Args:
        candidate, reference: positive and finite, one figure per round.
    """
    if len(candidate) < MIN_SESSIONS:
        return Ratio(math.exp(float(np.mean(np.log(candidate) - np.log(reference)))), None, None)
    # It divides its first argument by its second; a session here is a round with one figure.
    found = estimate_speedup(np.array(candidate)[:, None], np.array(reference)[:, None])
    return Ratio(found.estimate, found.low, found.high)


def _throughput(cell: Cell, visits: Sequence[Visit], reference: Sequence[Visit]) -> Throughput:
    own, theirs = ([visit.closed[cell].images_per_s for visit in side] for side in (visits, reference))
    return Throughput(median(own), ratio_to(own, theirs))


def _latency_ratio(visits: Sequence[Visit], reference: Sequence[Visit]) -> Ratio | None:
    own, theirs = (
        [percentile(np.array(visit.open.latencies_ms), 50) for visit in side] for side in (visits, reference)
    )
    return ratio_to(own, theirs) if all(map(math.isfinite, (*own, *theirs))) else None

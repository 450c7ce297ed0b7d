"""A server's figures over those of others in the same rounds, and over the bare engines'. Pure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from scripts.bench.rounds import Ceiling, Cell, Visit
from scripts.bench.summary import Ratio, percentile, ratio_to


@dataclass(frozen=True)
class Comparison:
    """Ratios to the best of others, which may be another one in each round and in each cell.

    Attributes:
        throughput: above 1: more images per second.
        latency: of the open loop's median; above 1: slower. None if too few requests were answered.
    """

    throughput: Mapping[Cell, Ratio]
    latency: Ratio | None


def compare(visits: Sequence[Visit], others: Sequence[Sequence[Visit]]) -> Comparison:
    """A server beside the best of ``others``, which visited the same rounds.

    Raises:
        ValueError: no others, or not the same number of rounds.
    """
    if not others or any(len(other) != len(visits) for other in others):
        raise ValueError(f"expected others with {len(visits)} rounds each, got {[len(other) for other in others]}")
    together = list(zip(*others, strict=True))
    throughput = {
        cell: ratio_to(
            _rates(visits, cell),
            [max(visit.closed[cell].images_per_s for visit in one_round) for one_round in together],
        )
        for cell in visits[0].closed
    }
    own = [_median_ms(visit) for visit in visits]
    best = [min(_median_ms(visit) for visit in one_round) for one_round in together]
    latency = ratio_to(own, best) if all(map(math.isfinite, (*own, *best))) else None
    return Comparison(throughput, latency)


def over_ceiling(visits: Sequence[Visit], ceilings: Sequence[Ceiling]) -> dict[Cell, Ratio]:
    """Images per second over those of a bare engine in the same rounds."""
    bare = [ceiling.images_per_s for ceiling in ceilings]
    return {cell: ratio_to(_rates(visits, cell), bare) for cell in visits[0].closed}


def ceiling_medians(ceilings: Sequence[Mapping[str, Ceiling]]) -> dict[str, Ceiling]:
    """Each engine's median over the rounds, in both ways."""
    return {
        name: Ceiling(
            median(found[name].one_run for found in ceilings), median(found[name].run_per_core for found in ceilings)
        )
        for name in ceilings[0]
    }


def _rates(visits: Sequence[Visit], cell: Cell) -> list[float]:
    return [visit.closed[cell].images_per_s for visit in visits]


def _median_ms(visit: Visit) -> float:
    return percentile(np.array(visit.open.latencies_ms), 50)

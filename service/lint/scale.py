"""Tells in which range a tensor's values are: by what they can be, then by what the network was trained on."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.lint.faults import SCALINGS, Scaling

#: Two candidates are told apart when one lies this much closer to the training law, in nats per channel.
MARGIN = 0.05


@dataclass(frozen=True)
class Candidate:
    """One scaling, whether the values can have it, and how far the first layers would be from their training law.

    ``distance`` is None where the values already rule it out.
    """

    scaling: Scaling
    possible: bool
    distance: float | None


@dataclass(frozen=True)
class ScaleVerdict:
    """What the values are taken for.

    Attributes:
        scaling: the likeliest possible scaling; None when the values fit none.
        certain: no other possible one comes near it.
        candidates: all that were looked at.
    """

    scaling: Scaling | None
    certain: bool
    candidates: tuple[Candidate, ...]


def judge_scale(tensor: NDArray[np.float32], distance: Callable[[NDArray[np.float32]], float]) -> ScaleVerdict:
    """Find the scaling of a tensor (3, H, W).

    Args:
        distance: how far a tensor taken for right is from the training law; called for each possible scaling with the
            tensor put right.
    """
    low, high = float(tensor.min()), float(tensor.max())
    candidates = tuple(_candidate(scaling, tensor, low, high, distance) for scaling in SCALINGS)
    ranked = sorted((c.distance, i) for i, c in enumerate(candidates) if c.distance is not None)
    if not ranked:
        return ScaleVerdict(None, certain=False, candidates=candidates)
    best = candidates[ranked[0][1]].scaling
    certain = len(ranked) == 1 or ranked[1][0] - ranked[0][0] >= MARGIN
    return ScaleVerdict(best, certain, candidates)


def _candidate(
    scaling: Scaling,
    tensor: NDArray[np.float32],
    low: float,
    high: float,
    distance: Callable[[NDArray[np.float32]], float],
) -> Candidate:
    possible = scaling.possible(low, high)
    return Candidate(scaling, possible, distance(scaling.undo(tensor)) if possible else None)

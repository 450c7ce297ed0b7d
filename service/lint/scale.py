"""Tells in which range values are: by what they can be, then by what the network was trained on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from service.lint.faults import SCALINGS, Scaling

#: Two scalings are told apart when one lies this much closer to the training law, in nats per channel.
MARGIN = 0.05


@dataclass(frozen=True)
class ScaleVerdict:
    """What the values are taken for.

    Attributes:
        scaling: the likeliest possible scaling; None when the values fit none.
        certain: no other possible one comes near it.
        distances: mean distance from the training law, once put right, of each possible scaling, by name.
    """

    scaling: Scaling | None
    certain: bool
    distances: Mapping[str, float]


def possible_scalings(low: float, high: float) -> tuple[Scaling, ...]:
    """The scalings that pictures with these finite extreme values can have, the right one first."""
    return tuple(scaling for scaling in SCALINGS if scaling.possible(low, high))


def choose_scaling(possible: Sequence[Scaling], distances: Mapping[str, float]) -> ScaleVerdict:
    """The possible scaling whose undoing brings the pictures closest to the training law.

    Args:
        distances: by the scaling's name, for every possible one.
    """
    if not possible:
        return ScaleVerdict(None, certain=False, distances={})
    ranked = sorted(possible, key=lambda scaling: distances[scaling.name])
    certain = len(ranked) == 1 or distances[ranked[1].name] - distances[ranked[0].name] >= MARGIN
    return ScaleVerdict(ranked[0], certain, dict(distances))

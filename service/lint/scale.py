"""Tells in which range values are: by what they can be, then by what the network was trained on."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.lint.faults import SCALINGS, Scaling, find_extremes

#: Two scalings are told apart when one lies this much closer to the training law, in nats per channel.
MARGIN = 0.05
#: A value counts as a multiple of 1/255 within this share of it, which covers half precision from 0 to 1.
_ON_GRID, _GRID_SHARE = 0.07, 0.99
#: Looked at together: whole copies of a large tensor would take several times its memory.
_BAND_ROWS = 64


@dataclass(frozen=True)
class ScaleVerdict:
    """What the values are taken for.

    Attributes:
        scaling: the likeliest possible scaling; None when the values fit none.
        certain: no other possible one comes near it, or the values themselves confirm it alone.
        confirmed: the values themselves confirm it.
        distances: mean distance from the training law, once put right, of each possible scaling, by name; empty
            where no law is known.
    """

    scaling: Scaling | None
    certain: bool
    confirmed: bool
    distances: Mapping[str, float]


def possible_scalings(pictures: Iterable[NDArray[np.float32]]) -> tuple[Scaling, ...]:
    """The scalings that tensors (3, H, W) of finite values can have, the right one first."""
    extremes = find_extremes(pictures)
    return tuple(scaling for scaling in SCALINGS if scaling.possible(extremes))


def confirms_scaling(right: NDArray[np.float32], *, padded_as_expected: bool) -> bool:
    """Whether a tensor (3, H, W) with a scaling undone can hardly be right by chance.

    It cannot where its padding has exactly the colour that it should have, or where nearly all values are whole
    multiples of 1/255 and not all the same, as those of a picture of eight bits are.
    """
    if padded_as_expected:
        return True
    on_grid = 0
    for top in range(0, right.shape[1], _BAND_ROWS):
        steps = right[:, top : top + _BAND_ROWS] * 255
        on_grid += int(np.count_nonzero(np.abs(steps - np.rint(steps)) <= _ON_GRID))
    return on_grid >= _GRID_SHARE * right.size and bool(np.ptp(right) * 255 >= 1)


def choose_scaling(
    possible: Sequence[Scaling], distances: Mapping[str, float], confirmed: Collection[str] = ()
) -> ScaleVerdict:
    """The possible scaling whose undoing brings the pictures closest to the training law.

    Args:
        distances: by the scaling's name, for every possible one; empty where no law is known, and then only what
            values can be decides.
        confirmed: names of those that the values themselves confirm; where there are any, only these are considered.
    """
    if not possible:
        return ScaleVerdict(None, certain=False, confirmed=False, distances={})
    considered = [scaling for scaling in possible if scaling.name in confirmed] or list(possible)
    ranked = sorted(considered, key=lambda scaling: distances[scaling.name]) if distances else considered
    certain = len(ranked) == 1
    if distances and not certain:
        certain = distances[ranked[1].name] - distances[ranked[0].name] >= MARGIN
    return ScaleVerdict(ranked[0], certain, ranked[0].name in confirmed, dict(distances))

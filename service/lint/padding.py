"""Finds the padding of letterboxed tensors: bands of one exact colour along opposite edges."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.lint.faults import HALF_STEP

#: Grey 114, scaled to 0..1: what Ultralytics pads with when it trains.
EXPECTED = 114 / 255
#: A picture may itself end in rows of one colour: a blown-out sky does. Bands must be alike at both edges, or thick.
_THINNEST_PAIR, _THINNEST_SINGLE = 2, 16


@dataclass(frozen=True)
class Padding:
    """Rows and columns of padding, and its colour (red, green, blue), each 0..1."""

    top: int
    bottom: int
    left: int
    right: int
    color: tuple[float, float, float]

    @property
    def expected(self) -> bool:
        """Whether the colour is the one that the network was trained with."""
        return all(abs(value - EXPECTED) <= HALF_STEP for value in self.color)


def find_padding(tensor: NDArray[np.float32]) -> Padding | None:
    """The padding of one tensor (3, H, W) scaled to 0..1, or None where it has none.

    Padding is one exact colour over whole rows or columns: equally many at opposite edges, or many at the bottom or
    at the right alone. A picture that has such a border itself, a scan on white for one, looks the same.
    """
    (top, bottom), (left, right) = _bands(tensor), _bands(tensor.transpose(0, 2, 1))
    if top + bottom == left + right == 0:
        return None
    if top + bottom >= left + right:
        left = right = 0
    else:
        top = bottom = 0
    red, green, blue = (float(value) for value in tensor[:, -1, -1])
    return Padding(top, bottom, left, right, (red, green, blue))


def crop_padding(tensor: NDArray[np.float32], padding: Padding | None) -> NDArray[np.float32]:
    """The picture inside the padding (3, H, W)."""
    if padding is None:
        return tensor
    height, width = tensor.shape[1:]
    return tensor[:, padding.top : height - padding.bottom, padding.left : width - padding.right]


def _bands(tensor: NDArray[np.float32]) -> tuple[int, int]:
    """Rows of padding at the top and at the bottom; (0, 0) where there is none, or nothing else."""
    last = tensor[:, -1:, -1]
    # A row is of one colour where its extremes are; that takes no copies of the tensor.
    same = ((tensor.max(2) - last <= HALF_STEP) & (last - tensor.min(2) <= HALF_STEP)).all(0)
    if same.all():
        return 0, 0
    top, bottom = int(np.argmin(same)), int(np.argmin(same[::-1]))
    if min(top, bottom) >= _THINNEST_PAIR and abs(top - bottom) <= 1:
        return top, bottom
    return (0, bottom) if top == 0 and bottom >= _THINNEST_SINGLE else (0, 0)

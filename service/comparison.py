"""Two sets of detections side by side: which boxes belong together, and how far they are apart. Needs numpy only."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Rows (N, 6) of floats: x1, y1, x2, y2 in pixels, confidence, class id.
Rows = NDArray[np.floating[Any]]

#: Boxes of one class that overlap by this much may be the same one, as may those whose corners lie this close, pixels:
#: empty boxes overlap nothing, and networks propose some.
PAIR_IOU, PAIR_PX = 0.5, 1.0
#: Runtimes approximate the sigmoid, whatever the size of its argument, by up to about 1e-7; measured with ONNX Runtime
#: 1.32 against float64 it is 9e-8. Ten times that never counts as a difference of the score before the sigmoid.
SIGMOID_ERROR = 1e-6
_FLATTEST_SLOPE = 1e-9
#: Where rounding moves a score before the sigmoid by 1, it moves corners by about this many pixels.
_PX_PER_SCORE = 5.0


@dataclass(frozen=True)
class Pairing:
    """Which rows belong together.

    Attributes:
        expected: (P,) indices into the first set, each once.
        found: (P,) their partners in the second.
        only_expected: indices of the first set without a partner, ascending.
        only_found: indices of the second set without a partner, ascending.
    """

    expected: NDArray[np.intp]
    found: NDArray[np.intp]
    only_expected: NDArray[np.intp]
    only_found: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.expected)


@dataclass(frozen=True)
class Difference:
    """Largest differences among pairs; all 0 when there is none.

    Attributes:
        box_px: of any corner's coordinate, pixels.
        confidence: of the confidence.
        score: of the network's score before the sigmoid, as far as ``SIGMOID_ERROR`` does not explain it.
    """

    box_px: float
    confidence: float
    score: float


def pairwise_iou(a: NDArray[np.floating[Any]], b: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """(N, M) intersection over union of boxes (N, 4) and (M, 4), corners in pixels; 0 for boxes without extent."""
    first, second = a.astype(np.float64)[:, None], b.astype(np.float64)[None]
    sides = np.clip(np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(first[..., :2], second[..., :2]), 0, None)
    intersection = sides.prod(-1)
    union = (first[..., 2:] - first[..., :2]).prod(-1) + (second[..., 2:] - second[..., :2]).prod(-1) - intersection
    overlap: NDArray[np.float64] = np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0)
    return overlap


def iou(box: NDArray[np.floating[Any]], boxes: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """(N,) intersection over union of one box (4,) with each of (N, 4), as ``pairwise_iou``."""
    overlap: NDArray[np.float64] = pairwise_iou(box[None], boxes)[0]
    return overlap


def pair_rows(expected: Rows, found: Rows) -> Pairing:
    """Pair rows of the same class that overlap by ``PAIR_IOU`` or lie within ``PAIR_PX``.

    Each row of ``expected``, in its order, takes the free partner nearest in corners and score: neighbouring cells of
    a network propose boxes that overlap almost entirely.
    """
    free = np.ones(len(found), bool)
    pairs: list[tuple[int, int]] = []
    for index, row in enumerate(expected):
        apart = np.abs(found[:, :4] - row[:4]).max(1)
        alike = (iou(row[:4], found[:, :4]) >= PAIR_IOU) | (apart <= PAIR_PX)
        may_pair = free & (found[:, 5] == row[5]) & alike
        if may_pair.any():
            score = np.abs(found[:, 4] - row[4]) / sigmoid_slope(row[4:5])
            distance = np.maximum(apart, _PX_PER_SCORE * score)
            nearest = int(np.where(may_pair, distance, np.inf).argmin())
            free[nearest] = False
            pairs.append((index, nearest))
    own, partner = np.array(pairs, np.intp).reshape(-1, 2).T
    return Pairing(own, partner, np.setdiff1d(np.arange(len(expected)), own), np.flatnonzero(free))


def measure_difference(expected: Rows, found: Rows) -> Difference:
    """How far rows (P, 6) are from their partners (P, 6). NaN among them makes the figure NaN."""
    if not len(expected):
        return Difference(0.0, 0.0, 0.0)
    apart = np.abs(found[:, :5].astype(np.float64) - expected[:, :5])
    beyond_sigmoid = np.clip(apart[:, 4] - SIGMOID_ERROR, 0, None)
    return Difference(
        box_px=float(apart[:, :4].max()),
        confidence=float(apart[:, 4].max()),
        score=float((beyond_sigmoid / sigmoid_slope(expected[:, 4])).max()),
    )


def sigmoid_slope(confidence: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """How much a confidence moves per unit of the score before the sigmoid: p (1 - p)."""
    p = confidence.astype(np.float64)
    return np.maximum(p * (1 - p), _FLATTEST_SLOPE)


@dataclass(frozen=True)
class Tolerance:
    """What two computations of the same network may differ by.

    Attributes:
        box_px: any corner's coordinate, pixels.
        score: the score before the sigmoid. A confidence p may therefore differ by ``score`` p (1 - p), plus
            ``SIGMOID_ERROR``.
    """

    box_px: float
    score: float

    def confidence(self, p: float) -> float:
        """What a confidence ``p`` may differ by."""
        return self.score * float(sigmoid_slope(np.array(p))) + SIGMOID_ERROR


@dataclass(frozen=True)
class Repetition:
    """How far one computation repeats another.

    Attributes:
        matched: expected boxes that were found.
        missing: expected boxes that were not.
        extra: boxes found that are neither expected nor too near the threshold to tell.
        difference: largest differences among the matched.
        passed: all of this lies within what was allowed.
    """

    matched: int
    missing: int
    extra: int
    difference: Difference
    passed: bool


#: Of two overlapping boxes with all but equal confidence, suppression may drop either: this share may change places.
_SUPPRESSION_SHARE = 0.05


def judge_repetition(
    expected: Rows, found: Rows, *, threshold: float, tolerance: Tolerance, suppressed: bool
) -> Repetition:
    """Compare everything a graph answered, ``found`` (M, 6), with the rows it must repeat.

    Args:
        expected: (N, 6), all rows above ``threshold``.
        suppressed: the rows went through non-maximum suppression.
    """
    pairing = pair_rows(expected, found)
    difference = measure_difference(expected[pairing.expected], found[pairing.found])
    surplus = found[pairing.only_found]
    extra = int((surplus[:, 4] > threshold + tolerance.confidence(threshold)).sum())
    missing = len(pairing.only_expected)
    allowed = int(len(expected) * _SUPPRESSION_SHARE) if suppressed else 0
    # Comparisons that NaN does not pass.
    within = difference.box_px <= tolerance.box_px and difference.score <= tolerance.score
    return Repetition(len(pairing), missing, extra, difference, within and max(missing, extra) <= allowed)


def judge_highest(confidence: float, found: Rows, tolerance: Tolerance) -> Repetition:
    """Compare the highest confidence of ``found`` (M, 6) with the one expected.

    For answers of which rounding decides the boxes: whichever come, the first one's confidence is the same.
    """
    rows = np.zeros((2, 1, 6))
    rows[:, 0, 4] = confidence, found[:, 4].max()
    difference = measure_difference(*rows)
    return Repetition(0, 0, 0, difference, difference.score <= tolerance.score)

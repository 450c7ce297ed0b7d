"""Pairs the detections of two networks on one picture."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.bundle.certificate import COMPARISON_THRESHOLD
from service.comparison import iou

#: A box this close to the threshold may fall on either side of it through rounding alone.
THRESHOLD_SLACK = 0.001
MATCH_IOU = 0.99
#: Boxes thinner than this overlap nothing, not even themselves after rounding; networks propose some, even inverted.
THIN_PX = 1.0
#: Thin boxes are the same one when all their corners lie this close, pixels.
MATCH_PX = 0.1


@dataclass(frozen=True)
class DetectionMatch:
    """Outcome of pairing.

    Attributes:
        expected: detections of the reference that must be repeated.
        matched: of these, repeated with the same class and an IoU of at least 0.99, or within 0.1 px if too thin for
            that.
        extra: clear detections of the candidate without a partner.
        max_box_error_px: largest corner difference among the pairs.
        max_confidence_error: largest confidence difference among the pairs.
    """

    expected: int
    matched: int
    extra: int
    max_box_error_px: float
    max_confidence_error: float

    @property
    def complete(self) -> bool:
        """Every expected detection is repeated and there are no others."""
        return self.matched == self.expected and self.extra == 0


def match_detections(expected: NDArray[np.float32], found: NDArray[np.float32]) -> DetectionMatch:
    """Pair two sets of rows (N, 6): x1, y1, x2, y2, confidence, class; greedily, most confident first."""
    clear = max(COMPARISON_THRESHOLD, _common_cut(expected, found)) + THRESHOLD_SLACK
    wanted = expected[expected[:, 4] >= clear]
    candidates = found[found[:, 4] >= COMPARISON_THRESHOLD - THRESHOLD_SLACK]
    free = np.ones(len(candidates), bool)
    box_error = confidence_error = 0.0
    matched = 0
    for row in wanted:
        twins = free & _same_box(row, candidates)
        if not twins.any():
            continue
        best = int(np.where(twins, _apart_px(row, candidates), np.inf).argmin())
        free[best] = False
        matched += 1
        box_error = max(box_error, float(np.abs(candidates[best, :4] - row[:4]).max()))
        confidence_error = max(confidence_error, abs(float(candidates[best, 4] - row[4])))
    # Extras count only if no expected box, even a borderline one, explains them.
    borderline = expected[expected[:, 4] >= COMPARISON_THRESHOLD - THRESHOLD_SLACK]
    surplus = candidates[free & (candidates[:, 4] >= clear)]
    extra = sum(not np.any(_same_box(row, borderline)) for row in surplus)
    return DetectionMatch(len(wanted), matched, int(extra), box_error, confidence_error)


def _common_cut(expected: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    """Where two full outputs were cut off at their weakest rows: below, rounding decides what is in; else 0."""
    cuts = [float(rows[:, 4].min(initial=1.0)) for rows in (expected, found)]
    return max(cuts) if len(expected) == len(found) and min(cuts) >= COMPARISON_THRESHOLD - THRESHOLD_SLACK else 0.0


def match_suppressed(
    candidates: NDArray[np.float32], found: NDArray[np.float32], nms_iou: float, class_offset_px: float
) -> DetectionMatch:
    """Judge suppressed rows (N, 6) by the candidates (M, 6) of the reference, before suppression.

    Suppression itself is not repeatable: of two overlapping boxes with all but equal confidence, either may win. What
    it must satisfy is. Each clear candidate is kept or overlaps a kept box of its class that is no less confident, and
    each kept box is a candidate and overlaps no other kept box of its class.

    Args:
        class_offset_px: suppression saw the boxes of class c moved by c times this, which has rounded their corners.
    """
    possible = candidates[candidates[:, 4] >= COMPARISON_THRESHOLD - 2 * THRESHOLD_SLACK]
    kept = found[found[:, 4] >= COMPARISON_THRESHOLD - THRESHOLD_SLACK]
    # A full output has been cut off at its weakest row.
    cut = float(kept[:, 4].min()) if len(kept) == len(found) > 0 else 0.0
    wanted = candidates[candidates[:, 4] >= max(COMPARISON_THRESHOLD, cut) + THRESHOLD_SLACK]
    explained = 0
    for row in wanted:
        reach = nms_iou - THRESHOLD_SLACK - _iou_rounding(row, class_offset_px)
        winners = _overlaps(row, kept, reach) | _same_box(row, kept)
        explained += bool(np.any(winners & (kept[:, 4] >= row[4] - THRESHOLD_SLACK)))
    extra = 0
    box_error = confidence_error = 0.0
    for row in kept:
        twins = possible[_same_box(row, possible)]
        reach = nms_iou + THRESHOLD_SLACK + _iou_rounding(row, class_offset_px)
        rivals = _overlaps(row, kept, reach).sum()  # itself is one, unless it has no extent
        if not len(twins) or rivals > 1:
            extra += 1
            continue
        nearest = twins[np.abs(twins[:, :5] - row[:5]).max(1).argmin()]
        box_error = max(box_error, float(np.abs(nearest[:4] - row[:4]).max()))
        confidence_error = max(confidence_error, abs(float(nearest[4] - row[4])))
    return DetectionMatch(len(wanted), explained, extra, box_error, confidence_error)


def _iou_rounding(row: NDArray[np.float32], class_offset_px: float) -> float:
    """How far the overlap of a box with a similar one may be from the true one: class 79 is moved by 606,720 pixels,
    where float32 numbers are a sixteenth of a pixel apart."""
    farthest = np.float32(row[5] * class_offset_px + np.abs(row[:4]).max())
    corner_px = float(np.spacing(farthest)) / 2
    width, height = np.maximum(row[2:4] - row[:2], 1.0)
    # Of two boxes that overlap by about 0.7: each side of each, and of what they share, is off by two corners.
    return 7 * corner_px * float(1 / width + 1 / height)


def _overlaps(row: NDArray[np.float32], others: NDArray[np.float32], least_iou: float) -> NDArray[np.bool_]:
    """Which of ``others`` have the class of ``row`` and cover the same place."""
    overlaps: NDArray[np.bool_] = (others[:, 5] == row[5]) & (iou(row[:4], others[:, :4]) >= least_iou)
    return overlaps


def _same_box(row: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which of ``others`` are ``row`` up to rounding."""
    if (row[2:4] - row[:2]).min() >= THIN_PX:
        return _overlaps(row, others, MATCH_IOU)
    close: NDArray[np.bool_] = (others[:, 5] == row[5]) & (_apart_px(row, others) <= MATCH_PX)
    return close


def _apart_px(row: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N,) largest distance of a corner's coordinate from that of ``row``, pixels."""
    apart: NDArray[np.float32] = np.abs(others[:, :4] - row[:4]).max(1)
    return apart

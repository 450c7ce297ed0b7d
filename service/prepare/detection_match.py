"""Pairs the detections of two networks on one picture."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: Confidence from which detections are compared.
COMPARISON_THRESHOLD = 0.25
#: A box this close to the threshold may fall on either side of it through rounding alone.
THRESHOLD_SLACK = 0.001
MATCH_IOU = 0.99


@dataclass(frozen=True)
class DetectionMatch:
    """Outcome of pairing.

    Attributes:
        expected: detections of the reference that must be repeated.
        matched: of these, repeated with the same class and IoU of at least 0.99.
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
    wanted = expected[expected[:, 4] >= COMPARISON_THRESHOLD + THRESHOLD_SLACK]
    candidates = found[found[:, 4] >= COMPARISON_THRESHOLD - THRESHOLD_SLACK]
    free = np.ones(len(candidates), bool)
    box_error = confidence_error = 0.0
    matched = 0
    for row in wanted:
        overlap = np.where(free & (candidates[:, 5] == row[5]), iou(row[:4], candidates[:, :4]), -1.0)
        best = int(overlap.argmax()) if len(overlap) else -1
        if best < 0 or overlap[best] < MATCH_IOU:
            continue
        free[best] = False
        matched += 1
        box_error = max(box_error, float(np.abs(candidates[best, :4] - row[:4]).max()))
        confidence_error = max(confidence_error, abs(float(candidates[best, 4] - row[4])))
    # Extras count only if no expected box, even a borderline one, explains them.
    borderline = expected[expected[:, 4] >= COMPARISON_THRESHOLD - THRESHOLD_SLACK]
    clear = candidates[free & (candidates[:, 4] >= COMPARISON_THRESHOLD + THRESHOLD_SLACK)]
    extra = sum(
        not np.any((borderline[:, 5] == row[5]) & (iou(row[:4], borderline[:, :4]) >= MATCH_IOU)) for row in clear
    )
    return DetectionMatch(len(wanted), matched, int(extra), box_error, confidence_error)


def iou(box: NDArray[np.float32], boxes: NDArray[np.float32]) -> NDArray[np.float64]:
    """Intersection over union of one box (4,) with each of (N, 4), corners in pixels; 0 for empty boxes."""
    a, b = box.astype(np.float64), boxes.astype(np.float64)
    sides = np.clip(np.minimum(a[2:], b[:, 2:]) - np.maximum(a[:2], b[:, :2]), 0, None)
    intersection = sides[:, 0] * sides[:, 1]
    union = np.prod(a[2:] - a[:2]) + np.prod(b[:, 2:] - b[:, :2], axis=1) - intersection
    overlap: NDArray[np.float64] = np.divide(intersection, union, out=np.zeros(len(b)), where=union > 0)
    return overlap

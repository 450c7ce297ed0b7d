"""How far the boxes of two networks on the same pictures lie apart."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.comparison import PAIR_IOU, pairwise_iou
from service.inference.detections import Detections


@dataclass(frozen=True)
class Agreement:
    """Boxes above a confidence in one network, against all boxes of the other.

    Attributes:
        boxes: how many lie above it in the first and in the second network.
        pairs: how many of these were paired, counting a pair once.
        unpaired: boxes of the first and of the second above it for which the other has none of any confidence.
        one_side_only: pairs of which only one box lies above it.
        confidence: largest difference of confidence within a pair.
        corner_px: largest difference of a corner's coordinate within a pair, pixels of the upright picture.
    """

    boxes: tuple[int, int]
    pairs: int
    unpaired: tuple[int, int]
    one_side_only: int
    confidence: float
    corner_px: float


def compare_boxes(first: Sequence[Detections], second: Sequence[Detections], confidence: float) -> Agreement:
    """Pair the boxes of two networks picture by picture and class by class, best overlap first.

    A box strictly above ``confidence`` may be paired with one below it, so that falling on either side of the
    threshold by rounding does not make it unpaired.

    Args:
        first: what one network found in each picture, down to a much lower confidence.
        second: the same of the other, in the same order.
    """
    boxes = unpaired = (0, 0)
    pairs = one_side_only = 0
    largest_confidence = largest_corner = 0.0
    for a, b in zip(first, second, strict=True):
        clear_a, clear_b = a.confidence > confidence, b.confidence > confidence
        partners = pair_boxes(a, b, confidence)
        i, j = partners[:, 0], partners[:, 1]
        boxes = boxes[0] + int(clear_a.sum()), boxes[1] + int(clear_b.sum())
        unpaired = (
            unpaired[0] + int(np.delete(clear_a, i).sum()),
            unpaired[1] + int(np.delete(clear_b, j).sum()),
        )
        pairs += len(partners)
        one_side_only += int((clear_a[i] != clear_b[j]).sum())
        largest_confidence = max(largest_confidence, _largest(a.confidence[i], b.confidence[j]))
        largest_corner = max(largest_corner, _largest(a.xyxy[i], b.xyxy[j]))
    return Agreement(boxes, pairs, unpaired, one_side_only, largest_confidence, largest_corner)


def _largest(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    return float(np.abs(a.astype(np.float64) - b).max(initial=0))


def pair_boxes(a: Detections, b: Detections, confidence: float) -> NDArray[np.int64]:
    """Pair the boxes of two networks in one picture, class by class, best overlap first.

    Returns:
        (pairs, 2) positions in ``a`` and in ``b``; each pair has at least one box strictly above ``confidence``, each
        box at most one partner.
    """
    clear_a, clear_b = a.confidence > confidence, b.confidence > confidence
    overlap = pairwise_iou(a.xyxy, b.xyxy)
    overlap[a.class_id[:, None] != b.class_id] = 0
    overlap[~(clear_a[:, None] | clear_b)] = 0
    candidates = np.argwhere(overlap >= PAIR_IOU)
    # Of equal overlaps the one of nearer confidence first: a network may answer the same box twice.
    distance = np.abs(a.confidence[candidates[:, 0]] - b.confidence[candidates[:, 1]])
    order = np.lexsort((distance, -overlap[candidates[:, 0], candidates[:, 1]]))
    free_a, free_b = np.ones(len(a), bool), np.ones(len(b), bool)
    pairs = []
    for i, j in candidates[order]:
        if free_a[i] and free_b[j]:
            free_a[i] = free_b[j] = False
            pairs.append((i, j))
    return np.array(pairs, np.int64).reshape(-1, 2)

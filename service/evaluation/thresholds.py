"""Precision and recall of the boxes above one confidence, and the confidence at which they balance best."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.evaluation.matches import ClassMatches

#: Confidences tried: as fine as anyone would write them into a request.
GRID = np.arange(1, 1000) / 1000
#: Of F1, in which ``lenient_confidence`` trades precision for recall.
SLACK = 0.005
#: Row of IoU 0.5, at which a box counts as right here.
_IOU_50 = 0


@dataclass(frozen=True)
class Counts:
    """Boxes strictly above a confidence: ``right`` and ``wrong`` ones, and ``missed`` objects (IoU 0.5).

    ``in_empty`` of the wrong ones were found in pictures without any object.
    """

    right: int
    wrong: int
    missed: int
    in_empty: int

    @property
    def precision(self) -> float:
        """Share of the boxes that are right; 0 without boxes."""
        return self.right / max(self.right + self.wrong, 1)

    @property
    def recall(self) -> float:
        """Share of the objects found; 0 without objects."""
        return self.right / max(self.right + self.missed, 1)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall: 2 right / (2 right + wrong + missed)."""
        return 2 * self.right / max(2 * self.right + self.wrong + self.missed, 1)


def count_above(classes: Sequence[ClassMatches], confidence: float, empty: NDArray[np.bool_]) -> Counts:
    """Count the boxes of these classes together.

    Args:
        confidence: boxes strictly above it count, compared in float32 as the service compares them.
        empty: (pictures,) whether a picture has no objects of any class.
    """
    right = wrong = in_empty = objects = 0
    for matches in classes:
        kept = int(_kept(matches, np.array([confidence]))[0])
        is_wrong = _is_wrong(matches)[:kept]
        right += int(matches.right[_IOU_50, :kept].sum())
        wrong += int(is_wrong.sum())
        in_empty += int((is_wrong & empty[matches.picture[:kept]]).sum())
        objects += int(matches.objects.sum())
    return Counts(right, wrong, objects - right, in_empty)


def best_confidence(classes: Sequence[ClassMatches]) -> float | None:
    """The confidence of ``GRID`` with the highest F1 over the boxes of these classes together.

    Where several are equally good it is the middle one. None if no box is right at any confidence.
    """
    f1 = _f1_curve(classes)
    best = np.flatnonzero(f1 == f1.max())
    return float(GRID[best[len(best) // 2]]) if f1.max() > 0 else None


def lenient_confidence(classes: Sequence[ClassMatches]) -> float | None:
    """The lowest confidence of ``GRID`` whose F1 is within ``SLACK`` of the highest: what finds most at that price.

    Among a few hundred objects such a difference is chance, and which of two confidences has the higher F1 says little.
    None if no box is right at any confidence.
    """
    f1 = _f1_curve(classes)
    return float(GRID[np.argmax(f1 >= f1.max() - SLACK)]) if f1.max() > 0 else None


def _f1_curve(classes: Sequence[ClassMatches]) -> NDArray[np.float64]:
    """At each confidence of ``GRID``."""
    right, wrong, objects = np.zeros(len(GRID)), np.zeros(len(GRID)), 0
    for matches in classes:
        kept = _kept(matches, GRID)
        right += _running_count(matches.right[_IOU_50])[kept]
        wrong += _running_count(_is_wrong(matches))[kept]
        objects += int(matches.objects.sum())
    curve: NDArray[np.float64] = 2 * right / np.maximum(right + wrong + objects, 1)
    return curve


def _kept(matches: ClassMatches, confidences: NDArray[np.float64]) -> NDArray[np.int64]:
    """How many of the boxes, which are in falling order, lie strictly above each confidence."""
    limits = confidences.astype(np.float32).astype(np.float64)
    return np.searchsorted(-matches.confidence, -limits, side="left").astype(np.int64)


def _is_wrong(matches: ClassMatches) -> NDArray[np.bool_]:
    wrong: NDArray[np.bool_] = ~(matches.right[_IOU_50] | matches.ignored[_IOU_50])
    return wrong


def _running_count(flags: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(N + 1,) how many of the first 0 to N are set."""
    return np.concatenate([[0], np.cumsum(flags)]).astype(np.int64)

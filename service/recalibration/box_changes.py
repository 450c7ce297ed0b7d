"""What becomes of each box when a network is recalibrated, counted for each class."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.evaluation.agreement import pair_boxes
from service.inference.detections import Detections
from service.recalibration.report import BoxChanges, ClassChanges

_EVERYTHING = "all"


@dataclass(frozen=True)
class _Fates:
    """Boxes of one or many pictures.

    Attributes:
        pair_class: (pairs,) class ids of boxes that have a partner.
        above: (pairs, 2) bool, whether the served and whether the recalibrated one lies above the confidence.
        change: (pairs,) confidence after minus before.
        gone_class, new_class: class ids of boxes above the confidence that have no partner.
    """

    pair_class: NDArray[np.int64]
    above: NDArray[np.bool_]
    change: NDArray[np.float64]
    gone_class: NDArray[np.int64]
    new_class: NDArray[np.int64]

    @property
    def unchanged(self) -> bool:
        """Every box above the confidence was kept and none came."""
        return bool(self.above.all()) and not len(self.gone_class) and not len(self.new_class)


def count_changes(
    before: Sequence[Detections], after: Sequence[Detections], confidence: float, classes: Sequence[str]
) -> BoxChanges:
    """Follow the boxes above a confidence from one network to the other, picture by picture.

    Args:
        before: what the served network found in each of at least one picture, down to a much lower confidence.
        after: the same of the recalibrated one, in the same order.
        classes: names by class id.
    """
    each = [_follow(a, b, confidence) for a, b in zip(before, after, strict=True)]
    names = ("pair_class", "above", "change", "gone_class", "new_class")
    everything = _Fates(*(np.concatenate([getattr(one, name) for one in each]) for name in names))
    return BoxChanges(
        confidence=confidence,
        pictures=len(each),
        pictures_changed=sum(not one.unchanged for one in each),
        total=_count(_EVERYTHING, everything, range(len(classes))),
        classes=[_count(name, everything, [class_id]) for class_id, name in enumerate(classes)],
    )


def _follow(a: Detections, b: Detections, confidence: float) -> _Fates:
    i, j = pair_boxes(a, b, confidence).T
    clear_a, clear_b = a.confidence > confidence, b.confidence > confidence
    lone_a, lone_b = clear_a.copy(), clear_b.copy()
    lone_a[i], lone_b[j] = False, False
    return _Fates(
        pair_class=a.class_id[i],
        above=np.stack([clear_a[i], clear_b[j]], axis=1),
        change=b.confidence[j].astype(np.float64) - a.confidence[i],
        gone_class=a.class_id[lone_a],
        new_class=b.class_id[lone_b],
    )


def _count(name: str, fates: _Fates, class_ids: Sequence[int]) -> ClassChanges:
    own = np.isin(fates.pair_class, class_ids)
    was, is_now = fates.above[own].T
    kept, sunk, risen = (int(which.sum()) for which in (was & is_now, was & ~is_now, ~was & is_now))
    gone, new = (int(np.isin(ids, class_ids).sum()) for ids in (fates.gone_class, fates.new_class))
    return ClassChanges(
        name=name,
        before=kept + sunk + gone,
        after=kept + risen + new,
        kept=kept,
        sunk=sunk,
        gone=gone,
        risen=risen,
        new=new,
        mean_confidence_change=float(fates.change[own].mean()) if own.any() else None,
    )

"""Intervals of average precision by resampling pictures. Pure numpy.

A resample draws as many pictures as there are, with replacement; drawing one twice counts its boxes and objects
twice. Pairs of boxes and objects never reach across pictures, so they need not be found again: only the order of all
boxes by confidence decides, and that stays. To compare two networks both get the same resamples, so that what makes
some pictures harder than others cancels (Efron and Tibshirani, "An introduction to the bootstrap", 1993, chapter 13,
for the percentile interval).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.evaluation.matches import IOU_THRESHOLDS, ClassMatches

RESAMPLES = 1000
SEED = 20260119
#: COCO's recalls 0, 0.01 ... 1 at which precision is averaged.
_RECALLS = np.linspace(0, 1, 101)
_BATCH = 50


@dataclass(frozen=True)
class Interval:
    """The 2.5 % and 97.5 % quantiles over the resamples."""

    low: float
    high: float


def draw_weights(pictures: int, resamples: int = RESAMPLES) -> NDArray[np.float64]:
    """(resamples, pictures) how often each resample holds each picture. The seed is fixed."""
    random = np.random.default_rng(SEED)
    return random.multinomial(pictures, np.full(pictures, 1 / pictures), size=resamples).astype(np.float64)


def interval(values: NDArray[np.float64]) -> Interval:
    """95 % percentile interval of values of all resamples; those without any object (NaN) are left out."""
    low, high = np.nanquantile(values, [0.025, 0.975])
    return Interval(float(low), float(high))


def resampled_precision(classes: Sequence[ClassMatches], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average precision, averaged over the classes with objects, of every resample.

    Args:
        weights: (R, pictures) as ``draw_weights`` gives them; all ones repeat pycocotools' own figure.

    Returns:
        (R, T) float64; NaN where a resample holds no object.
    """
    total = np.zeros((len(weights), len(IOU_THRESHOLDS)))
    counted = np.zeros((len(weights), 1))
    for matches in classes:
        objects = weights @ matches.objects
        for start in range(0, len(weights), _BATCH):
            batch = slice(start, start + _BATCH)
            total[batch] += _class_precision(matches, weights[batch], objects[batch])
        counted += (objects > 0)[:, None]
    return np.divide(total, counted, out=np.full_like(total, np.nan), where=counted > 0)


def _class_precision(
    matches: ClassMatches, weights: NDArray[np.float64], objects: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(R, T) average precision of one class, 0 where a resample holds none of its objects."""
    result = np.zeros((len(weights), len(IOU_THRESHOLDS)))
    # Precision rises only where a box is right, so boxes behind the last right one decide nothing.
    last = int(np.flatnonzero(matches.right.any(0))[-1]) + 1 if matches.right.any() else 0
    weight = weights[:, matches.picture[:last]]
    judged = np.cumsum(weight, axis=1)
    for t in range(len(IOU_THRESHOLDS)):
        places = np.flatnonzero(matches.right[t, :last])
        if not len(places):
            continue
        right = np.cumsum(weight[:, places], axis=1)
        boxes = judged[:, places]
        if matches.ignored[t, :last].any():
            boxes = boxes - np.cumsum(weight * matches.ignored[t, :last], axis=1)[:, places]
        precision = right / np.maximum(boxes, 1)
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        for r in np.flatnonzero(objects):
            reached = np.searchsorted(right[r] / objects[r], _RECALLS, side="left")
            result[r, t] = envelope[r, reached[reached < len(places)]].sum() / len(_RECALLS)
    return result

"""What a network finds in pictures that show nothing: how often, of which classes, how confidently. Pure numpy."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.evaluation.bootstrap import Interval, draw_weights, interval
from service.evaluation.report import AlarmsAbove, ClassAlarms, Estimate, FalseAlarms, FalseBox
from service.inference.detections import Detections

#: Quantile of the normal distribution that leaves 2.5 % above it.
_Z = 1.959963984540054
_MOST_LISTED = 10


@dataclass(frozen=True)
class EmptyPicture:
    """A picture without objects, and all that was found in it."""

    path: Path
    found: Detections


def count_alarms(
    pictures: Sequence[EmptyPicture], classes: dict[int, str], confidences: tuple[float, float | None]
) -> FalseAlarms:
    """Count the boxes in pictures without objects.

    Args:
        pictures: one at least.
        classes: names of the classes that are judged, by id.
        confidences: the model's default and the one asked for, or None.
    """
    default, requested = confidences
    return FalseAlarms(
        pictures=len(pictures),
        default=_above(pictures, default),
        requested=None if requested is None else _above(pictures, requested),
        classes=[_of_class(pictures, class_id, name, confidences) for class_id, name in classes.items()],
        highest=_highest(pictures, classes),
    )


def boxes_above(pictures: Sequence[EmptyPicture], confidence: float) -> NDArray[np.int64]:
    """(pictures,) boxes strictly above a confidence, compared in float32 as the service compares them."""
    return np.array([int((p.found.confidence > np.float32(confidence)).sum()) for p in pictures], np.int64)


def mean_interval(values: NDArray[np.int64]) -> Interval:
    """95 % bootstrap interval of the mean over pictures of (pictures,) values."""
    return interval(draw_weights(len(values)) @ values / len(values))


def wilson_interval(hits: int, trials: int) -> Interval:
    """95 % score interval of a share (E. B. Wilson, "Probable inference, the law of succession, and statistical
    inference", JASA 22, 1927): the probabilities p that lie within 1.96 of their own standard errors
    sqrt(p (1 - p) / trials) of the share seen. It has an extent at 0 and 1 too.
    """
    share, spread = hits / trials, _Z**2 / trials
    middle = (share + spread / 2) / (1 + spread)
    reach = _Z * sqrt(share * (1 - share) / trials + spread / (4 * trials)) / (1 + spread)
    return Interval(max(middle - reach, 0.0), min(middle + reach, 1.0))


def _above(pictures: Sequence[EmptyPicture], confidence: float) -> AlarmsAbove:
    counts = boxes_above(pictures, confidence)
    hits = int((counts > 0).sum())
    mean, share = mean_interval(counts), wilson_interval(hits, len(counts))
    return AlarmsAbove(
        confidence=confidence,
        boxes=int(counts.sum()),
        boxes_per_picture=Estimate(estimate=float(counts.mean()), low=mean.low, high=mean.high),
        pictures_with_boxes=hits,
        share_of_pictures=Estimate(estimate=hits / len(counts), low=share.low, high=share.high),
    )


def _of_class(
    pictures: Sequence[EmptyPicture], class_id: int, name: str, confidences: tuple[float, float | None]
) -> ClassAlarms:
    found = np.concatenate([p.found.confidence[p.found.class_id == class_id] for p in pictures])
    default, requested = confidences
    return ClassAlarms(
        name=name,
        boxes=int((found > np.float32(default)).sum()),
        requested=None if requested is None else int((found > np.float32(requested)).sum()),
        highest_confidence=float(found.max()) if len(found) else None,
    )


def _highest(pictures: Sequence[EmptyPicture], classes: dict[int, str]) -> list[FalseBox]:
    boxes = [
        FalseBox(picture=str(p.path), name=classes[int(p.found.class_id[i])], confidence=float(p.found.confidence[i]))
        for p in pictures
        for i in range(min(len(p.found), _MOST_LISTED))  # they are in falling order
    ]
    return sorted(boxes, key=lambda box: -box.confidence)[:_MOST_LISTED]

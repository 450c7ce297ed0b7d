"""From the boxes of one network to its figures."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.evaluation.data_set import DataSet
from service.evaluation.false_alarms import EmptyPicture, count_alarms
from service.evaluation.matches import SIZES, ClassMatches, ClassResult, match_class
from service.evaluation.report import ClassFigures, Figures, Network, OperatingPoint, OperatingPoints, Precision
from service.evaluation.thresholds import best_confidence, count_above, lenient_confidence
from service.inference.detections import Detections


@dataclass(frozen=True)
class Judged:
    """The boxes of one network (one entry per picture) and what pycocotools says about each class."""

    found: list[Detections]
    classes: list[ClassResult]

    @property
    def matches(self) -> list[ClassMatches]:
        """The pairs of each class."""
        return [result.matches for result in self.classes]


def judge_boxes(data: DataSet, found: list[Detections], max_det: int) -> Judged:
    """Pair the boxes of every labelled class with the truth; no class is judged where no object is labelled."""
    if pictures_without_objects(data).all():
        return Judged(found, [])
    return Judged(found, [match_class(class_id, data.pictures, found, max_det) for class_id in data.class_ids])


def make_figures(
    network: Network, judged: Judged, data: DataSet, names: Sequence[str], requested: float | None
) -> Figures:
    """All figures of one network.

    Args:
        names: the model's class names by id.
        requested: a further confidence to report precision and recall at, or None.
    """
    empty = pictures_without_objects(data)
    confidences = (network.default_confidence, requested)
    labelled = {class_id: names[class_id] for class_id in data.class_ids}
    alarms = count_alarms(empty_pictures(judged.found, data), labelled, confidences) if empty.any() else None
    if empty.all():
        reason = f"No object is labelled in the {len(empty)} pictures: there is nothing to be precise about or to find."
        return Figures(network=network, absent=reason, sizes=None, points=None, classes=None, false_alarms=alarms)
    return Figures(
        network=network,
        absent=None,
        false_alarms=alarms,
        sizes={size: _mean_precision(judged.classes, size) for size in SIZES},
        points=_points(judged.matches, confidences, empty),
        classes=[
            ClassFigures(
                name=names[result.class_id],
                sizes={size: _precision(result, size) for size in SIZES},
                points=_points([result.matches], confidences, empty),
            )
            for result in judged.classes
        ],
    )


def pictures_without_objects(data: DataSet) -> NDArray[np.bool_]:
    """(pictures,) where nothing is labelled, not even a crowd."""
    return np.array([len(picture.objects) == 0 for picture in data.pictures])


def empty_pictures(found: Sequence[Detections], data: DataSet) -> list[EmptyPicture]:
    """The pictures without objects, with what was found in each."""
    empty = pictures_without_objects(data)
    pairs = zip(data.pictures, found, empty, strict=True)
    return [EmptyPicture(picture.path, boxes) for picture, boxes, is_empty in pairs if is_empty]


def _precision(result: ClassResult, size: str) -> Precision:
    found = result.sizes[size]
    by_iou = found.average_precision
    if by_iou is None:
        return Precision(objects=found.objects, ap50_95=None, ap50=None)
    return Precision(objects=found.objects, ap50_95=float(by_iou.mean()), ap50=float(by_iou[0]))


def _mean_precision(classes: Sequence[ClassResult], size: str) -> Precision:
    objects = sum(result.sizes[size].objects for result in classes)
    by_iou = [p for result in classes if (p := result.sizes[size].average_precision) is not None]
    if not by_iou:
        return Precision(objects=objects, ap50_95=None, ap50=None)
    mean = np.mean(by_iou, axis=0)
    return Precision(objects=objects, ap50_95=float(mean.mean()), ap50=float(mean[0]))


def _points(
    matches: Sequence[ClassMatches], confidences: tuple[float, float | None], empty: NDArray[np.bool_]
) -> OperatingPoints:
    default, requested = confidences
    best, lenient = best_confidence(matches), lenient_confidence(matches)
    return OperatingPoints(
        default=_point(matches, default, empty),
        requested=None if requested is None else _point(matches, requested, empty),
        best_f1=None if best is None else _point(matches, best, empty),
        lenient=None if lenient is None else _point(matches, lenient, empty),
    )


def _point(matches: Sequence[ClassMatches], confidence: float, empty: NDArray[np.bool_]) -> OperatingPoint:
    counts = count_above(matches, confidence, empty)
    return OperatingPoint(
        confidence=confidence,
        precision=counts.precision,
        recall=counts.recall,
        f1=counts.f1,
        right=counts.right,
        wrong=counts.wrong,
        missed=counts.missed,
        false_boxes_per_empty_picture=counts.in_empty / int(empty.sum()) if empty.any() else None,
    )

"""Boxes paired with the truth by pycocotools, the reference implementation of COCO's rules.

faster-coco-eval gives the same figures sooner, but keeps the pairs of each picture to itself, and precision at a
threshold and intervals over pictures are made of these. The network takes far longer than either.
"""

import contextlib
import importlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import EvaluatorMissing
from service.evaluation.data_set import Picture
from service.inference.detections import Detections

#: COCO's ten overlaps 0.50, 0.55 ... 0.95, in this order wherever an axis is called T.
IOU_THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
#: COCO's sizes by area in px²: small up to 32², medium up to 96², large above.
SIZES = ("all", "small", "medium", "large")


@dataclass(frozen=True)
class ClassMatches:
    """All boxes found of one class, by falling confidence, and whether each is right.

    Attributes:
        picture: (N,) int64 index of the picture each box was found in.
        confidence: (N,) float64.
        right: (T, N) bool; the box overlaps an object of its class at least so, and no more confident box took it.
        ignored: (T, N) bool; neither right nor wrong, because it lies in a crowd.
        objects: (pictures,) int64 objects of the class in each picture, crowds not counted.
    """

    picture: NDArray[np.int64]
    confidence: NDArray[np.float64]
    right: NDArray[np.bool_]
    ignored: NDArray[np.bool_]
    objects: NDArray[np.int64]


@dataclass(frozen=True)
class SizeResult:
    """Objects of one class and size, and (T,) float64 average precisions; None without objects."""

    objects: int
    average_precision: NDArray[np.float64] | None


@dataclass(frozen=True)
class ClassResult:
    """What pycocotools says about one class, by size (``SIZES``)."""

    class_id: int
    matches: ClassMatches
    sizes: dict[str, SizeResult]


def require_evaluator() -> None:
    """Check that the packages of the extra ``evaluate`` are there.

    Raises:
        EvaluatorMissing: they are not; the message is the command that installs them.
    """
    for module, package in (("pycocotools.cocoeval", "pycocotools"), ("yaml", "PyYAML")):
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise EvaluatorMissing(
                f"The evaluation needs {package}, which serving does not. "
                "Run `python -m pip install pycocotools PyYAML` in this environment."
            ) from error


def match_class(class_id: int, pictures: Sequence[Picture], found: Sequence[Detections], max_det: int) -> ClassResult:
    """Judge the boxes of one class in all pictures by COCO's rules.

    Args:
        found: what was found in each picture, in the same order.
        max_det: most boxes of the class judged in one picture, the most confident first.
    """
    # One class at a time: its pairs are reduced to arrays before the next one's take their place in memory.
    evaluator = _evaluator(_truth(class_id, pictures), _boxes(class_id, found), len(pictures), max_det)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        evaluator.evaluate()
        evaluator.accumulate()
    precision = evaluator.eval["precision"][:, :, 0, :, 0]  # (T, 101 recalls, sizes)
    of_size = [evaluator.evalImgs[k * len(pictures) : (k + 1) * len(pictures)] for k in range(len(SIZES))]
    sizes = {
        name: SizeResult(
            sum(int(np.sum(one["gtIgnore"] == 0)) for one in of_size[k] if one),
            precision[:, :, k].mean(1) if precision[0, 0, k] >= 0 else None,
        )
        for k, name in enumerate(SIZES)
    }
    return ClassResult(class_id, _collect(of_size[0]), sizes)


def _evaluator(truth: list[dict[str, Any]], boxes: list[dict[str, Any]], pictures: int, max_det: int) -> Any:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    sides = []
    for annotations in (truth, boxes):
        side = COCO()
        side.dataset = {
            "images": [{"id": number} for number in range(pictures)],
            "categories": [{"id": 0}],
            "annotations": annotations,
        }
        with contextlib.redirect_stdout(io.StringIO()):
            side.createIndex()
        sides.append(side)
    evaluator = COCOeval(*sides, iouType="bbox")
    evaluator.params.maxDets = [max_det]
    return evaluator


def _truth(class_id: int, pictures: Sequence[Picture]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for number, picture in enumerate(pictures):
        objects = picture.objects
        for i in np.flatnonzero(objects.class_id == class_id):
            rows.append(
                _annotation(len(rows), number, objects.xyxy[i])
                | {"area": float(objects.area[i]), "iscrowd": int(objects.crowd[i])}
            )
    return rows


def _boxes(class_id: int, found: Sequence[Detections]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for number, detections in enumerate(found):
        for i in np.flatnonzero(detections.class_id == class_id):
            row = _annotation(len(rows), number, detections.xyxy[i].astype(np.float64))
            area = row["bbox"][2] * row["bbox"][3]
            rows.append(row | {"area": area, "iscrowd": 0, "score": float(detections.confidence[i])})
    return rows


def _annotation(place: int, picture: int, xyxy: NDArray[np.float64]) -> dict[str, Any]:
    x1, y1, x2, y2 = xyxy.tolist()
    # It takes an id of 0 for "no partner".
    return {"id": place + 1, "image_id": picture, "category_id": 0, "bbox": [x1, y1, x2 - x1, y2 - y1]}


def _collect(of_pictures: Sequence[dict[str, Any] | None]) -> ClassMatches:
    """Its verdicts on each picture as arrays, in the order in which it ranks the boxes itself."""
    filled = [(number, one) for number, one in enumerate(of_pictures) if one]
    thresholds = len(IOU_THRESHOLDS)
    confidence = np.concatenate([np.zeros(0), *(one["dtScores"] for _, one in filled)])
    order = np.argsort(-confidence, kind="mergesort")
    right = np.concatenate([np.zeros((thresholds, 0), bool), *(one["dtMatches"] > 0 for _, one in filled)], axis=1)
    ignored = np.concatenate([np.zeros((thresholds, 0), bool), *(one["dtIgnore"] > 0 for _, one in filled)], axis=1)
    picture = np.repeat([number for number, _ in filled], [len(one["dtScores"]) for _, one in filled]).astype(np.int64)
    objects = np.zeros(len(of_pictures), np.int64)
    for number, one in filled:
        objects[number] = np.sum(one["gtIgnore"] == 0)
    return ClassMatches(picture[order], confidence[order], (right & ~ignored)[:, order], ignored[:, order], objects)

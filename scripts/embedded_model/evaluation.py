"""Accuracy of a checkpoint on pictures that it was not trained on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from ultralytics.models import YOLO

from scripts.embedded_model.symbols import CLASS_NAMES

Head = Literal["one2one", "one2many"]

SIZES = (320, 640)
HEADS: tuple[Head, ...] = ("one2one", "one2many")
CONFIDENCE = 0.25

_EXTENTS = (("under 10 %", 0.0, 0.1), ("10-30 %", 0.1, 0.3), ("30-60 %", 0.3, 0.6), ("over 60 %", 0.6, 9.0))

_HEAD_SETTINGS: dict[Head, dict[str, Any]] = {"one2one": {"nms": False}, "one2many": {"nms": None}}

Boxes = npt.NDArray[Any]


@dataclass(frozen=True)
class ClassScore:
    """Precision and recall at the best-F1 confidence, and average precision."""

    precision: float
    recall: float
    ap50: float
    ap50_95: float


@dataclass(frozen=True)
class Recall:
    """How many true boxes of one extent were found at `CONFIDENCE` with IoU 0.5 and the right class."""

    found: int
    total: int


@dataclass(frozen=True)
class Alarms:
    """Boxes at `CONFIDENCE` on pictures without any code."""

    pictures: int
    pictures_with_boxes: int
    boxes: int


@dataclass(frozen=True)
class Report:
    """Figures of one head at one input size (pixels, letterboxed); one2many is followed by NMS."""

    head: Head
    image_size: int
    map50: float
    map50_95: float
    classes: dict[str, ClassScore]
    recall_by_extent: dict[str, Recall]
    false_alarms: Alarms


@dataclass(frozen=True)
class Answered:
    """One picture's truth and answers, in its pixels.

    Attributes:
        truth: (N, 5) rows of class, x0, y0, x1, y1.
        found: (M, 6) rows of the same and the confidence, all of at least `CONFIDENCE`.
        longer_side: of the picture.
    """

    truth: Boxes
    found: Boxes
    longer_side: int


def evaluate(checkpoint: Path, data: Path, head: Head, size: int) -> Report:
    """Score one head of a checkpoint on the test split of `data` at one input size."""
    model: Any = YOLO(str(checkpoint))
    metrics = model.val(data=str(data), split="test", batch=16, workers=0, plots=False, **_settings(head, size))
    classes = {
        CLASS_NAMES[int(class_id)]: ClassScore(*(round(float(v), 4) for v in metrics.box.class_result(i)))
        for i, class_id in enumerate(metrics.box.ap_class_index)
    }
    recall, alarms = _count(answer_pictures(checkpoint, data.parent, head, size).values())
    map50, map50_95 = round(float(metrics.box.map50), 4), round(float(metrics.box.map), 4)
    return Report(head, size, map50, map50_95, classes, recall, alarms)


def _settings(head: Head, size: int) -> dict[str, Any]:
    return {"imgsz": size, "device": "cpu", "verbose": False} | _HEAD_SETTINGS[head]


def answer_pictures(checkpoint: Path, root: Path, head: Head, size: int) -> dict[Path, Answered]:
    """Truth and answers of every test picture under `root`."""
    model: Any = YOLO(str(checkpoint))
    answered = {}
    for picture in sorted((root / "images" / "test").glob("*.jpg")):
        result = model.predict(str(picture), conf=CONFIDENCE, **_settings(head, size))[0]
        columns = (result.boxes.cls.numpy(), result.boxes.xyxy.numpy(), result.boxes.conf.numpy())
        height, width = result.orig_shape
        truth = _read_truth(root / "labels" / "test" / f"{picture.stem}.txt", width, height)
        answered[picture] = Answered(truth, np.column_stack(columns).astype(np.float64), max(width, height))
    return answered


def _count(pictures: Iterable[Answered]) -> tuple[dict[str, Recall], Alarms]:
    found = dict.fromkeys((name for name, _, _ in _EXTENTS), 0)
    total = dict(found)
    negatives: list[int] = []
    for picture in pictures:
        if len(picture.truth) == 0:
            negatives.append(len(picture.found))
        for box in picture.truth:
            name = _extent(box, picture.longer_side)
            total[name] += 1
            found[name] += _is_found(box, picture.found)
    alarms = Alarms(len(negatives), sum(count > 0 for count in negatives), sum(negatives))
    return {name: Recall(found[name], total[name]) for name in total}, alarms


def _read_truth(path: Path, width: int, height: int) -> Boxes:
    """Rows of class, x0, y0, x1, y1 in pixels."""
    rows = [[float(v) for v in line.split()] for line in path.read_text().splitlines()]
    values = np.array(rows, np.float64).reshape(-1, 5)
    center, half = values[:, 1:3] * (width, height), values[:, 3:5] * (width, height) / 2
    return np.column_stack([values[:, 0], center - half, center + half])


def _extent(box: Boxes, picture_side: int) -> str:
    share = max(box[3] - box[1], box[4] - box[2]) / picture_side
    return next(name for name, low, high in _EXTENTS if low <= share < high)


def _is_found(box: Boxes, predicted: Boxes) -> bool:
    same = predicted[predicted[:, 0] == box[0]]
    low, high = np.maximum(same[:, 1:3], box[1:3]), np.minimum(same[:, 3:5], box[3:5])
    overlap = np.clip(high - low, 0, None).prod(axis=1)
    areas = (same[:, 3:5] - same[:, 1:3]).prod(axis=1) + (box[3:5] - box[1:3]).prod() - overlap
    return bool((overlap / np.maximum(areas, 1e-9) >= 0.5).any())

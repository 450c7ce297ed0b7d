"""What Ultralytics' own predict answers, and how an answer of the service is held against it."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from ultralytics import YOLO

from service.comparison import iou

#: A box is repeated by one of its class with this overlap at least and a confidence this near; this share must be.
IOU, CONFIDENCE, SHARE = 0.95, 0.02, 0.99
#: Boxes of the reference this close to the threshold may be missing or extra through rounding.
SLACK = 0.002


@dataclass(frozen=True)
class Boxes:
    xyxy: np.ndarray
    confidence: np.ndarray
    class_id: np.ndarray


@cache
def ultralytics(checkpoint: Path) -> YOLO:
    return YOLO(checkpoint)


def predict(checkpoint: Path, picture: Path, arguments: dict[str, bool | int | float]) -> Boxes:
    """What Ultralytics answers when called as ``GET /model`` says."""
    (result,) = ultralytics(checkpoint).predict(picture, conf=0.25 - SLACK, verbose=False, device="cpu", **arguments)
    boxes = result.boxes
    return Boxes(boxes.xyxy.numpy(), boxes.conf.numpy(), boxes.cls.numpy().astype(int))


def answered(answer: dict) -> Boxes:
    rows = answer["detections"]
    corners = [[row["box"][key] for key in ("x1", "y1", "x2", "y2")] for row in rows]
    return Boxes(
        np.array(corners, np.float32).reshape(-1, 4),
        np.array([row["confidence"] for row in rows]),
        np.array([row["class"] for row in rows], int),
    )


def compare(expected: Boxes, found: Boxes) -> tuple[int, int, int]:
    """Expected boxes above 0.25, how many of them are repeated, and how many are found besides."""
    free = np.ones(len(found.confidence), bool)
    clear, matched = 0, 0
    for box, confidence, class_id in zip(expected.xyxy, expected.confidence, expected.class_id, strict=True):
        same = (
            free
            & (found.class_id == class_id)
            & (np.abs(found.confidence - confidence) <= CONFIDENCE)
            & _same_place(box, found.xyxy)
        )
        if same.any():
            free[np.argmax(same)] = False
        if confidence > 0.25 + SLACK:
            clear += 1
            matched += bool(same.any())
    return clear, matched, int((free & (found.confidence > 0.25 + SLACK)).sum())


def _same_place(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Which of ``others`` (N, 4) overlap ``box`` enough; of one that clipping to the picture left without a pixel of
    extent, which overlaps nothing, those with the same corners to half a pixel."""
    if (box[2:] - box[:2]).min() < 1:
        return np.abs(others - box).max(1, initial=0) <= 0.5
    return iou(box, others) >= IOU

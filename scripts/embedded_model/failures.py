"""Where the embedded model fails on its held-out pictures, as one contact sheet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from scripts.embedded_model.evaluation import Answered
from scripts.embedded_model.symbols import CLASS_NAMES

Kind = Literal["missed", "confused", "false alarm"]

KINDS: tuple[Kind, ...] = ("missed", "confused", "false alarm")
COLUMNS = 4

_TILE, _CAPTION = 320, 24
_IOU = 0.5
_TRUTH_BGR, _FOUND_BGR = (80, 200, 0), (0, 60, 255)

Rows = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Failure:
    """One failure in one picture. ``severity`` orders failures of a kind, most telling first.

    For a missed code it is the box's area, otherwise the confidence of the wrong answer.
    """

    kind: Kind
    severity: float
    picture: Path
    caption: str


def find_failures(picture: Path, answered: Answered) -> Iterator[Failure]:
    """Compare what lies in a picture with what was found there (IoU at least 0.5)."""
    truth, found = answered.truth, answered.found
    overlap = _iou(truth[:, 1:5], found[:, 1:5])
    same = truth[:, :1] == found[:, 0]
    for row, box in enumerate(truth):
        name = CLASS_NAMES[int(box[0])]
        others = np.flatnonzero((overlap[row] >= _IOU) & ~same[row])
        if (overlap[row] >= _IOU).any() and not ((overlap[row] >= _IOU) & same[row]).any():
            best = found[others[np.argmax(found[others, 5])]]
            caption = f"{name} called {CLASS_NAMES[int(best[0])]} {best[5]:.2f}"
            yield Failure("confused", float(best[5]), picture, caption)
        elif not (overlap[row] >= _IOU).any():
            yield Failure("missed", float((box[3] - box[1]) * (box[4] - box[2])), picture, name)
    for column, row in enumerate(found):
        if not (overlap[:, column] >= _IOU).any():
            yield Failure("false alarm", float(row[5]), picture, f"{CLASS_NAMES[int(row[0])]} {row[5]:.2f}")


def worst(failures: list[Failure], kind: Kind) -> list[Failure]:
    """The most severe failures of one kind, each from another picture, at most ``COLUMNS``."""
    chosen: dict[Path, Failure] = {}
    for failure in sorted((f for f in failures if f.kind == kind), key=lambda f: -f.severity):
        chosen.setdefault(failure.picture, failure)
    return list(chosen.values())[:COLUMNS]


def draw_sheet(failures: list[Failure], pictures: dict[Path, Answered]) -> npt.NDArray[np.uint8]:
    """A row of tiles per kind: truth in green, answers in red. Returns (H, W, 3) uint8 BGR.

    Args:
        pictures: truth and answers of each picture that a failure names.
    """
    rows = []
    for kind in KINDS:
        tiles = [_tile(failure, pictures[failure.picture]) for failure in worst(failures, kind)]
        blank = np.full((_TILE + _CAPTION, _TILE, 3), 255, np.uint8)
        rows.append(np.hstack(tiles + [blank] * (COLUMNS - len(tiles))))
    return np.vstack(rows)


def _tile(failure: Failure, answered: Answered) -> npt.NDArray[np.uint8]:
    image: Any = cv2.imread(str(failure.picture))
    scale = _TILE / max(image.shape[:2])
    image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    for color, boxes in ((_TRUTH_BGR, answered.truth), (_FOUND_BGR, answered.found)):
        for box in np.rint(boxes[:, 1:5] * scale).astype(int).tolist():
            cv2.rectangle(image, box[:2], box[2:], color, 2)
    tile = np.full((_TILE + _CAPTION, _TILE, 3), 255, np.uint8)
    tile[_CAPTION : _CAPTION + image.shape[0], : image.shape[1]] = image[:_TILE, :_TILE]
    text = f"{failure.kind}: {failure.caption}"
    cv2.putText(tile, text, (4, _CAPTION - 8), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
    return tile


def _iou(a: Rows, b: Rows) -> Rows:
    """(N, 4) and (M, 4) corners to (N, M)."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(2)
    areas = (a[:, 2:] - a[:, :2]).prod(1)[:, None] + (b[:, 2:] - b[:, :2]).prod(1)[None] - shared
    return np.asarray(shared / np.maximum(areas, 1e-9), np.float64)

"""Labelled pictures, whatever the layout they were read from."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from service.errors import DataSetError, ImageError
from service.inference.images import inspect_image
from service.inference.picture_folder import picture_files

Layout = Literal["YOLO", "COCO", "pictures"]


@dataclass(frozen=True)
class Objects:
    """What is to be found in one picture.

    Attributes:
        xyxy: (N, 4) float64 corners in pixels of the upright picture.
        class_id: (N,) int64 ids of the model.
        area: (N,) float64 px² in the picture as it is stored, before any letterboxing: what COCO's sizes go by.
        crowd: (N,) bool; COCO's regions in which boxes are neither right nor wrong.
    """

    xyxy: NDArray[np.float64]
    class_id: NDArray[np.int64]
    area: NDArray[np.float64]
    crowd: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.class_id)


@dataclass(frozen=True)
class Picture:
    """One image file of ``width`` x ``height`` upright pixels and its objects."""

    path: Path
    width: int
    height: int
    objects: Objects


@dataclass(frozen=True)
class DataSet:
    """Pictures to evaluate with.

    Attributes:
        source: the file or folder that describes it.
        split: the part of it, or None where it has no parts.
        class_ids: the model's ids of the classes that are labelled, ascending; boxes of others are not judged.
        notes: what a reader of the figures should know about the labels.
    """

    source: Path
    layout: Layout
    split: str | None
    pictures: list[Picture]
    class_ids: list[int]
    notes: list[str]


def pictures_below(folder: Path) -> list[Path]:
    """Every picture in a folder and the folders in it, sorted.

    Raises:
        DataSetError: there is none.
    """
    found = picture_files(folder)
    if not found:
        raise DataSetError(f"{folder} holds no pictures.")
    return found


def picture_size(path: Path, max_pixels: int) -> tuple[tuple[int, int], bool]:
    """Width and height of the upright picture in pixels, and whether EXIF turns it on its side.

    Raises:
        DataSetError: it is missing, not of an accepted format, damaged or too large.
    """
    try:
        header = inspect_image(path.read_bytes(), max_pixels=max_pixels)
    except FileNotFoundError as error:
        raise DataSetError(f"{path}: the picture is missing.") from error
    except (OSError, ImageError) as error:
        raise DataSetError(f"{path}: the picture cannot be read: {error}") from error
    turned = header.orientation >= 5
    return ((header.height, header.width) if turned else (header.width, header.height)), turned


def objects_of(
    xyxy: Sequence[Sequence[float]],
    class_id: Sequence[int],
    area: Sequence[float] | None = None,
    crowd: Sequence[bool] | None = None,
) -> Objects:
    """Build ``Objects`` from lists; the area defaults to the box's own, and nothing is a crowd."""
    boxes = np.array(xyxy, np.float64).reshape(-1, 4)
    sides = boxes[:, 2:] - boxes[:, :2]
    return Objects(
        boxes,
        np.array(class_id, np.int64),
        sides[:, 0] * sides[:, 1] if area is None else np.array(area, np.float64),
        np.zeros(len(boxes), bool) if crowd is None else np.array(crowd, bool),
    )

"""Finds out which layout a data set has and reads it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from service.errors import DataSetError
from service.evaluation.class_names import listed
from service.evaluation.coco_layout import choose_annotations, find_annotations, read_coco
from service.evaluation.data_set import DataSet
from service.evaluation.yolo_layout import DESCRIPTIONS, read_described, read_plain


def open_data_set(place: Path, split: str | None, classes: Sequence[str], max_pixels: int) -> DataSet:
    """Read a data set, given its folder or the file that describes it.

    Args:
        place: a folder, a ``data.yaml`` or a COCO annotation file.
        split: which part of it; None takes ``test`` if there is one, else ``val``.
        classes: names of the model's classes; the position is the id.
        max_pixels: pictures of more pixels are refused.

    Raises:
        DataSetError: no known layout, or something in it is missing or broken.
        ClassMismatch: its classes are not the model's.
    """
    data = _open(place, split, classes, max_pixels)
    if all(picture.objects.crowd.all() for picture in data.pictures):
        raise DataSetError(f"{data.source}: not one object is labelled, so there is nothing to find.")
    unknown = [name for number, name in enumerate(classes) if number not in data.class_ids]
    if not unknown:
        return data
    note = f"The data set does not know the model's {listed(unknown)}: boxes of these classes were left out."
    return replace(data, notes=[*data.notes, note])


def _open(place: Path, split: str | None, classes: Sequence[str], max_pixels: int) -> DataSet:
    if place.is_file():
        return _read_file(place, split, classes, max_pixels)
    if not place.is_dir():
        raise DataSetError(f"{place} does not exist.")
    if description := _description(place):
        return read_described(description, split, classes, max_pixels)
    if (place / "images").is_dir() and (place / "labels").is_dir():
        return read_plain(place, split, classes, max_pixels)
    if files := find_annotations(place):
        annotations, chosen = choose_annotations(files, place, split)
        return read_coco(annotations, chosen, classes, max_pixels)
    raise DataSetError(
        f"{place} is no data set: it holds neither a data.yaml, nor the folders images and labels, nor COCO "
        "annotations (annotations/*.json)."
    )


def _read_file(file: Path, split: str | None, classes: Sequence[str], max_pixels: int) -> DataSet:
    if file.suffix in (".yaml", ".yml"):
        return read_described(file, split, classes, max_pixels)
    if file.suffix == ".json":
        if split is not None:
            raise DataSetError(f"{file} is one split by itself; leave --split out.")
        return read_coco(file, None, classes, max_pixels)
    raise DataSetError(f"{file} is neither a data.yaml nor a COCO annotation file (.json).")


def _description(folder: Path) -> Path | None:
    named = [folder / name for name in DESCRIPTIONS if (folder / name).is_file()]
    others = sorted(p for pattern in ("*.yaml", "*.yml") for p in folder.glob(pattern))
    if len(named) == 1:
        return named[0]
    if len(others) > 1:
        raise DataSetError(f"{folder} holds several descriptions: {', '.join(map(str, others))}. Give one to --data.")
    return others[0] if others else None

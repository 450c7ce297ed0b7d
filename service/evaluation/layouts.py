"""Finds out which layout a data set has and reads it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from service.errors import DataSetError
from service.evaluation.class_names import listed
from service.evaluation.coco_layout import choose_annotations, find_annotations, read_coco
from service.evaluation.data_set import DataSet, Picture, objects_of, picture_size, pictures_below
from service.evaluation.yolo_layout import DESCRIPTIONS, read_described, read_plain


def open_data_set(
    place: Path, split: str | None, classes: Sequence[str], max_pixels: int, negatives: bool = False
) -> DataSet:
    """Read a data set, given its folder or the file that describes it.

    Without ``negatives`` a data set may be without objects too, but must say so itself: by a label file for every
    picture, or a list of annotations that is empty.

    Args:
        place: a folder, a ``data.yaml`` or a COCO annotation file.
        split: which part of it; None takes ``test`` if there is one, else ``val``.
        classes: names of the model's classes; the position is the id.
        max_pixels: pictures of more pixels are refused.
        negatives: somebody vouches that the pictures show no object; a folder of pictures is enough then.

    Raises:
        DataSetError: no known layout, or something in it is missing or broken, or objects are labelled among negatives.
        ClassMismatch: its classes are not the model's.
    """
    data = _open(place, split, classes, max_pixels, negatives)
    with_objects = [picture for picture in data.pictures if len(picture.objects)]
    if negatives and with_objects:
        raise DataSetError(
            f"{data.source}: --negatives says that there are no objects, but in {len(with_objects)} pictures some are "
            f"labelled, first in {with_objects[0].path}."
        )
    if with_objects and all(picture.objects.crowd.all() for picture in with_objects):
        raise DataSetError(f"{data.source}: not one object is labelled outside crowds, so there is nothing to find.")
    unknown = [name for number, name in enumerate(classes) if number not in data.class_ids]
    if not unknown:
        return data
    note = f"The data set does not know the model's {listed(unknown)}: boxes of these classes were left out."
    return replace(data, notes=[*data.notes, note])


def _open(place: Path, split: str | None, classes: Sequence[str], max_pixels: int, negatives: bool) -> DataSet:
    if place.is_file():
        return _read_file(place, split, classes, max_pixels, negatives)
    if not place.is_dir():
        raise DataSetError(f"{place} does not exist.")
    if description := _description(place):
        return read_described(description, split, classes, max_pixels, negatives)
    if (place / "images").is_dir() and (place / "labels").is_dir():
        return read_plain(place, split, classes, max_pixels, negatives)
    if files := find_annotations(place):
        annotations, chosen = choose_annotations(files, place, split)
        return read_coco(annotations, chosen, classes, max_pixels)
    if negatives:
        return _read_pictures(place, split, classes, max_pixels)
    raise DataSetError(
        f"{place} is no data set: it holds neither a data.yaml, nor the folders images and labels, nor COCO "
        "annotations (annotations/*.json). If it is a folder of pictures that show no objects, say so with --negatives."
    )


def _read_file(file: Path, split: str | None, classes: Sequence[str], max_pixels: int, negatives: bool) -> DataSet:
    if file.suffix in (".yaml", ".yml"):
        return read_described(file, split, classes, max_pixels, negatives)
    if file.suffix == ".json":
        if split is not None:
            raise DataSetError(f"{file} is one split by itself; leave --split out.")
        return read_coco(file, None, classes, max_pixels)
    raise DataSetError(f"{file} is neither a data.yaml nor a COCO annotation file (.json).")


def _read_pictures(folder: Path, split: str | None, classes: Sequence[str], max_pixels: int) -> DataSet:
    if split is not None:
        raise DataSetError(f"{folder} is a plain folder of pictures and has no split {split!r}.")
    pictures = []
    for path in pictures_below(folder):
        (width, height), _ = picture_size(path, max_pixels)
        pictures.append(Picture(path, width, height, objects_of([], [])))
    note = "Nothing is labelled; that the pictures show no objects was taken from --negatives."
    return DataSet(folder, "pictures", None, pictures, list(range(len(classes))), [note])


def _description(folder: Path) -> Path | None:
    named = [folder / name for name in DESCRIPTIONS if (folder / name).is_file()]
    others = sorted(p for pattern in ("*.yaml", "*.yml") for p in folder.glob(pattern))
    if len(named) == 1:
        return named[0]
    if len(others) > 1:
        raise DataSetError(f"{folder} holds several descriptions: {', '.join(map(str, others))}. Give one to --data.")
    return others[0] if others else None

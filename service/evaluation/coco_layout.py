"""Data sets in COCO's layout: one JSON file of pictures, categories and annotations."""

import json
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from service.errors import DataSetError
from service.evaluation.class_names import match_classes
from service.evaluation.data_set import DataSet, Picture, objects_of, picture_size


def find_annotations(folder: Path) -> list[Path]:
    """The files that may hold boxes: in ``annotations/``, beside the pictures' folders, or one folder further down.

    Where COCO's own names are used, only the ``instances_*`` are: the others hold captions, keypoints and segments.
    """
    for pattern in ("annotations/*.json", "*.json", "*/*.coco.json"):
        if found := sorted(folder.glob(pattern)):
            return [p for p in found if p.name.startswith("instances_")] or found
    return []


def choose_annotations(files: Sequence[Path], folder: Path, split: str | None) -> tuple[Path, str | None]:
    """The one file of a split, and the split; None takes ``test`` if there is one, else ``val``, else the only file.

    Raises:
        DataSetError: no file, or several, belong to the split.
    """
    for wanted in (split,) if split else ("test", "val"):
        of_split = [file for file in files if _belongs(file.relative_to(folder), wanted)]
        if len(of_split) == 1:
            return of_split[0], wanted
        if of_split:
            raise DataSetError(f"{_listed(of_split)} may all be the split {wanted!r}. Give one of them to --data.")
    if split is None and len(files) == 1:
        return files[0], None
    raise DataSetError(
        f"None of {_listed(files)} is the split {split!r}." if split else f"Give one of {_listed(files)} to --data."
    )


def _belongs(relative: Path, split: str) -> bool:
    # "val" is in val2017, in instances_val and in valid/, but not in interval.
    return re.search(rf"(?<![a-z]){re.escape(split.lower())}", relative.as_posix().lower()) is not None


def _listed(files: Sequence[Path]) -> str:
    return ", ".join(str(file) for file in files)


def read_coco(annotations: Path, split: str | None, classes: Sequence[str], max_pixels: int) -> DataSet:
    """Read the data set of one annotation file.

    Args:
        split: what the file's split is called in the report.
        classes: names of the model's classes.
        max_pixels: pictures of more pixels are refused.

    Raises:
        DataSetError: the file, an annotation or a picture is missing or broken.
        ClassMismatch: its categories are not the model's classes.
    """
    content = _load_json(annotations)
    images = _by_id(content, "images", annotations)
    categories = _by_id(content, "categories", annotations)
    ids = match_classes({key: str(entry.get("name")) for key, entry in categories.items()}, classes, annotations)
    of_image = _annotations_by_image(content, images, ids, annotations)
    folder = _pictures_folder(annotations, _file_name(next(iter(images.values())), annotations), split)
    pictures = [_picture(folder, entry, of_image[key], ids, annotations, max_pixels) for key, entry in images.items()]
    return DataSet(annotations, "COCO", split, pictures, sorted(set(ids.values())), [])


def _load_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except json.JSONDecodeError as error:
        raise DataSetError(f"{path}:{error.lineno}: not JSON: {error.msg}.") from error
    except UnicodeDecodeError as error:
        raise DataSetError(f"{path}: not UTF-8 text.") from error
    kinds = ("images", "categories", "annotations")
    if not isinstance(content, dict) or not all(isinstance(content.get(kind), list) for kind in kinds):
        raise DataSetError(f"{path}: must hold the lists images, categories and annotations.")
    if not content["images"] or not content["categories"]:
        raise DataSetError(f"{path}: neither images nor categories may be empty.")
    return content


def _by_id(content: Mapping[str, Any], kind: str, source: Path) -> dict[int, dict[str, Any]]:
    found: dict[int, dict[str, Any]] = {}
    for place, entry in enumerate(content[kind]):
        number = entry.get("id") if isinstance(entry, dict) else None
        if not isinstance(number, int) or number in found:
            raise DataSetError(f"{source}: {kind}[{place}] must be an object with an id that is whole and its own.")
        found[number] = entry
    return found


def _annotations_by_image(
    content: Mapping[str, Any], images: Mapping[int, Any], ids: Mapping[int, int], source: Path
) -> defaultdict[int, list[dict[str, Any]]]:
    found: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
    for place, entry in enumerate(content["annotations"]):
        where = f"{source}: annotations[{place}]"
        if not isinstance(entry, dict):
            raise DataSetError(f"{where} is not an object.")
        where += f" (id {entry.get('id')})"
        if entry.get("image_id") not in images:
            raise DataSetError(f"{where}: there is no picture with the id {entry.get('image_id')!r}.")
        if entry.get("category_id") not in ids:
            raise DataSetError(f"{where}: there is no category with the id {entry.get('category_id')!r}.")
        _check_box(entry, where)
        found[entry["image_id"]].append(entry)
    return found


def _check_box(entry: Mapping[str, Any], where: str) -> None:
    box = entry.get("bbox")
    numbers = isinstance(box, list) and len(box) == 4 and all(_is_finite(value) for value in box)
    if not numbers or box[2] <= 0 or box[3] <= 0:  # type: ignore[index]
        raise DataSetError(f"{where}: bbox must be [x, y, width, height] in pixels with an extent, not {box!r}.")
    if not _is_finite(entry.get("area", 0)):
        raise DataSetError(f"{where}: area must be a number, not {entry['area']!r}.")


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _file_name(entry: Mapping[str, Any], source: Path) -> str:
    name = entry.get("file_name")
    if not isinstance(name, str) or not name:
        raise DataSetError(f"{source}: the picture with the id {entry['id']} has no file_name.")
    return name


def _pictures_folder(annotations: Path, first: str, split: str | None) -> Path:
    root = annotations.parent.parent if annotations.parent.name == "annotations" else annotations.parent
    part = annotations.stem.removeprefix("instances_")
    below = dict.fromkeys(name for name in (part, split) if name)
    places = [annotations.parent, root, root / "images"]
    places += [folder / name for folder in (root, root / "images") for name in below]
    for folder in places:
        if (folder / first).is_file():
            return folder
    raise DataSetError(f"{annotations}: its picture {first} is in none of {_listed(list(dict.fromkeys(places)))}.")


def _picture(
    folder: Path,
    entry: Mapping[str, Any],
    annotations: Sequence[Mapping[str, Any]],
    ids: Mapping[int, int],
    source: Path,
    max_pixels: int,
) -> Picture:
    path = folder / _file_name(entry, source)
    (width, height), turned = picture_size(path, max_pixels)
    stated = (entry.get("width", width), entry.get("height", height))
    if stated != (width, height):
        turn = " as people see it; the labels seem made for the picture before its EXIF turn" if turned else ""
        raise DataSetError(
            f"{source}: the picture with the id {entry['id']} is said to have {stated[0]} x {stated[1]} pixels, but "
            f"{path} has {width} x {height}{turn}."
        )
    boxes = [annotation["bbox"] for annotation in annotations]
    objects = objects_of(
        [(x, y, x + w, y + h) for x, y, w, h in boxes],
        [ids[annotation["category_id"]] for annotation in annotations],
        # COCO's sizes go by the outline's area where it is given, which is smaller than the box's.
        [annotation.get("area", w * h) for annotation, (_, _, w, h) in zip(annotations, boxes, strict=True)],
        [bool(annotation.get("iscrowd", 0)) for annotation in annotations],
    )
    return Picture(path, width, height, objects)

"""Data sets in Ultralytics' layout: a picture below ``images/``, its labels in a text file below ``labels/``."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.errors import DataSetError
from service.evaluation.class_names import match_classes
from service.evaluation.data_set import DataSet, Picture, objects_of, picture_size, pictures_below

DESCRIPTIONS = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
#: Ultralytics' own tolerance for coordinates outside 0..1; the box is cut at the picture's border.
_SLACK = 0.01
#: Lists of class names that annotation tools leave among the labels.
_NOT_LABELS = frozenset({"classes.txt", "labels.txt", "notes.txt"})


@dataclass(frozen=True)
class _Listing:
    """Picture files of one split; ``complete`` if they are everything in their folders."""

    pictures: list[Path]
    complete: bool


@dataclass(frozen=True)
class _Label:
    """One line: class id of the data set, and corners relative to the picture, 0 to 1."""

    class_id: int
    xyxy: tuple[float, float, float, float]


def read_described(
    description: Path, split: str | None, classes: Sequence[str], max_pixels: int, negatives: bool
) -> DataSet:
    """Read the data set that a ``data.yaml`` describes.

    Args:
        split: key of the file whose pictures are read; None takes ``test`` if there is one, else ``val``.
        classes: names of the model's classes.
        max_pixels: pictures of more pixels are refused.
        negatives: somebody vouches for pictures without a label file; else one object must be labelled, or every
            picture have a label file.

    Raises:
        DataSetError: the file, a picture or a label is missing or broken.
        ClassMismatch: its classes are not the model's.
    """
    content = _load_yaml(description)
    chosen = _choose_split(content, split, description)
    root = _root(content, description)
    entries = content[chosen] if isinstance(content[chosen], list) else [content[chosen]]
    listings = [_list_pictures(root, str(entry), description, chosen) for entry in entries]
    listing = _Listing([p for one in listings for p in one.pictures], all(one.complete for one in listings))
    ids, notes = _class_ids(content, classes, description)
    return _read(description, chosen, listing, ids, notes, max_pixels, negatives)


def read_plain(folder: Path, split: str | None, classes: Sequence[str], max_pixels: int, negatives: bool) -> DataSet:
    """Read a folder that holds ``images`` and ``labels`` and says nothing about its classes.

    With no names to match, the ids in the labels are taken as the model's. Arguments and errors are those of
    ``read_described``; a split is a folder within ``images``.
    """
    images = folder / "images"
    if split is None:
        split = next((name for name in ("test", "val") if (images / name).is_dir()), None)
    elif not (images / split).is_dir():
        raise DataSetError(f"{folder} has no split {split!r}: there is no folder {images / split}.")
    pictures = pictures_below(images / split if split else images)
    note = f"{folder} does not name its classes; the ids in its labels were taken as the model's."
    ids = {number: number for number in range(len(classes))}
    return _read(folder, split, _Listing(pictures, complete=True), ids, [note], max_pixels, negatives)


def _load_yaml(path: Path) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise DataSetError(f"{path}{line}: not YAML: {getattr(error, 'problem', None) or error}") from error
    except UnicodeDecodeError as error:
        raise DataSetError(f"{path}: not UTF-8 text.") from error
    if not isinstance(content, dict):
        raise DataSetError(f"{path}: holds no mapping with the keys path, val, test and names.")
    return content


def _choose_split(content: Mapping[str, Any], split: str | None, description: Path) -> str:
    present = [name for name in ("test", "val", "train") if content.get(name)]
    if split is None:
        split = next((name for name in present if name != "train"), None)
        if split is None:
            raise DataSetError(f"{description}: has neither test nor val. Name another part with --split.")
    elif not content.get(split):
        raise DataSetError(f"{description}: has no split {split!r}; it has {', '.join(present) or 'none'}.")
    return split


def _root(content: Mapping[str, Any], description: Path) -> Path:
    root = description.parent / str(content.get("path") or "")
    if not root.is_dir():
        raise DataSetError(
            f"{description}: its path {str(content['path'])!r} is not a folder. It must be absolute or relative to "
            "the file itself."
        )
    return root


def _list_pictures(root: Path, entry: str, description: Path, split: str) -> _Listing:
    place = root / entry
    if not place.exists() and entry.startswith("../"):  # as Roboflow writes it, one folder too high
        place = root / entry.removeprefix("../")
    if place.is_dir():
        return _Listing(pictures_below(place), complete=True)
    if place.is_file() and place.suffix == ".txt":
        return _Listing(_listed_pictures(place), complete=False)
    raise DataSetError(f"{description}: {split}: {place} is neither a folder nor a .txt list of pictures.")


def _listed_pictures(listing: Path) -> list[Path]:
    found = []
    for number, line in enumerate(listing.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        picture = listing.parent / line.strip()
        if not picture.is_file():
            raise DataSetError(f"{listing}:{number}: the picture {picture} is missing.")
        found.append(picture)
    if not found:
        raise DataSetError(f"{listing} lists no pictures.")
    return found


def _class_ids(content: Mapping[str, Any], classes: Sequence[str], source: Path) -> tuple[dict[int, int], list[str]]:
    """The model's id for each id of the data set, and what to say about it."""
    names = content.get("names")
    if isinstance(names, list):
        names = dict(enumerate(names))
    if isinstance(names, dict) and names and all(isinstance(key, int) for key in names):
        return match_classes({key: str(name) for key, name in names.items()}, classes, source), []
    if names:
        raise DataSetError(f"{source}: names must be a list, or a mapping from class ids to names.")
    if content.get("nc") not in (None, len(classes)):
        raise DataSetError(f"{source}: nc is {content['nc']}, but the model has {len(classes)} classes.")
    note = f"{source} does not name its classes; the ids in its labels were taken as the model's."
    return {number: number for number in range(len(classes))}, [note]


def _read(
    source: Path,
    split: str | None,
    listing: _Listing,
    ids: Mapping[int, int],
    notes: list[str],
    max_pixels: int,
    negatives: bool,
) -> DataSet:
    label_files = [label_file(picture) for picture in listing.pictures]
    if listing.complete:
        _refuse_orphans(label_files)
    labels = [_read_labels(file, ids) if file.is_file() else None for file in label_files]
    unlabelled = sum(lines is None for lines in labels)
    if not any(labels) and unlabelled and not negatives:
        first = labels.index(None)
        raise DataSetError(
            f"{source}: not one object is labelled in {len(labels)} pictures, and {unlabelled} of them have no label "
            f"file: that of {listing.pictures[first]} was looked for in {label_files[first]}. If they show no objects, "
            "say so with --negatives."
        )
    if unlabelled:
        notes = [*notes, f"{unlabelled} pictures have no label file and count as pictures without objects."]
    pictures = [
        _picture(path, lines or [], ids, max_pixels) for path, lines in zip(listing.pictures, labels, strict=True)
    ]
    return DataSet(source, "YOLO", split, pictures, sorted(set(ids.values())), notes)


def label_file(picture: Path) -> Path:
    """Where Ultralytics looks for the labels: the last folder called ``images`` becomes ``labels``."""
    parts = list(picture.parts)
    for place in range(len(parts) - 2, -1, -1):
        if parts[place] == "images":
            parts[place] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def _refuse_orphans(label_files: Sequence[Path]) -> None:
    expected = set(label_files)
    for folder in sorted({file.parent for file in label_files}):
        for file in sorted(folder.glob("*.txt")):
            if file not in expected and file.name not in _NOT_LABELS:
                raise DataSetError(f"{file}: the picture that it labels is missing.")


def _read_labels(path: Path, ids: Mapping[int, int]) -> list[_Label]:
    """The lines of one file; a line that repeats another is one object, as Ultralytics has it."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataSetError(f"{path}: not UTF-8 text.") from error
    found = [_parse_line(line, f"{path}:{number}", ids) for number, line in enumerate(lines, 1) if line.strip()]
    return list(dict.fromkeys(found))


def _parse_line(line: str, where: str, ids: Mapping[int, int]) -> _Label:
    words = line.split()
    try:
        values = [float(word) for word in words]
    except ValueError as error:
        raise DataSetError(f"{where}: {line.strip()[:80]!r} are not all numbers.") from error
    class_id = values[0]
    if not class_id.is_integer() or int(class_id) not in ids:
        raise DataSetError(f"{where}: there is no class {words[0]}; ids are {min(ids)} to {max(ids)}.")
    return _Label(int(class_id), _corners(values[1:], where))


def _corners(values: list[float], where: str) -> tuple[float, float, float, float]:
    """Four numbers are centre and size of a box, six or more the corners of an outline."""
    is_outline = len(values) >= 6 and len(values) % 2 == 0
    if len(values) != 4 and not is_outline:
        raise DataSetError(
            f"{where}: {len(values)} numbers follow the class; a box has 4 (x, y, width, height), an outline an even "
            "number from 6."
        )
    if not all(math.isfinite(v) and -_SLACK <= v <= 1 + _SLACK for v in values):
        raise DataSetError(f"{where}: coordinates are shares of the picture, from 0 to 1.")
    if is_outline:
        corners = (min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2]))
    else:
        x, y, width, height = values
        corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    x1, y1, x2, y2 = (min(max(v, 0.0), 1.0) for v in corners)
    if x2 <= x1 or y2 <= y1:
        raise DataSetError(f"{where}: the box has no extent inside the picture.")
    return x1, y1, x2, y2


def _picture(path: Path, labels: Sequence[_Label], ids: Mapping[int, int], max_pixels: int) -> Picture:
    (width, height), _ = picture_size(path, max_pixels)
    xyxy = [(x1 * width, y1 * height, x2 * width, y2 * height) for x1, y1, x2, y2 in (b.xyxy for b in labels)]
    return Picture(path, width, height, objects_of(xyxy, [ids[label.class_id] for label in labels]))

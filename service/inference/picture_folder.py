"""The picture files of a folder and of the folders in it, decoded as when they are served, each content once."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.errors import ImageError
from service.inference.images import decode_image

#: File names that end so are taken for pictures. Some of these formats are not served: whoever reads them says so
#: instead of leaving them out in silence.
PICTURE_SUFFIXES = frozenset(
    f".{suffix}"
    for suffix in (
        "avif",
        "bmp",
        "dng",
        "gif",
        "heic",
        "heif",
        "jp2",
        "jpeg",
        "jpg",
        "mpo",
        "png",
        "tif",
        "tiff",
        "webp",
    )
)


@dataclass(frozen=True)
class Decoded:
    """A picture: its file, the SHA-256 of the file's bytes, hexadecimal, and its pixels (H, W, 3) uint8 BGR."""

    path: Path
    sha256: str
    pixels: NDArray[np.uint8]


@dataclass(frozen=True)
class Repeated:
    """A file that holds the same bytes as a picture before it."""

    path: Path


@dataclass(frozen=True)
class Unreadable:
    """A file that is named like a picture but cannot be served as one."""

    path: Path
    reason: str


def picture_files(folder: Path) -> list[Path]:
    """Every file in a folder and the folders in it that is named like a picture, sorted."""
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in PICTURE_SUFFIXES and p.is_file())


def different_files(files: Sequence[Path]) -> list[Path]:
    """Of files that hold the same bytes only the first, and those that cannot be read.

    Only files of a size that another has, too, are read.
    """
    sizes = {path: _size(path) for path in files}
    alike = Counter(sizes.values())
    first: dict[str, Path] = {}
    for path, size in sizes.items():
        key = str(path)
        if size is not None and alike[size] > 1:
            with suppress(OSError):  # whoever decodes it says why
                key = hashlib.sha256(path.read_bytes()).hexdigest()
        first.setdefault(key, path)
    return list(first.values())


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def read_files(files: Sequence[Path], max_pixels: int) -> Iterator[Decoded | Repeated | Unreadable]:
    """Decode picture files one after the other; there is one answer for each.

    Args:
        max_pixels: larger pictures cannot be served.
    """
    seen = set[str]()
    for path in files:
        try:
            data = path.read_bytes()
            sha256 = hashlib.sha256(data).hexdigest()
            if sha256 in seen:
                yield Repeated(path)
                continue
            pixels = decode_image(data, max_pixels=max_pixels)
        except (ImageError, OSError) as error:
            yield Unreadable(path, str(error))
        else:
            seen.add(sha256)
            yield Decoded(path, sha256, pixels)

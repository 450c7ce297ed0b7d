"""Picture files known by their bytes: named together, and read again as what they were, fitted to the network."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.bundle.manifest import InputSpec
from service.errors import ImageError, PictureUnusable
from service.inference.images import decode_image
from service.preprocessing.letterbox import letterbox, plan_letterbox


@dataclass(frozen=True)
class Picture:
    """An image file and the SHA-256 of its bytes, hexadecimal."""

    path: Path
    sha256: str


def digest(pictures: Sequence[Picture]) -> str:
    """SHA-256 that names a set of pictures by their bytes: of their ascending SHA-256 sums, a line each."""
    lines = "".join(f"{sha256}\n" for sha256 in sorted(picture.sha256 for picture in pictures))
    return hashlib.sha256(lines.encode()).hexdigest()


def read_fitted(
    pictures: Sequence[Picture],
    spec: InputSpec,
    max_pixels: int,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[NDArray[np.uint8]]:
    """Each picture decoded and letterboxed as when it is served: uint8 (H, W, 3) BGR.

    Args:
        spec: the network's input. Where it leaves padding out, H and W differ from picture to picture.
        max_pixels: larger pictures cannot be served.
        advance: told how many of how many have been handed out and done with.

    Raises:
        PictureUnusable: a file cannot be served, or is not what it was when its SHA-256 was taken.
    """
    for done, picture in enumerate(pictures, 1):
        try:
            data = picture.path.read_bytes()
            if hashlib.sha256(data).hexdigest() != picture.sha256:
                raise PictureUnusable(f"{picture.path} has changed since the folder was read.")
            image = decode_image(data, max_pixels=max_pixels)
        except (ImageError, OSError) as error:
            raise PictureUnusable(f"{picture.path} cannot be used: {error}") from error
        yield letterbox(image, plan_letterbox(image.shape[1], image.shape[0], spec.height, spec.rect))
        advance(done, len(pictures))

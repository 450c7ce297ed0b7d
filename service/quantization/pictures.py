"""The pictures of a folder, divided into those that are calibrated on and those that the gate judges by."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.bundle.int8 import PictureList
from service.bundle.manifest import InputSpec
from service.errors import ImageError, QuantizationError
from service.inference.images import decode_image
from service.inference.picture_folder import picture_files
from service.preprocessing.letterbox import letterbox, plan_letterbox

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Picture:
    """An image file and the SHA-256 of its bytes, hexadecimal."""

    path: Path
    sha256: str


@dataclass(frozen=True)
class PictureSplit:
    """Pictures of a folder, each content once; no picture is in both lists."""

    folder: Path
    calibration: list[Picture]
    gate: list[Picture]


def split_pictures(folder: Path, calibration: int, most: int | None) -> PictureSplit:
    """Divide a folder's pictures, and those of folders in it, by the SHA-256 of their bytes.

    So names decide nothing, neighbours on film are no neighbours here, and the same pictures are divided alike. The
    first ``calibration`` in that order are for calibration.

    Args:
        most: of the others, so many are for the gate; all where it is None.

    Raises:
        QuantizationError: there is no such folder, or none is left for the gate.
    """
    if not folder.is_dir():
        raise QuantizationError(f"--data {folder} is not a folder.")
    files = {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in picture_files(folder)[::-1]}
    pictures = [Picture(path, sha256) for sha256, path in sorted(files.items())]
    if len(pictures) <= calibration:
        raise QuantizationError(
            f"{folder} holds {len(pictures)} different pictures; {calibration} are calibrated on, which leaves none to "
            "judge by."
        )
    gate = pictures[calibration:]
    return PictureSplit(folder, pictures[:calibration], gate if most is None else gate[:most])


def list_pictures(pictures: Sequence[Picture]) -> PictureList:
    """How many there are, and the SHA-256 that names them all."""
    lines = "".join(f"{sha256}\n" for sha256 in sorted(picture.sha256 for picture in pictures))
    return PictureList(pictures=len(pictures), sha256=hashlib.sha256(lines.encode()).hexdigest())


def read_fitted(
    pictures: Sequence[Picture], spec: InputSpec, max_pixels: int, advance: Callable[[int, int], None]
) -> Iterator[Pixels]:
    """Each picture decoded and letterboxed as when it is served: uint8 (H, W, 3) BGR.

    Args:
        spec: the network's input.
        max_pixels: larger pictures cannot be served.
        advance: told how many of how many have been handed out.

    Raises:
        QuantizationError: a file cannot be served, or is not what it was when the folder was read.
    """
    for done, picture in enumerate(pictures, 1):
        try:
            data = picture.path.read_bytes()
            image = decode_image(data, max_pixels=max_pixels)
        except (ImageError, OSError) as error:
            raise QuantizationError(f"{picture.path} cannot be used: {error}") from error
        if hashlib.sha256(data).hexdigest() != picture.sha256:
            raise QuantizationError(f"{picture.path} has changed since the folder was read.")
        yield letterbox(image, plan_letterbox(image.shape[1], image.shape[0], spec.height, spec.rect))
        advance(done, len(pictures))

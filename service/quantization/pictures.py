"""The pictures of a folder, divided into those that are calibrated on and those that the gate judges by."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from service.bundle.int8 import PictureList
from service.errors import QuantizationError
from service.inference.known_pictures import Picture, digest
from service.inference.picture_folder import picture_files


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
    return PictureList(pictures=len(pictures), sha256=digest(pictures))

"""The unlabelled pictures of a folder: which can be read, which are fitted and which are held back."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from service.errors import RecalibrationError
from service.inference.known_pictures import Picture
from service.inference.picture_folder import Decoded, Unreadable, picture_files, read_files

#: Even if all variance lay between pictures and none within them, the mean of so many would be known to a quarter of a
#: standard deviation.
LEAST_FITTED = 16


@dataclass(frozen=True)
class PictureSet:
    """What a folder holds.

    Attributes:
        fitted: pictures the statistics are estimated on.
        held_back: pictures kept for the comparison alone; may be empty.
        skipped: files left out because they cannot be read.
        repeated: files left out because another one holds the same bytes.
    """

    folder: Path
    fitted: list[Picture]
    held_back: list[Picture]
    skipped: list[Unreadable]
    repeated: int


def open_pictures(folder: Path, hold_back: float, max_pixels: int, advance: Callable[[int, int], None]) -> PictureSet:
    """Find and decode every picture in a folder and those below it, as serving would.

    The pictures are put in the order of their bytes' SHA-256. So names decide nothing, neighbours on film or in a
    camera's numbering are no neighbours here, and the same pictures give the same statistics.

    Args:
        hold_back: share of the pictures to keep for the comparison, 0 to 1.
        max_pixels: larger pictures cannot be served and are skipped.
        advance: told how many files have been read.

    Raises:
        RecalibrationError: there is no such folder, or fewer than ``LEAST_FITTED`` pictures are left to fit.
    """
    if not folder.is_dir():
        raise RecalibrationError(f"--data {folder} is not a folder.")
    files = picture_files(folder)
    pictures: list[Picture] = []
    skipped: list[Unreadable] = []
    for number, found in enumerate(read_files(files, max_pixels), 1):
        if isinstance(found, Decoded):
            pictures.append(Picture(found.path, found.sha256))
        elif isinstance(found, Unreadable):
            skipped.append(found)
        advance(number, len(files))
    ordered = sorted(pictures, key=lambda picture: picture.sha256)
    held_back = round(len(ordered) * hold_back)
    fitted = ordered[held_back:]
    if len(fitted) < LEAST_FITTED:
        raise RecalibrationError(_too_few(folder, len(fitted), held_back, skipped))
    return PictureSet(folder, fitted, ordered[:held_back], skipped, len(files) - len(skipped) - len(ordered))


def _too_few(folder: Path, fitted: int, held_back: int, skipped: Sequence[Unreadable]) -> str:
    text = f"{folder} leaves {fitted} pictures to estimate on, with {held_back} held back; it takes {LEAST_FITTED}."
    if skipped:
        text += f" {len(skipped)} cannot be read, such as {skipped[0].path}: {skipped[0].reason}"
    return text

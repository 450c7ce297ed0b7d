"""Measures a folder of clean pictures with the probe, as `python -m service calibrate` does."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.bundle.store import Bundle
from service.drift.calibration import LEAST_PICTURES
from service.drift.features import Samples
from service.errors import CalibrationUnusable
from service.inference.picture_folder import Repeated, Unreadable, picture_files, read_files
from service.inference.probe import Probe, Reading
from service.preprocessing.letterbox import content_tensor, letterbox, plan_letterbox


def measure_folder(bundle: Bundle, folder: Path, max_pixels: int, progress: Callable[[int, int], None]) -> Samples:
    """Measure every picture in a folder and the folders in it. Files with the same bytes count once.

    Args:
        progress: told how many files of how many have been read.

    Raises:
        CalibrationUnusable: fewer than ``LEAST_PICTURES`` different pictures, or one that cannot be read.
        EngineError: the probe cannot be loaded or run.
    """
    files = _enough_files(folder)
    probe, size = Probe(bundle.probe_graph), bundle.manifest.model.input.height
    readings = [_measure(probe, image, size) for image in _different(files, max_pixels, progress)]
    if len(readings) < LEAST_PICTURES:
        raise _too_few(folder, len(readings))
    return Samples(
        np.stack([reading.means for reading in readings]),
        np.stack([reading.variances for reading in readings]),
        np.stack([reading.figures for reading in readings]),
    )


def read_pictures(
    folder: Path, max_pixels: int, most: int, progress: Callable[[int, int], None]
) -> Iterator[NDArray[np.uint8]]:
    """The same pictures decoded, (H, W, 3) uint8 BGR: at most ``most``, evenly chosen in the order of their names.

    Args:
        progress: told how many files of how many have been read.

    Raises:
        CalibrationUnusable: as for ``measure_folder``.
    """
    files = _enough_files(folder)
    if len(files) > most:
        files = [files[i] for i in np.linspace(0, len(files) - 1, most).round().astype(int)]
    yield from _different(files, max_pixels, progress)


def _enough_files(folder: Path) -> list[Path]:
    files = picture_files(folder)
    if len(files) < LEAST_PICTURES:
        raise _too_few(folder, len(files))
    return files


def _different(
    files: Sequence[Path], max_pixels: int, progress: Callable[[int, int], None]
) -> Iterator[NDArray[np.uint8]]:
    for done, found in enumerate(read_files(files, max_pixels), 1):
        if isinstance(found, Unreadable):
            raise CalibrationUnusable(f"{found.path} cannot be used: {found.reason}")
        if not isinstance(found, Repeated):
            yield found.pixels
        progress(done, len(files))


def _measure(probe: Probe, image: NDArray[np.uint8], size: int) -> Reading:
    plan = plan_letterbox(image.shape[1], image.shape[0], size)
    return probe.measure(content_tensor(letterbox(image, plan), plan))


def _too_few(folder: Path, count: int) -> CalibrationUnusable:
    return CalibrationUnusable(
        f"{folder} holds {count} different pictures; a calibration needs at least {LEAST_PICTURES}."
    )

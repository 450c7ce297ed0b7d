"""Measures a folder of clean pictures with the probe, as `python -m service calibrate` does."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.bundle.store import Bundle
from service.drift.calibration import LEAST_PICTURES
from service.drift.features import Samples
from service.errors import CalibrationUnusable
from service.inference.picture_folder import Decoded, Unreadable, different_files, picture_files, read_files
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
    probe, size = Probe(bundle.probe_graph), bundle.manifest.model.input.height
    readings: list[Reading] = []
    for image in read_pictures(folder, max_pixels, None, progress):
        plan = plan_letterbox(image.shape[1], image.shape[0], size)
        readings.append(probe.measure(content_tensor(letterbox(image, plan), plan)))
    return Samples.of(readings)


def read_pictures(
    folder: Path, max_pixels: int, most: int | None, progress: Callable[[int, int], None]
) -> Iterator[NDArray[np.uint8]]:
    """The same pictures decoded, (H, W, 3) uint8 BGR.

    Args:
        most: of more pictures so many are evenly chosen in the order of their names.
        progress: told how many files of how many have been read.

    Raises:
        CalibrationUnusable: as for ``measure_folder``.
    """
    files = different_files(picture_files(folder))
    if len(files) < LEAST_PICTURES:
        raise CalibrationUnusable(
            f"{folder} holds {len(files)} different pictures; a calibration needs at least {LEAST_PICTURES}."
        )
    if most is not None and len(files) > most:
        files = [files[i] for i in even_choice(len(files), most)]
    for done, found in enumerate(read_files(files, max_pixels), 1):
        if isinstance(found, Unreadable):
            raise CalibrationUnusable(f"{found.path} cannot be used: {found.reason}")
        if isinstance(found, Decoded):
            yield found.pixels
        progress(done, len(files))


def even_choice(count: int, most: int) -> NDArray[np.intp]:
    """Which of ``count`` pictures, at most ``most``, ``read_pictures`` takes, in ascending order."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(np.intp)

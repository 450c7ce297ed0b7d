"""Measures a folder of clean pictures, as `python -m service calibrate` does: each is read and decoded once."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.bundle.store import Bundle
from service.drift.calibration import LEAST_PICTURES
from service.drift.features import Samples
from service.drift.layers import watch_layers
from service.drift.lesson import Lesson
from service.errors import CalibrationUnusable
from service.inference.fault_pictures import measure_versions
from service.inference.picture_folder import Decoded, Unreadable, different_files, picture_files, read_files
from service.inference.probe import Probe, Reading
from service.preprocessing.letterbox import content_tensor, letterbox, plan_letterbox

#: More pictures hardly sharpen the signatures; of a larger folder an even selection is taken.
MOST_PICTURES = 400


def measure_folder(
    bundle: Bundle,
    folder: Path,
    max_pixels: int,
    progress: Callable[[int, int], None],
    most_with_faults: int = MOST_PICTURES,
) -> Lesson:
    """Measure every picture in a folder and the folders in it. Files with the same bytes count once.

    Args:
        progress: told how many files of how many have been measured.
        most_with_faults: so many, those of ``even_choice``, are measured with every fault as well.

    Raises:
        CalibrationUnusable: fewer than ``LEAST_PICTURES`` different pictures, or one that cannot be read.
        EngineError: the probe cannot be loaded or run.
    """
    files = calibration_files(folder)
    probe, watched, size = Probe(bundle.probe_graph), watch_layers(bundle), bundle.manifest.model.input.height
    chosen = set(even_choice(len(files), most_with_faults).tolist())
    readings: list[Reading] = []
    faults: list[NDArray[np.float64]] = []
    for index, image in enumerate(read_pictures(files, max_pixels, progress)):
        plan = plan_letterbox(image.shape[1], image.shape[0], size)
        readings.append(probe.measure(content_tensor(letterbox(image, plan), plan)))
        if index in chosen:
            faults.append(measure_versions(image, probe, watched, size))
    return Lesson(Samples.of(readings), np.stack(faults), np.array(sorted(chosen), np.intp))


def calibration_files(folder: Path) -> list[Path]:
    """The different pictures in a folder and the folders in it, sorted.

    Raises:
        CalibrationUnusable: fewer than ``LEAST_PICTURES``.
    """
    files = different_files(picture_files(folder))
    if len(files) < LEAST_PICTURES:
        raise CalibrationUnusable(
            f"{folder} holds {len(files)} different pictures; a calibration needs at least {LEAST_PICTURES}."
        )
    return files


def even_choice(count: int, most: int) -> NDArray[np.intp]:
    """Which of ``count`` pictures, at most ``most``, ``measure_folder`` measures with faults, in ascending order."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(np.intp)


def read_pictures(
    files: Sequence[Path], max_pixels: int, progress: Callable[[int, int], None]
) -> Iterator[NDArray[np.uint8]]:
    """Different picture files decoded, (H, W, 3) uint8 BGR.

    Args:
        progress: told how many files of how many have been worked on.

    Raises:
        CalibrationUnusable: one of them cannot be read.
    """
    for done, found in enumerate(read_files(files, max_pixels), 1):
        if isinstance(found, Unreadable):
            raise CalibrationUnusable(f"{found.path} cannot be used: {found.reason}")
        if isinstance(found, Decoded):
            yield found.pixels
        progress(done, len(files))

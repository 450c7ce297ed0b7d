"""Measures a folder of clean pictures with the probe, as `python -m service calibrate` does."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.bundle.store import Bundle
from service.drift.calibration import LEAST_PICTURES
from service.drift.features import Samples
from service.errors import CalibrationUnusable, ImageError
from service.inference.images import decode_image
from service.inference.probe import Probe, Reading
from service.preprocessing.letterbox import content_tensor, letterbox, plan_letterbox

#: File names that end so are taken for pictures, of formats that are served.
_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif"))


def measure_folder(bundle: Bundle, folder: Path, max_pixels: int, progress: Callable[[int, int], None]) -> Samples:
    """Measure every picture in a folder and the folders in it. Files with the same bytes count once.

    Args:
        progress: told (done, total).

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
        progress: told (done, total).

    Raises:
        CalibrationUnusable: as for ``measure_folder``.
    """
    paths = _different_pictures(folder)
    if most is not None and len(paths) > most:
        paths = [paths[i] for i in np.linspace(0, len(paths) - 1, most).round().astype(int)]
    for done, path in enumerate(paths, 1):
        yield _decode(path, max_pixels)
        progress(done, len(paths))


def _different_pictures(folder: Path) -> list[Path]:
    """Its picture files in the order of their names, of those with the same bytes the first."""
    first: dict[bytes, Path] = {}
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in _SUFFIXES and p.is_file()):
        first.setdefault(hashlib.sha256(_read(path)).digest(), path)
    if len(first) < LEAST_PICTURES:
        raise CalibrationUnusable(
            f"{folder} holds {len(first)} different pictures ({', '.join(sorted(_SUFFIXES))}); a calibration needs at "
            f"least {LEAST_PICTURES}."
        )
    return list(first.values())


def _decode(path: Path, max_pixels: int) -> NDArray[np.uint8]:
    try:
        return decode_image(_read(path), max_pixels=max_pixels)
    except ImageError as error:
        raise CalibrationUnusable(f"{path} cannot be used: {error}") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CalibrationUnusable(f"{path} cannot be read: {error.strerror}.") from error

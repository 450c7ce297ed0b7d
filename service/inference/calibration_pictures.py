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
    paths = _picture_files(folder)
    probe, size = Probe(bundle.probe_graph), bundle.manifest.model.input.height
    readings: list[Reading] = []
    for done, (path, data) in enumerate(_different(paths), 1):
        readings.append(_measure(probe, path, data, size, max_pixels))
        progress(done, len(paths))
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
        progress: told (done, total).

    Raises:
        CalibrationUnusable: as for ``measure_folder``.
    """
    paths = _picture_files(folder)
    if len(paths) > most:
        paths = [paths[i] for i in np.linspace(0, len(paths) - 1, most).round().astype(int)]
    for done, (path, data) in enumerate(_different(paths), 1):
        yield _decode(path, data, max_pixels)
        progress(done, len(paths))


def _picture_files(folder: Path) -> list[Path]:
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in _SUFFIXES and p.is_file())
    if len(paths) < LEAST_PICTURES:
        raise _too_few(folder, len(paths))
    return paths


def _different(paths: list[Path]) -> Iterator[tuple[Path, bytes]]:
    seen = set()
    for path in paths:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise CalibrationUnusable(f"{path} cannot be read: {error.strerror}.") from error
        digest = hashlib.sha256(data).digest()
        if digest not in seen:
            seen.add(digest)
            yield path, data


def _measure(probe: Probe, path: Path, data: bytes, size: int, max_pixels: int) -> Reading:
    image = _decode(path, data, max_pixels)
    plan = plan_letterbox(image.shape[1], image.shape[0], size)
    return probe.measure(content_tensor(letterbox(image, plan), plan))


def _decode(path: Path, data: bytes, max_pixels: int) -> NDArray[np.uint8]:
    try:
        return decode_image(data, max_pixels=max_pixels)
    except ImageError as error:
        raise CalibrationUnusable(f"{path} cannot be used: {error}") from error


def _too_few(folder: Path, count: int) -> CalibrationUnusable:
    return CalibrationUnusable(
        f"{folder} holds {count} different pictures ({', '.join(sorted(_SUFFIXES))}); a calibration needs at least "
        f"{LEAST_PICTURES}."
    )

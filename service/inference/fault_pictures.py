"""Teaches the linter: pictures of a folder measured as they are and with every fault it is to know."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from service.bundle.store import Bundle
from service.drift.layers import watch_layers
from service.drift.shrinkage import shrunk_covariance
from service.inference.calibration_pictures import read_pictures
from service.inference.linter import features_of
from service.inference.probe import Probe
from service.lint.faults import PICTURE_FAULTS, spoil_picture
from service.lint.signatures import Signatures, fit_signatures
from service.preprocessing.letterbox import content_of, letterbox, picture_tensor, plan_letterbox

#: More pictures hardly sharpen the signatures; of a larger folder an even selection is taken.
MOST_PICTURES = 400
_SEED = 0


def learn_faults(bundle: Bundle, folder: Path, max_pixels: int, progress: Callable[[int, int], None]) -> Signatures:
    """Measure the folder's pictures with every fault and learn to tell them apart.

    Args:
        progress: told (done, total).

    Raises:
        CalibrationUnusable: too few different pictures, or one that cannot be read.
        EngineError: the probe cannot be loaded or run.
    """
    features = measure_faults(bundle, folder, max_pixels, MOST_PICTURES, progress)
    names = [fault.name for fault in PICTURE_FAULTS]
    return fit_signatures(features, names, shrunk_covariance, np.random.default_rng(_SEED))


def measure_faults(
    bundle: Bundle, folder: Path, max_pixels: int, most: int, progress: Callable[[int, int], None]
) -> NDArray[np.float64]:
    """Features (N, C, F) of N pictures with each of C faults, in the order of their names; at most ``most``.

    Raises the same errors as ``learn_faults``.
    """
    probe, watched = Probe(bundle.probe_graph), watch_layers(bundle)
    size = bundle.manifest.model.input.height
    features = []
    for image in read_pictures(folder, max_pixels, most, progress):
        versions = _versions(image, size)
        readings = [probe.measure(picture_tensor(versions[fault.name])) for fault in PICTURE_FAULTS]
        features.append(np.stack([features_of(reading, watched) for reading in readings]))
    return np.stack(features)


def _versions(image: NDArray[np.uint8], size: int) -> dict[str, NDArray[np.uint8]]:
    """The picture at the network's size with every fault, by name."""
    height, width = image.shape[:2]
    plan = plan_letterbox(width, height, size)
    content = np.ascontiguousarray(content_of(letterbox(image, plan), plan))
    stretched = np.asarray(cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR), np.uint8)
    return spoil_picture(content, stretched)

"""Teaches linter and drift: pictures measured as they are and with every fault they are to know."""

import cv2
import numpy as np
from numpy.typing import NDArray

from service.drift.layers import WatchedLayers
from service.drift.shrinkage import shrunk_covariance
from service.drift.taught import TaughtFaults
from service.inference.linter import features_of
from service.inference.probe import Probe
from service.lint.faults import PICTURE_FAULTS, spoil_picture
from service.lint.signatures import Signatures, fit_signatures
from service.preprocessing.letterbox import content_of, letterbox, picture_tensor, plan_letterbox

#: More pictures hardly sharpen the signatures; of a larger folder an even selection is taken.
MOST_PICTURES = 400
_SEED = 0


def learn_faults(features: NDArray[np.float64]) -> Signatures:
    """Learn to tell the faults apart from features (N, C, F) of N pictures with each of ``PICTURE_FAULTS``."""
    names = [fault.name for fault in PICTURE_FAULTS]
    return fit_signatures(features, names, shrunk_covariance, np.random.default_rng(_SEED))


def teach_faults(features: NDArray[np.float64], rows: NDArray[np.intp]) -> TaughtFaults:
    """What the faults change in features (N, C, F) of N pictures, for drift to look for.

    Args:
        rows: (N,) which of the calibration pictures these are.
    """
    return TaughtFaults(tuple(fault.title for fault in PICTURE_FAULTS[1:]), rows, features[:, 1:] - features[:, :1])


def measure_versions(image: NDArray[np.uint8], probe: Probe, watched: WatchedLayers, size: int) -> NDArray[np.float64]:
    """Features (C, F) of one picture (H, W, 3) uint8 BGR with each of ``PICTURE_FAULTS``, at the network's ``size``.

    Raises:
        EngineError: the probe cannot be run.
    """
    versions = _versions(image, size)
    readings = [probe.measure(picture_tensor(versions[fault.name])) for fault in PICTURE_FAULTS]
    return np.stack([features_of(reading, watched) for reading in readings])


def _versions(image: NDArray[np.uint8], size: int) -> dict[str, NDArray[np.uint8]]:
    """The picture at the network's size with every fault, by name."""
    height, width = image.shape[:2]
    plan = plan_letterbox(width, height, size)
    content = np.ascontiguousarray(content_of(letterbox(image, plan), plan))
    stretched = np.asarray(cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR), np.uint8)
    return spoil_picture(content, stretched)

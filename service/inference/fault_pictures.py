"""Measures pictures with every fault that linter and drift are to know."""

import cv2
import numpy as np
from numpy.typing import NDArray

from service.drift.layers import WatchedLayers
from service.inference.linter import features_of
from service.inference.probe import Probe
from service.lint.faults import spoil_picture
from service.preprocessing.letterbox import Letterbox, content_of, letterbox, picture_tensor, plan_letterbox


def measure_versions(image: NDArray[np.uint8], probe: Probe, watched: WatchedLayers, size: int) -> NDArray[np.float64]:
    """Features (C, F) of one picture (H, W, 3) uint8 BGR with each of ``PICTURE_FAULTS``, at the network's ``size``.

    Raises:
        EngineError: the probe cannot be run.
    """
    height, width = image.shape[:2]
    plan = plan_letterbox(width, height, size)
    return _measure(letterbox(image, plan), plan, _stretch(image, size), probe, watched)


def measure_fitted_versions(
    fitted: NDArray[np.uint8], plan: Letterbox, probe: Probe, watched: WatchedLayers, size: int
) -> NDArray[np.float64]:
    """The same of a picture of which no more is left than the network's input that ``letterbox`` drew by ``plan``.

    It is stretched from there, so that its shorter side is blurrier than that of the picture itself would be.

    Raises:
        EngineError: the probe cannot be run.
    """
    return _measure(fitted, plan, _stretch(content_of(fitted, plan, multiple=1), size), probe, watched)


def _stretch(picture: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """To the square (S, S, 3), without regard to proportions."""
    return np.asarray(cv2.resize(np.ascontiguousarray(picture), (size, size), interpolation=cv2.INTER_LINEAR), np.uint8)


def _measure(
    fitted: NDArray[np.uint8], plan: Letterbox, stretched: NDArray[np.uint8], probe: Probe, watched: WatchedLayers
) -> NDArray[np.float64]:
    content = np.ascontiguousarray(content_of(fitted, plan))
    readings = (probe.measure(picture_tensor(version)) for version in spoil_picture(content, stretched))
    return np.stack([features_of(reading, watched) for reading in readings])

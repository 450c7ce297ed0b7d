"""Ways in which pictures go wrong on their way to a service. They decide which layers are worth probing."""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
_BLUR_SIGMA_PX, _DARKNESS, _JPEG_QUALITY, _NOISE_STD = 2.0, 0.4, 10, 15.0


def blur(pixels: Pixels) -> Pixels:
    """Out of focus: Gaussian, 2 pixels."""
    return np.asarray(cv2.GaussianBlur(pixels, (0, 0), _BLUR_SIGMA_PX), np.uint8)


def darken(pixels: Pixels) -> Pixels:
    """Underexposed: 40 % of each value."""
    return (pixels * _DARKNESS).astype(np.uint8)


def compress(pixels: Pixels) -> Pixels:
    """Saved as JPEG of quality 10."""
    _, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert decoded is not None
    return np.asarray(decoded, np.uint8)


def add_noise(pixels: Pixels) -> Pixels:
    """Gaussian noise of 15 grey levels, the same for the same shape."""
    noise = np.random.default_rng(0).normal(0, _NOISE_STD, pixels.shape)
    return np.clip(np.rint(pixels + noise), 0, 255).astype(np.uint8)


def swap_channels(pixels: Pixels) -> Pixels:
    """Red and blue exchanged."""
    return np.ascontiguousarray(pixels[..., ::-1])


#: Each takes and gives (H, W, 3) uint8 BGR.
CORRUPTIONS: dict[str, Callable[[Pixels], Pixels]] = {
    "blur": blur,
    "darkness": darken,
    "jpeg": compress,
    "noise": add_noise,
    "channels_swapped": swap_channels,
}

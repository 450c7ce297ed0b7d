"""Ways in which pictures go wrong on their way to a service. They decide which layers are worth probing."""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
#: Of double precision at once; eight times the memory of the picture otherwise.
_BAND_ROWS = 64
_BLUR_SIGMA_PX, _DARKNESS, _JPEG_QUALITY, _NOISE_STD = 2.0, 0.4, 10, 15.0


def blur(pixels: Pixels) -> Pixels:
    """Out of focus: Gaussian, 2 pixels."""
    return np.asarray(cv2.GaussianBlur(pixels, (0, 0), _BLUR_SIGMA_PX), np.uint8)


def darken(pixels: Pixels) -> Pixels:
    """Underexposed: 40 % of each value."""
    return np.array([value * _DARKNESS for value in range(256)]).astype(np.uint8)[pixels]


def compress(pixels: Pixels) -> Pixels:
    """Saved as JPEG of quality 10."""
    _, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert decoded is not None
    return np.asarray(decoded, np.uint8)


def add_noise(pixels: Pixels) -> Pixels:
    """Gaussian noise of 15 grey levels, the same for the same shape."""
    rng, noisy = np.random.default_rng(0), np.empty_like(pixels)
    for top in range(0, len(pixels), _BAND_ROWS):
        band = pixels[top : top + _BAND_ROWS]
        noisy[top : top + _BAND_ROWS] = np.clip(np.rint(band + rng.normal(0, _NOISE_STD, band.shape)), 0, 255)
    return noisy


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

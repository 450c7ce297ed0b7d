"""What a lens does: blur, motion, lost resolution, dark corners, coloured edges. Pictures are BGR uint8 HxWx3."""

from __future__ import annotations

import cv2
import numpy as np

from scripts.embedded_model.textures.fields import Bgr, Rng
from scripts.embedded_model.textures.paint import scale_light


def motion_blur(rng: Rng, image: Bgr, length: float) -> Bgr:
    """Straight smear of `length` pixels in a random direction."""
    size = max(3, int(np.ceil(length)) | 1)
    kernel = np.zeros((size, size), np.float32)
    angle, middle = rng.uniform(0, np.pi), (size - 1) / 2
    reach = np.array([np.cos(angle), np.sin(angle)]) * length / 2
    for t in np.linspace(-1, 1, 4 * size):
        x, y = np.round(middle + reach * t).astype(int).clip(0, size - 1)
        kernel[y, x] += 1
    return cv2.filter2D(image, -1, kernel / kernel.sum())


def lens(rng: Rng, image: Bgr) -> Bgr:
    """Focus or motion blur, lost resolution or a ghost; half of the pictures stay sharp."""
    kind = rng.random()
    reach = max(image.shape[:2]) / 640
    if kind < 0.28:
        return cv2.GaussianBlur(image, (0, 0), max(0.3, float(rng.gamma(1.6, 0.8)) * reach))
    if kind < 0.38:
        return motion_blur(rng, image, float(rng.uniform(2, 12)) * reach)
    if kind < 0.50:
        factor = rng.uniform(0.35, 0.9)
        small = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        return cv2.resize(small, (image.shape[1], image.shape[0]), interpolation=cv2.INTER_CUBIC)
    if kind < 0.56:
        return double_image(rng, image)
    return image


def double_image(rng: Rng, image: Bgr) -> Bgr:
    """Ghost of a shaken hand or a wrong exposure merge: the picture plus a shifted copy of itself."""
    shift = rng.uniform(-4, 4, 2) * max(image.shape[:2]) / 640
    move = np.array([[1, 0, shift[0]], [0, 1, shift[1]]], np.float32)
    moved = cv2.warpAffine(image, move, (image.shape[1], image.shape[0]), borderMode=cv2.BORDER_REPLICATE)
    share = rng.uniform(0.2, 0.5)
    return cv2.addWeighted(image, 1 - share, moved, share, 0)


def vignette(rng: Rng, image: Bgr) -> Bgr:
    """Corners darker than the middle."""
    height, width = image.shape[:2]
    axis = np.linspace(-1, 1, 48, dtype=np.float32) ** 2
    light = 1 - np.float32(rng.uniform(0.1, 0.35)) * np.add.outer(axis, axis)
    return scale_light(image, cv2.resize(np.clip(light, 0.1, 1), (width, height)))


def coloured_edges(rng: Rng, image: Bgr) -> Bgr:
    """Lateral chromatic aberration: blue and red are a little larger and smaller than green."""
    height, width = image.shape[:2]
    channels = list(cv2.split(image))
    grow = rng.uniform(0.001, 0.004)
    for channel, zoom in ((0, 1 + grow), (2, 1 - grow)):
        about = cv2.getRotationMatrix2D((width / 2, height / 2), 0, zoom)
        channels[channel] = cv2.warpAffine(channels[channel], about, (width, height), borderMode=cv2.BORDER_REPLICATE)
    return cv2.merge(channels)

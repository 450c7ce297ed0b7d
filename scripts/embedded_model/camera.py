"""What lens, light, sensor and file format do to a scene; pictures are BGR uint8 HxWx3."""

from __future__ import annotations

import cv2
import numpy as np

from scripts.embedded_model.symbols import Rng
from scripts.embedded_model.textures import Bgr, Field, noise_field, soft_field


def shade(rng: Rng, image: Bgr) -> Bgr:
    """Uneven light: slope, soft patches and sometimes a hard cast shadow."""
    height, width = image.shape[:2]
    light = 1 + 0.25 * rng.random() * soft_field(rng, height, width, 2)
    if rng.random() < 0.5:
        slope = np.linspace(rng.uniform(0.5, 1.0), 1.0, width, dtype=np.float32)[None]
        light = light * (slope if rng.random() < 0.5 else slope[:, ::-1])
    if rng.random() < 0.25:
        light = light * _cast_shadow(rng, height, width)
    return _multiply(image, light.astype(np.float32))


def _cast_shadow(rng: Rng, height: int, width: int) -> Field:
    mask: Field = np.zeros((height, width), np.uint8)
    corners = rng.uniform(-0.2, 1.2, (int(rng.integers(3, 6)), 2)) * (width, height)
    cv2.fillPoly(mask, [cv2.convexHull(corners.astype(np.int32))], 255)
    mask = cv2.blur(mask, (int(rng.integers(1, 40)),) * 2)
    return (1 - mask.astype(np.float32) / 255 * rng.uniform(0.2, 0.65)).astype(np.float32)


def _multiply(image: Bgr, factor: Field) -> Bgr:
    return cv2.multiply(image, cv2.merge([factor] * 3), dtype=cv2.CV_8U)


def glare(rng: Rng, image: Bgr) -> Bgr:
    """One bright reflection: a soft spot or streak."""
    height, width = image.shape[:2]
    small: Field = np.zeros((64, 64), np.float32)
    center = (int(rng.integers(64)), int(rng.integers(64)))
    axes = (int(rng.integers(2, 16)), int(rng.integers(1, 7)))
    cv2.ellipse(small, center, axes, float(rng.uniform(0, 180)), 0, 360, 1.0, -1)
    small = cv2.GaussianBlur(small, (0, 0), float(rng.uniform(1, 5)))
    spot = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    return cv2.add(image, cv2.merge([spot * rng.uniform(60, 330)] * 3), dtype=cv2.CV_8U)


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
    """Focus and motion blur, lost resolution or the over-sharpening of phone pictures."""
    kind = rng.random()
    reach = max(image.shape[:2]) / 640
    if kind < 0.28:
        return cv2.GaussianBlur(image, (0, 0), max(0.3, float(rng.gamma(1.6, 0.8)) * reach))
    if kind < 0.38:
        return motion_blur(rng, image, float(rng.uniform(2, 12)) * reach)
    if kind < 0.50:
        factor = rng.uniform(0.4, 0.9)
        small = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        return cv2.resize(small, (image.shape[1], image.shape[0]), interpolation=cv2.INTER_CUBIC)
    if kind < 0.68:
        soft = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.8, 2.5)))
        amount = rng.uniform(0.4, 2.0)
        return cv2.addWeighted(image, 1 + amount, soft, -amount, 0)
    return image


def exposure(rng: Rng, image: Bgr) -> Bgr:
    """Gain, offset, gamma and white balance as one lookup table; low light is common."""
    ramp = np.linspace(0, 1, 256)
    gain = rng.uniform(0.15, 0.5) if rng.random() < 0.12 else rng.uniform(0.6, 1.3)
    haze = rng.uniform(0, 0.25) if rng.random() < 0.3 else 0.0
    gamma = np.exp(rng.normal(0, 0.25))
    cast = np.exp(rng.normal(0, 0.08, 3))
    curve = [np.clip((haze + (1 - haze) * ramp**gamma) * gain * c, 0, 1) * 255 for c in cast]
    table = np.stack(curve, axis=-1).astype(np.uint8).reshape(1, 256, 3)
    return cv2.LUT(image, table)


def sensor_noise(rng: Rng, image: Bgr) -> Bgr:
    """Grey and colour noise, sometimes strong and blotchy."""
    height, width = image.shape[:2]
    sigma = float(rng.gamma(1.2, 4.5))
    grain: Field = noise_field(rng, height, width) * sigma
    if rng.random() < 0.3:
        grain = cv2.blur(grain, (2, 2)) * 1.6
    tint = noise_field(rng, height, width) * sigma * 0.4
    return cv2.add(image, cv2.merge([grain + tint, grain, grain - tint]), dtype=cv2.CV_8U)


def photograph(rng: Rng, scene: Bgr) -> Bgr:
    """Light, lens, sensor and tone in the order in which a phone applies them."""
    image = shade(rng, scene) if rng.random() < 0.7 else scene
    if rng.random() < 0.16:
        image = glare(rng, image)
    image = exposure(rng, image) if rng.random() < 0.8 else image
    image = lens(rng, image)
    if rng.random() < 0.65:
        image = sensor_noise(rng, image)
    if rng.random() < 0.08:
        image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    return image


def encode_jpeg(rng: Rng, image: Bgr) -> bytes:
    """JPEG bytes at a random quality between messenger-grade and near lossless."""
    quality = int(rng.integers(28, 60)) if rng.random() < 0.25 else int(rng.integers(60, 97))
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()

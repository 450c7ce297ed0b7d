"""Devices that take pictures: a phone, a flatbed scanner, none at all; and the files they write."""

from __future__ import annotations

import cv2

from scripts.embedded_model.camera import lens, light, sensor
from scripts.embedded_model.textures.fields import Bgr, Rng

# As many pictures of codes are taken with some care, so that the code can be read.
_STEADY_SHARE = 0.45


def photograph(rng: Rng, scene: Bgr) -> Bgr:
    """Light, lens, sensor and processing in the order in which they happen to a phone picture."""
    image = sensor.faded_colors(rng, scene) if rng.random() < 0.2 else scene
    if rng.random() < _STEADY_SHARE:
        return _steady(rng, image)
    image = _lit(rng, image)
    if rng.random() < 0.1:
        image = lens.coloured_edges(rng, image)
    image = lens.lens(rng, image)
    if rng.random() < 0.08:
        image = sensor.dark_scene(rng, image)
    elif rng.random() < 0.65:
        image = sensor.sensor_noise(rng, image)
    return sensor.processed(rng, image) if rng.random() < 0.4 else image


def _steady(rng: Rng, image: Bgr) -> Bgr:
    """A good picture: enough light, a calm hand, at most one flaw."""
    if rng.random() < 0.6:
        image = light.shade(rng, image)
    if rng.random() < 0.7:
        image = sensor.metered(rng, image)
    kind = rng.random()
    if kind < 0.25:
        return sensor.sensor_noise(rng, image, mean=2.0)
    if kind < 0.5:
        return sensor.processed(rng, image)
    return cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.3, 0.8))) if kind < 0.7 else image


def _lit(rng: Rng, image: Bgr) -> Bgr:
    if rng.random() < 0.7:
        image = light.shade(rng, image)
    if rng.random() < 0.05:
        image = light.slatted_shadow(rng, image)
    if rng.random() < 0.06:
        image = light.torch_light(rng, image)
    if rng.random() < 0.14:
        image = light.glare(rng, image)
    if rng.random() < 0.2:
        image = lens.vignette(rng, image)
    if rng.random() < 0.04:
        image = sensor.bands(rng, image)
    if rng.random() < 0.6:
        image = sensor.metered(rng, image)
    return sensor.exposure(rng, image) if rng.random() < 0.7 else image


def scan(rng: Rng, scene: Bgr) -> Bgr:
    """Flatbed scan or screenshot passed on: even light, a little blur or noise, at times black and white."""
    image = sensor.faded_colors(rng, scene) if rng.random() < 0.3 else scene
    if rng.random() < 0.35:
        image = lens.lens(rng, image)
    if rng.random() < 0.3:
        image = sensor.sensor_noise(rng, image)
    if rng.random() < 0.25:
        image = sensor.exposure(rng, image)
    return sensor.two_tone(rng, image) if rng.random() < 0.08 else image


def encode_jpeg(rng: Rng, image: Bgr) -> bytes:
    """JPEG bytes at a random quality between messenger-grade and near lossless."""
    kind = rng.random()
    low, high = (14, 30) if kind < 0.05 else (30, 60) if kind < 0.28 else (60, 97)
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(low, high))])[1].tobytes()

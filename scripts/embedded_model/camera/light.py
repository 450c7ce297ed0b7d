"""Light on a scene: uneven, in shadow, with reflections. Pictures are BGR uint8 HxWx3."""

from __future__ import annotations

import cv2
import numpy as np

from scripts.embedded_model.textures.fields import Bgr, Field, Rng, soft_field
from scripts.embedded_model.textures.paint import scale_light


def shade(rng: Rng, image: Bgr) -> Bgr:
    """Uneven light: slope, soft patches and sometimes a hard cast shadow."""
    height, width = image.shape[:2]
    light = 1 + 0.25 * rng.random() * soft_field(rng, height, width, 2)
    if rng.random() < 0.5:
        slope = np.linspace(rng.uniform(0.5, 1.0), 1.0, width, dtype=np.float32)[None]
        light = light * (slope if rng.random() < 0.5 else slope[:, ::-1])
    if rng.random() < 0.25:
        light = light * _cast_shadow(rng, height, width)
    return scale_light(image, light.astype(np.float32))


def _cast_shadow(rng: Rng, height: int, width: int) -> Field:
    mask: Field = np.zeros((height, width), np.uint8)
    corners = rng.uniform(-0.2, 1.2, (int(rng.integers(3, 6)), 2)) * (width, height)
    cv2.fillPoly(mask, [cv2.convexHull(corners.astype(np.int32))], 255)
    mask = cv2.blur(mask, (int(rng.integers(1, 40)),) * 2)
    return (1 - mask.astype(np.float32) / 255 * rng.uniform(0.2, 0.65)).astype(np.float32)


def slatted_shadow(rng: Rng, image: Bgr) -> Bgr:
    """Shadow of a window frame, a blind or leaves: bars of light across the picture."""
    height, width = image.shape[:2]
    turn, pitch = rng.uniform(0, np.pi), max(height, width) * rng.uniform(0.08, 0.5)
    yy, xx = np.mgrid[0:64, 0:64].astype(np.float32)
    across = (xx * width * np.cos(turn) + yy * height * np.sin(turn)) / 64 + pitch * 0.2 * soft_field(rng, 64, 64, 3)
    lit = np.clip(np.sin(across * (2 * np.pi / pitch)) * rng.uniform(1, 6) + 0.5, 0, 1)
    light = 1 - np.float32(rng.uniform(0.25, 0.65)) * (1 - lit)
    return scale_light(image, cv2.resize(light.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC))


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


def torch_light(rng: Rng, image: Bgr) -> Bgr:
    """Light of the phone itself: bright in one place, falling off to the borders."""
    height, width = image.shape[:2]
    center = rng.uniform(0.25, 0.75, 2)
    yy, xx = np.mgrid[0:48, 0:48].astype(np.float32) / 47
    squared = (xx - np.float32(center[0])) ** 2 + (yy - np.float32(center[1])) ** 2
    light = np.float32(rng.uniform(1.0, 2.2)) / (1 + squared * np.float32(rng.uniform(2, 14)))
    return scale_light(image, cv2.resize(light.astype(np.float32), (width, height)))

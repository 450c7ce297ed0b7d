"""Colours and the few ways in which they reach a picture (BGR uint8 HxWx3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from scripts.embedded_model.textures.fields import Bgr, Field, Gray, Rng

Color = tuple[int, int, int]
Shade = Sequence[float] | npt.NDArray[Any]


def random_color(rng: Rng, low: int = 0, high: int = 256) -> Color:
    """Random BGR colour with channels in [low, high); two in three are muted, as most real surfaces are."""
    channels = rng.integers(low, high, 3).astype(np.float64)
    if rng.random() < 0.67:
        channels = channels.mean() + (channels - channels.mean()) * rng.uniform(0, 0.45)
    blue, green, red = (int(v) for v in channels)
    return blue, green, red


def surface_color(rng: Rng, low: float = 25, high: float = 240) -> Color:
    """BGR colour of an everyday thing: mostly greyish, seldom vivid, mean level in [low, high)."""
    level = rng.uniform(low, high)
    channels = level * (1 + rng.uniform(-1, 1, 3) * rng.beta(0.8, 4.5))
    blue, green, red = (int(v) for v in np.clip(channels, 0, 255))
    return blue, green, red


def near_color(rng: Rng, color: Sequence[float], spread: float = 20.0) -> Color:
    """A shade of a BGR colour: brightness varies by a third, each channel by `spread` grey levels."""
    channels = np.array(color, np.float64) * rng.uniform(0.75, 1.12) + rng.normal(0, spread / 2, 3)
    blue, green, red = (int(v) for v in np.clip(channels, 0, 255))
    return blue, green, red


def flat(height: int, width: int, color: Color) -> Bgr:
    """HxW picture of one BGR colour."""
    return np.full((height, width, 3), color, np.uint8)


def add_field(image: Bgr, field: Field, amount: float) -> Bgr:
    """Add a single-channel field times `amount` grey levels to a BGR picture."""
    return cv2.add(image, cv2.merge([field * amount] * 3), dtype=cv2.CV_8U)


def scale_light(image: Bgr, light: Field) -> Bgr:
    """Multiply a BGR picture by a single-channel float32 field."""
    return cv2.multiply(image, cv2.merge([light] * 3), dtype=cv2.CV_8U)


def colorize(field: Field, colors: Sequence[Shade]) -> Bgr:
    """Map a field of unit variance through a ramp of BGR colours, the first at -2 and the last at +2."""
    stops = np.linspace(0, 255, len(colors))
    channels = np.array(colors, np.float64)
    ramp = np.stack([np.interp(np.arange(256), stops, channels[:, c]) for c in range(3)], axis=-1)
    levels = np.clip(field * 64 + 128, 0, 255).astype(np.uint8)
    return cv2.applyColorMap(levels, ramp.astype(np.uint8).reshape(256, 1, 3))


def stamp(image: Bgr, mask: Gray, left: int, top: int, color: Color) -> None:
    """Paint `mask` (255 = opaque) in `color` onto `image` in place, clipped at the border."""
    height, width = image.shape[:2]
    x0, y0 = max(left, 0), max(top, 0)
    x1, y1 = min(left + mask.shape[1], width), min(top + mask.shape[0], height)
    if x1 <= x0 or y1 <= y0:
        return
    cover = mask[y0 - top : y1 - top, x0 - left : x1 - left, None].astype(np.float32) / 255
    region = image[y0:y1, x0:x1]
    region[:] = (region * (1 - cover) + np.array(color, np.float32) * cover).astype(np.uint8)

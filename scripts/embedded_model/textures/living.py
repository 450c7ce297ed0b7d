"""People and animals, coarsely.

Every function returns BGR uint8 HxWx3.
"""

from __future__ import annotations

import cv2
import numpy as np

from scripts.embedded_model.textures import materials
from scripts.embedded_model.textures.fields import Bgr, Rng, fractal_field
from scripts.embedded_model.textures.heaps import bokeh
from scripts.embedded_model.textures.paint import add_field, colorize, near_color, surface_color

_HAIR = ((25, 28, 35), (35, 55, 85), (80, 140, 180), (140, 140, 145))


def crowd(rng: Rng, height: int, width: int) -> Bgr:
    """Rows of small figures: a head and a body each, the nearer the larger."""
    image = materials.material(rng, height, width)
    for y in np.sort(rng.uniform(0.1, 1.1, int(rng.integers(20, 70)))):
        size = max(3.0, height * 0.09 * y * rng.uniform(0.8, 1.2))
        x, base = int(rng.uniform(0, width)), int(y * height)
        body = (int(size * 0.8) + 1, int(size * 1.6) + 1)
        cv2.ellipse(image, (x, base), body, 0, 180, 360, surface_color(rng), -1, cv2.LINE_AA)
        head = (x, base - int(size * 1.9))
        tone = near_color(rng, materials.FLESH[int(rng.integers(len(materials.FLESH)))])
        cv2.circle(image, head, int(size * 0.55) + 1, tone, -1, cv2.LINE_AA)
        hair = _HAIR[int(rng.integers(len(_HAIR)))]
        cv2.ellipse(image, head, (int(size * 0.6) + 1,) * 2, 0, 170, 370, hair, -1, cv2.LINE_AA)
    return image


def portrait(rng: Rng, height: int, width: int) -> Bgr:
    """Head and shoulders before soft surroundings."""
    image = bokeh(rng, height, width) if rng.random() < 0.6 else materials.plain(rng, height, width)
    size = min(height, width) * rng.uniform(0.15, 0.4)
    x, y = width * rng.uniform(0.3, 0.7), height * rng.uniform(0.35, 0.55)
    tone = np.array(materials.FLESH[int(rng.integers(len(materials.FLESH)))], np.float64) * rng.uniform(0.8, 1.1)
    hair, coat = _HAIR[int(rng.integers(len(_HAIR)))], surface_color(rng)
    layer = image.copy()

    def oval(dx: float, dy: float, across: float, down: float, color: list[float]) -> None:
        axes = (int(size * across) + 1, int(size * down) + 1)
        cv2.ellipse(layer, (int(x + size * dx), int(y + size * dy)), axes, 0, 0, 360, color, -1, cv2.LINE_AA)

    oval(0, 2.3, 1.5, 1.3, list(coat))
    oval(0, 0.9, 0.3, 0.5, (tone * 0.85).tolist())
    oval(0, -0.15, 0.75, 0.95, list(hair))
    oval(0, 0, 0.6, 0.8, tone.tolist())
    oval(0.25, 0.1, 0.3, 0.55, (tone * 0.93).tolist())
    for side in (-0.25, 0.25):
        oval(side, -0.1, 0.12, 0.05, [235, 235, 235])
        oval(side, -0.1, 0.05, 0.05, [40, 35, 30])
        oval(side, -0.25, 0.14, 0.03, list(hair))
    oval(0, 0.15, 0.08, 0.1, (tone * 0.88).tolist())
    oval(0, 0.42, 0.2, 0.05, (tone * (0.8, 0.6, 0.9)).tolist())
    layer = cv2.GaussianBlur(layer, (0, 0), max(0.8, size / 60))
    return add_field(layer, fractal_field(rng, height, width, 1.0), rng.uniform(2, 9))


def fur(rng: Rng, height: int, width: int) -> Bgr:
    """An animal's coat: patches of colour under fine hairs."""
    patches = fractal_field(rng, height, width, 1.5)
    colors = [surface_color(rng), surface_color(rng), surface_color(rng, 150, 240)]
    image = colorize(patches * np.float32(2), colors)
    hairs = fractal_field(rng, height, width, 0.6, stretch=float(rng.choice([0.2, 5.0])))
    return add_field(image, hairs, rng.uniform(8, 25))

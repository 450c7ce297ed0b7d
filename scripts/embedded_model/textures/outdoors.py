"""Views of the open: land, water, leaves, twigs and relief under light.

Every function returns BGR uint8 HxWx3.
"""

from __future__ import annotations

import cv2
import numpy as np

from scripts.embedded_model.textures import materials
from scripts.embedded_model.textures.fields import Bgr, Rng, fractal_field, soft_field
from scripts.embedded_model.textures.heaps import bokeh, fill_outline
from scripts.embedded_model.textures.paint import add_field, colorize, surface_color

_SKIES = (((235, 190, 120), (240, 225, 205)), ((225, 215, 205), (235, 232, 228)), ((90, 60, 40), (90, 150, 235)))


def foliage(rng: Rng, height: int, width: int) -> Bgr:
    """Leaves in many greens over a dark ground, with gaps of sky."""
    hue = np.array([rng.uniform(0.2, 0.7), 1.0, rng.uniform(0.3, 0.9)])
    grain = fractal_field(rng, height, width, 1.0)
    image = colorize(grain, [(10, 18, 10), (25, 50, 30), (200, 215, 215) if rng.random() < 0.4 else (40, 80, 50)])
    size = max(height, width) * rng.uniform(0.05, 0.15)
    centers = rng.uniform(-0.05, 1.05, (int(rng.integers(90, 200)), 2)) * (width, height)
    levels = np.sort(rng.uniform(30, 190, len(centers)))
    for center, level in zip(centers, levels, strict=True):
        color = (hue * level * rng.uniform(0.8, 1.2)).clip(0, 255).astype(int)
        axes = (int(size * rng.uniform(0.4, 0.7)) + 1, int(size * rng.uniform(0.12, 0.3)) + 1)
        angle, spot = float(rng.uniform(0, 360)), center.astype(int).tolist()
        cv2.ellipse(image, spot, axes, angle, 0, 360, color.tolist(), -1, cv2.LINE_AA)
        cv2.ellipse(image, spot, axes, angle, 0, 180, (color * 0.8).tolist(), -1, cv2.LINE_AA)
    return image


def _sky(rng: Rng, height: int, width: int) -> Bgr:
    top, bottom = _SKIES[int(rng.integers(len(_SKIES)))]
    t = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    column = np.array(top, np.float32) * (1 - t) + np.array(bottom, np.float32) * t
    image = np.repeat(column, width, 1).astype(np.uint8)
    if rng.random() < 0.6:
        clouds = np.maximum(fractal_field(rng, height, width, 1.5, stretch=2.0), 0)
        image = add_field(image, clouds, rng.uniform(10, 50))
    return image


def landscape(rng: Rng, height: int, width: int) -> Bgr:
    """Sky over ridges that fade with distance, and a ground of grass, sand, water or road."""
    image = _sky(rng, height, width)
    haze = image[height // 2, width // 2].astype(np.float64)
    color, count = np.array(surface_color(rng, 30, 110), np.float64), int(rng.integers(1, 5))
    for i in range(count):
        near = (i + 1) / count
        line = fractal_field(rng, 8, width, 1.5)[0] * height * rng.uniform(0.02, 0.07)
        crest = height * (0.3 + 0.35 * near) + line
        outline = np.stack([np.arange(width), crest], 1)
        outline = np.concatenate([outline, [[width, height], [0, height]]]).astype(np.int32)
        tone = color * near + haze * (1 - near)
        grain = fractal_field(rng, height, width, 0.6)
        fill_outline(rng, image, outline, (int(tone[0]), int(tone[1]), int(tone[2])), grain)
    if rng.random() < 0.6:
        start = int(height * rng.uniform(0.6, 0.85))
        ground = (materials.grass, materials.concrete, water)[int(rng.integers(3))]
        image[start:] = ground(rng, height - start, width)
    return image


def water(rng: Rng, height: int, width: int) -> Bgr:
    """Water with ripples and glints."""
    color = np.array(surface_color(rng, 60, 150), np.float64) * (1.2, 1.0, 0.8)
    ripples = fractal_field(rng, height, width, 1.0, stretch=float(rng.uniform(3, 8)))
    return colorize(ripples, np.clip([color * 0.5, color, color * 1.2, (240, 240, 240)], 0, 255).tolist())


def branches(rng: Rng, height: int, width: int) -> Bgr:
    """Bare twigs against the sky, or cables: dark lines that fork."""
    image = _sky(rng, height, width) if rng.random() < 0.7 else bokeh(rng, height, width)
    color = surface_color(rng, 10, 80)
    reach = max(height, width)
    stems = [(width * rng.random(), float(height), -np.pi / 2, reach * 0.02) for _ in range(int(rng.integers(1, 4)))]
    for _ in range(120):
        if not stems:
            break
        x, y, angle, thick = stems.pop(0)
        step = reach * rng.uniform(0.05, 0.14)
        end = (x + step * np.cos(angle), y + step * np.sin(angle))
        start_point, end_point = (int(x), int(y)), (int(end[0]), int(end[1]))
        cv2.line(image, start_point, end_point, color, max(1, int(thick)), cv2.LINE_AA)
        if thick > 0.6:
            stems += [(*end, angle + rng.normal(0, 0.5), thick * rng.uniform(0.6, 0.85)) for _ in range(2)]
    return image


def dunes(rng: Rng, height: int, width: int) -> Bgr:
    """Soft relief lit from one side: sand, snow, bedding, skin folds, vault and plaster."""
    relief = fractal_field(rng, max(height // 3, 8), max(width // 3, 8), 1.5) + soft_field(
        rng, max(height // 3, 8), max(width // 3, 8), 3
    )
    slope = cv2.Sobel(relief, cv2.CV_32F, 1, 0) * np.float32(np.cos(1.0)) + cv2.Sobel(relief, cv2.CV_32F, 0, 1)
    slope = cv2.resize(slope / (slope.std() + 1e-6), (width, height), interpolation=cv2.INTER_CUBIC)
    color = np.array(surface_color(rng, 80, 210), np.float64)
    return colorize(slope, [color * 0.4, color, np.clip(color * 1.25, 0, 255)])

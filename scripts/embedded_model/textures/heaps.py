"""Things of all sizes that hide one another: sharp, out of focus, as artwork or at night.

Every function returns BGR uint8 HxWx3.
"""

from __future__ import annotations

import cv2
import numpy as np

from scripts.embedded_model.textures import materials
from scripts.embedded_model.textures.fields import Bgr, Field, Points, Rng, fractal_field, noise_field
from scripts.embedded_model.textures.lettering import write_block
from scripts.embedded_model.textures.paint import (
    Color,
    add_field,
    flat,
    near_color,
    random_color,
    scale_light,
    surface_color,
)


def blob(rng: Rng, center: Points, size: float) -> Points:
    """Closed polygon of a random roundish, angular or leaf-like thing, Nx2 int32 pixels."""
    kind = rng.random()
    if kind < 0.4:
        box = cv2.boxPoints(((0, 0), (size, size * rng.uniform(0.15, 1)), float(rng.uniform(0, 180))))
        return (box + center).astype(np.int32)
    angles = np.linspace(0, 2 * np.pi, 18, endpoint=False)
    radius = size / 2 * (1 + 0.3 * np.sin(angles * int(rng.integers(1, 5)) + rng.uniform(0, 6)) * rng.random())
    squash, turn = rng.uniform(0.3, 1.0), rng.uniform(0, np.pi)
    x, y = radius * np.cos(angles), radius * np.sin(angles) * squash
    points = np.stack([x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)], 1)
    return (points + center).astype(np.int32)


def fill_outline(rng: Rng, image: Bgr, outline: Points, color: Color, grain: Field) -> None:
    """Fill an outline with a colour under a slope of light and the given HxW grain (unit variance)."""
    left, top, width, height = cv2.boundingRect(outline)
    x0, y0 = max(left, 0), max(top, 0)
    x1, y1 = min(left + width, image.shape[1]), min(top + height, image.shape[0])
    if x1 <= x0 or y1 <= y0:
        return
    mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
    cv2.fillPoly(mask, [outline - np.array([x0, y0])], 255)
    slope = rng.uniform(-0.3, 0.3, 2)
    light = np.add.outer(np.linspace(-1, 1, y1 - y0) * slope[0], np.linspace(-1, 1, x1 - x0) * slope[1])
    light = (light + 1).astype(np.float32) + grain[y0:y1, x0:x1] * np.float32(rng.uniform(0, 0.2))
    paint = scale_light(flat(y1 - y0, x1 - x0, color), light)
    cv2.copyTo(paint, mask, image[y0:y1, x0:x1])


def heap(rng: Rng, height: int, width: int) -> Bgr:
    """Things of all sizes that hide one another, few big and many small, in one range of colours."""
    image = materials.material(rng, height, width) if rng.random() < 0.6 else materials.clouds(rng, height, width)
    grain = fractal_field(rng, height, width, 0.6 if rng.random() < 0.4 else 1.0)
    tones = [surface_color(rng) for _ in range(int(rng.integers(2, 7)))]
    smallest = rng.uniform(0.02, 0.06)
    for _ in range(int(rng.integers(20, 60))):
        # Sizes fall off as 1 / size^2, as in photographs.
        size = max(height, width) / (1 / smallest - rng.random() * (1 / smallest - 1 / 0.6))
        color = near_color(rng, tones[int(rng.integers(len(tones)))], 30)
        fill_outline(rng, image, blob(rng, rng.uniform(0, 1, 2) * (width, height), size), color, grain)
    return image


def bokeh(rng: Rng, height: int, width: int) -> Bgr:
    """Far surroundings out of focus, with discs of light at times."""
    small = heap(rng, max(24, height // 6), max(24, width // 6))
    small = cv2.GaussianBlur(small, (0, 0), float(rng.uniform(1.0, 4.0)))
    image = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    if rng.random() < 0.5:
        radius = int(max(height, width) * rng.uniform(0.01, 0.05)) + 2
        discs = np.zeros_like(image)
        for center in (rng.uniform(0, 1, (int(rng.integers(4, 30)), 2)) * (width, height)).astype(int).tolist():
            cv2.circle(discs, center, radius, random_color(rng, 40, 180), -1, cv2.LINE_AA)
        image = cv2.add(image, discs)
    return image


def clutter(rng: Rng, height: int, width: int) -> Bgr:
    """Flat shapes and scraps of text on a soft ground: posters, stickers, printed plastic."""
    image = materials.clouds(rng, height, width)
    for _ in range(int(rng.integers(4, 26))):
        size = float(np.exp(rng.uniform(np.log(0.04), np.log(0.5)))) * max(height, width)
        center = rng.uniform(0, 1, 2) * (width, height)
        color = random_color(rng)
        if rng.random() < 0.7:
            cv2.fillPoly(image, [blob(rng, center, size)], color, cv2.LINE_AA)
        else:
            x, y = center.astype(int).tolist()
            write_block(rng, image, (x, y, x + int(size), y + int(size / 2)), max(5, int(size / 9)), color)
    return image


def night(rng: Rng, height: int, width: int) -> Bgr:
    """Darkness with lamps and lit windows."""
    image = scale_light(heap(rng, height, width), np.full((height, width), rng.uniform(0.08, 0.25), np.float32))
    for center in (rng.uniform(0, 1, (int(rng.integers(5, 60)), 2)) * (width, height)).astype(int).tolist():
        size = int(rng.integers(1, 6))
        cv2.rectangle(image, center, (center[0] + size, center[1] + size), random_color(rng, 120, 256), -1)
    return add_field(cv2.GaussianBlur(image, (0, 0), 1.2), noise_field(rng, height, width), 4)

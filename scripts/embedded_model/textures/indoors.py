"""Views of rooms and tables with shaded solids.

Every function returns BGR uint8 HxWx3.
"""

from __future__ import annotations

import cv2
import numpy as np

from scripts.embedded_model.textures import materials
from scripts.embedded_model.textures.fields import Bgr, Field, Gray, Rng
from scripts.embedded_model.textures.lettering import write_block, write_line
from scripts.embedded_model.textures.paint import (
    add_field,
    flat,
    near_color,
    random_color,
    scale_light,
    stamp,
    surface_color,
)


def still_life(rng: Rng, height: int, width: int) -> Bgr:
    """Shaded balls, tins and boxes on a table before a wall."""
    image = materials.material(rng, height, width)
    wall = int(height * rng.uniform(0, 0.5))
    image[:wall] = cv2.GaussianBlur(materials.material(rng, height, width), (0, 0), 3)[:wall]
    for _ in range(int(rng.integers(2, 9))):
        size = int(max(height, width) * float(np.exp(rng.uniform(np.log(0.06), np.log(0.4)))))
        x, y = int(rng.uniform(-0.1, 1) * width), int(rng.uniform(0, 1) * height)
        solid, mask = (_ball, _tin, _box)[int(rng.integers(3))](rng, max(size, 8))
        shadow = cv2.blur(mask, (max(3, size // 3),) * 2)
        stamp(image, cv2.convertScaleAbs(shadow, alpha=0.5), x + size // 8, y + size // 8, (15, 15, 15))
        _paste(image, solid, mask, x, y)
    return image


def _paste(image: Bgr, picture: Bgr, mask: Gray, left: int, top: int) -> None:
    height, width = mask.shape
    x0, y0 = max(left, 0), max(top, 0)
    x1, y1 = min(left + width, image.shape[1]), min(top + height, image.shape[0])
    if x1 > x0 and y1 > y0:
        part = (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
        cv2.copyTo(np.ascontiguousarray(picture[part]), np.ascontiguousarray(mask[part]), image[y0:y1, x0:x1])


def _ball(rng: Rng, size: int) -> tuple[Bgr, Gray]:
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    radius = np.add.outer(axis**2, axis**2)
    lit = np.add.outer((axis + 0.35) ** 2, (axis + 0.35) ** 2)
    light = np.clip(1.15 - 0.45 * lit, 0.15, 2).astype(np.float32)
    light += np.exp(-lit * 30).astype(np.float32) * np.float32(rng.uniform(0, 2))
    return scale_light(flat(size, size, surface_color(rng)), light), np.where(radius < 1, 255, 0).astype(np.uint8)


def _tin(rng: Rng, size: int) -> tuple[Bgr, Gray]:
    tall = max(8, int(size * rng.uniform(0.8, 2)))
    picture = flat(tall, size, surface_color(rng))
    write_block(rng, picture, (2, tall // 4, size - 2, tall // 2), max(5, size // 6), random_color(rng))
    cv2.rectangle(picture, (0, tall * 3 // 4), (size, tall * 7 // 8), random_color(rng), -1)
    across = np.linspace(-1, 1, size, dtype=np.float32)
    light = np.sqrt(np.clip(1 - across**2, 0.05, 1)) + np.exp(-((across + 0.4) ** 2) * 60) * np.float32(0.5)
    return scale_light(picture, np.repeat(light[None].astype(np.float32), tall, 0)), np.full(
        (tall, size), 255, np.uint8
    )


def _box(rng: Rng, size: int) -> tuple[Bgr, Gray]:
    tall = max(8, int(size * rng.uniform(0.4, 1.2)))
    picture = flat(tall, size, surface_color(rng))
    edge = int(size * rng.uniform(0.5, 0.9))
    picture[:, edge:] = (picture[:, edge:] * np.float32(0.6)).astype(np.uint8)
    write_line(rng, picture[:, :edge], 3, tall // 3, max(6, tall // 6), random_color(rng))
    mask = np.full((tall, size), 255, np.uint8)
    drop = int(tall * rng.uniform(0.02, 0.2))
    cv2.fillPoly(mask, [np.array([[edge, 0], [size, 0], [size, drop]], np.int32)], 0)
    return picture, mask


def interior(rng: Rng, height: int, width: int) -> Bgr:
    """Wall and floor with frames, shelves, doors and a lamp's glow."""
    image = materials.plain(rng, height, width) if rng.random() < 0.6 else materials.concrete(rng, height, width)
    floor = int(height * rng.uniform(0.6, 0.9))
    image[floor:] = materials.material(rng, height - floor, width)
    for _ in range(int(rng.integers(2, 9))):
        left, top = (rng.uniform(-0.1, 0.9, 2) * (width, height)).astype(int).tolist()
        right, bottom = left + int(width * rng.uniform(0.05, 0.4)), top + int(height * rng.uniform(0.05, 0.5))
        color = surface_color(rng)
        cv2.rectangle(image, (left, top), (right, bottom), color, -1)
        cv2.rectangle(image, (left, top), (right, bottom), near_color(rng, color), max(1, width // 160))
        if rng.random() < 0.4:
            inner = (left + (right - left) // 8, top + (bottom - top) // 8, right, bottom)
            cv2.rectangle(image, inner[:2], inner[2:], near_color(rng, color), -1)
    glow = cv2.resize(cv2.GaussianBlur(_dot(rng), (0, 0), 6), (width, height))
    return add_field(image, glow / (glow.max() + 1e-6), rng.uniform(0, 90))


def _dot(rng: Rng) -> Field:
    field = np.zeros((32, 32), np.float32)
    field[int(rng.integers(32)), int(rng.integers(32))] = 1
    return field

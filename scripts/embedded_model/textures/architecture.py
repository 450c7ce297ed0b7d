"""Built things in strict order: slats, windows, tracks and trunks.

Every function returns BGR uint8 HxWx3, seen straight on, and shows no code.
"""

from __future__ import annotations

import cv2
import numpy as np

from scripts.embedded_model.textures import heaps, materials, outdoors
from scripts.embedded_model.textures.fields import Bgr, Rng, fractal_field, soft_field
from scripts.embedded_model.textures.paint import colorize, flat, near_color, scale_light, surface_color


def either_way(rng: Rng, image: Bgr) -> Bgr:
    """The same picture, half of the time with x and y exchanged (size kept)."""
    if rng.random() < 0.5:
        return image
    height, width = image.shape[:2]
    return cv2.resize(cv2.transpose(image), (width, height), interpolation=cv2.INTER_LINEAR)


def slats(rng: Rng, height: int, width: int) -> Bgr:
    """Blinds, radiators, corrugated sheet, decking: rounded bars with light and shade, evenly spaced."""
    pitch, gap = float(np.exp(rng.uniform(np.log(5), np.log(70)))), rng.uniform(0.05, 0.5)
    phase = (np.arange(width, dtype=np.float32) / np.float32(pitch) + np.float32(rng.random())) % 1
    bar = np.abs(np.sin(np.pi * np.clip(phase / (1 - gap), 0, 1))) ** np.float32(rng.uniform(0.3, 1.5))
    light = np.where(phase < 1 - gap, 0.45 + 0.6 * bar, rng.uniform(0.05, 0.6)).astype(np.float32)
    base = materials.material(rng, height, width) if rng.random() < 0.5 else flat(height, width, surface_color(rng))
    return either_way(rng, scale_light(base, np.repeat(light[None], height, 0)))


def fence(rng: Rng, height: int, width: int) -> Bgr:
    """Palings, railings or a gate before a garden or a yard."""
    image = heaps.bokeh(rng, height, width) if rng.random() < 0.5 else outdoors.landscape(rng, height, width)
    color, pitch = surface_color(rng), max(5, int(width * np.exp(rng.uniform(np.log(0.015), np.log(0.12)))))
    thick = max(1, int(pitch * rng.uniform(0.12, 0.7)))
    for left in range(int(rng.integers(pitch)) - pitch, width, pitch):
        tone = near_color(rng, color, 6)
        cv2.rectangle(image, (left, int(height * rng.uniform(0, 0.04))), (left + thick, height), tone, -1)
        cv2.line(image, (left, 0), (left, height), near_color(rng, (np.array(color) * 0.7).tolist()), 1)
    for top in rng.uniform(0.1, 0.95, int(rng.integers(1, 4))) * height:
        cv2.rectangle(image, (0, int(top)), (width, int(top) + thick), color, -1)
    return image


def facade(rng: Rng, height: int, width: int) -> Bgr:
    """Front of a building: rows of windows, some lit, some open, with sills or balconies."""
    wall = materials.concrete(rng, height, width)
    step_x, step_y = (int(s) for s in np.exp(rng.uniform(np.log(14), np.log(110), 2)))
    pane_x, pane_y = max(4, int(step_x * rng.uniform(0.35, 0.85))), max(4, int(step_y * rng.uniform(0.4, 0.85)))
    glass, frame = surface_color(rng, 20, 130), surface_color(rng)
    cross = rng.random() < 0.5
    for top in range(int(rng.integers(step_y)) - step_y, height, step_y):
        for left in range(int(rng.integers(3)), width, step_x):
            pane = (left + pane_x, top + pane_y)
            tone = near_color(rng, glass, 30) if rng.random() < 0.85 else (120, 200, 235)
            cv2.rectangle(wall, (left, top), pane, tone, -1)
            cv2.rectangle(wall, (left, top), pane, frame, max(1, pane_x // 14))
            if cross:
                cv2.line(wall, (left + pane_x // 2, top), (left + pane_x // 2, top + pane_y), frame, 1)
        if rng.random() < 0.3:
            cv2.rectangle(wall, (0, top + pane_y), (width, top + pane_y + max(1, step_y // 12)), frame, -1)
    return wall


def street(rng: Rng, height: int, width: int) -> Bgr:
    """Several fronts of unlike height under a sky, a road before them."""
    image = outdoors.landscape(rng, height, width)
    left = 0
    while left < width:
        wide = max(16, int(width * rng.uniform(0.12, 0.5)))
        part = image[int(height * rng.uniform(0.05, 0.55)) :, left : left + wide]
        part[:] = facade(rng, part.shape[0], part.shape[1])
        left += wide
    road = int(height * rng.uniform(0.75, 0.95))
    image[road:] = materials.concrete(rng, height - road, width)
    return image


def crossing(rng: Rng, height: int, width: int) -> Bgr:
    """Worn white stripes on asphalt, or hazard stripes."""
    road = materials.concrete(rng, height, width)
    pitch, duty, skew = rng.uniform(0.04, 0.2) * width, rng.uniform(0.4, 0.6), rng.normal(0, 0.4)
    yy, xx = np.mgrid[0:height, 0:width].astype(np.float32)
    wear = fractal_field(rng, height, width, 1.0)
    mask = ((xx + np.float32(skew) * yy) / np.float32(pitch) + 0.008 * wear) % 1 < duty - 0.1 * (wear > 1.3)
    color = (225, 228, 228) if rng.random() < 0.7 else (40, 200, 235)
    paint = cv2.addWeighted(road, 0.15, flat(height, width, color), 0.85, 0)
    cv2.copyTo(paint, mask.astype(np.uint8), road)
    return road


def columns(rng: Rng, height: int, width: int) -> Bgr:
    """Tree trunks, reeds, pipes or curtains: upright shapes that follow no rule."""
    field = fractal_field(rng, 8, width, 1.0)[0] * 1.4 + soft_field(rng, 8, width, 9)[0] * 1.2
    tones = [surface_color(rng, 10, 90), surface_color(rng), surface_color(rng, 120, 230)]
    grain = 0.35 * fractal_field(rng, height, width, 0.6, stretch=0.1)
    return either_way(rng, colorize(field[None].astype(np.float32) + grain, tones))


def tread(rng: Rng, height: int, width: int) -> Bgr:
    """Tyre tread, sole or chequer plate: one dark tile repeated."""
    side = int(rng.integers(12, 60))
    tile = np.full((side, side), 0.9, np.float32)
    for _ in range(int(rng.integers(1, 4))):
        start, end = rng.integers(0, side, 2).tolist(), rng.integers(0, side, 2).tolist()
        cv2.line(tile, start, end, rng.uniform(0.2, 0.6), max(1, side // 7), cv2.LINE_AA)
    tile = np.hstack([tile, tile[:, ::-1]]) if rng.random() < 0.6 else tile
    sheet = np.tile(tile, (height // tile.shape[0] + 1, width // tile.shape[1] + 1))[:height, :width]
    return scale_light(materials.concrete(rng, height, width), sheet * np.float32(rng.uniform(0.3, 1.0)))

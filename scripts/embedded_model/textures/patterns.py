"""Flat man-made patterns that look a little like codes, printed on paper or cloth."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from scripts.embedded_model.textures.fields import Bgr, Rng, soft_field
from scripts.embedded_model.textures.lettering import write_block, write_line
from scripts.embedded_model.textures.paint import Color, add_field, flat, random_color


def _two_tones(rng: Rng) -> tuple[Color, Color]:
    light, dark = random_color(rng, 150, 256), random_color(rng, 0, 110)
    return (light, dark) if rng.random() < 0.6 else (dark, light)


def stripes(rng: Rng, height: int, width: int) -> Bgr:
    """Regular stripes: fences, blinds, fabric, zebra crossings (even pitch tells them from codes)."""
    pitch, duty = rng.uniform(4, 60), rng.uniform(0.25, 0.75)
    angle = float(rng.choice([0.0, np.pi / 2, rng.uniform(0, np.pi)]))
    yy, xx = np.mgrid[0:height, 0:width].astype(np.float32)
    phase = ((xx * np.cos(angle) + yy * np.sin(angle)) / pitch) % 1.0
    one, two = _two_tones(rng)
    return np.where((phase < duty)[..., None], one, two).astype(np.uint8)


def grid(rng: Rng, height: int, width: int) -> Bgr:
    """Ruled grid or window front: evenly spaced lines both ways."""
    paper, ink = _two_tones(rng)
    image = flat(height, width, paper)
    step_x, step_y = int(rng.integers(6, 60)), int(rng.integers(6, 60))
    thick = int(rng.integers(1, max(2, min(step_x, step_y) // 2)))
    for x in range(int(rng.integers(0, step_x)), width, step_x):
        cv2.line(image, (x, 0), (x, height), ink, thick)
    for y in range(int(rng.integers(0, step_y)), height, step_y):
        cv2.line(image, (0, y), (width, y), ink, thick)
    return image


def checker(rng: Rng, height: int, width: int) -> Bgr:
    """Chessboard or coloured tiles."""
    cell = int(rng.integers(5, 70))
    one, two = _two_tones(rng)
    yy, xx = np.mgrid[0:height, 0:width] // cell
    return np.where(((xx + yy) % 2 == 0)[..., None], one, two).astype(np.uint8)


def pixel_art(rng: Rng, height: int, width: int) -> Bgr:
    """Blocky many-coloured mosaic: the large-cell cousin of a matrix code."""
    cell = int(rng.integers(4, 40))
    rows, columns = height // cell + 1, width // cell + 1
    palette = rng.integers(0, 256, (int(rng.integers(3, 9)), 3)).astype(np.uint8)
    small = palette[rng.integers(0, len(palette), (rows, columns))]
    return cv2.resize(small, (columns * cell, rows * cell), interpolation=cv2.INTER_NEAREST)[:height, :width]


def crossword(rng: Rng, height: int, width: int) -> Bgr:
    """Crossword: ruled cells, some black, some with a letter."""
    cell = int(rng.integers(10, 44))
    image = flat(height, width, (245, 245, 245))
    for y in range(0, height, cell):
        for x in range(0, width, cell):
            draw = rng.random()
            if draw < 0.22:
                cv2.rectangle(image, (x, y), (x + cell, y + cell), (25, 25, 25), -1)
            elif draw < 0.5:
                letter = chr(65 + int(rng.integers(26)))
                cv2.putText(image, letter, (x + cell // 4, y + cell * 3 // 4), 0, cell / 40, (40, 40, 40), 1)
            cv2.rectangle(image, (x, y), (x + cell, y + cell), (60, 60, 60), 1)
    return image


def bricks(rng: Rng, height: int, width: int) -> Bgr:
    """Brickwork or paving in running bond."""
    mortar, base = random_color(rng, 120, 220), np.array(random_color(rng, 40, 190))
    image = flat(height, width, mortar)
    tall = int(rng.integers(8, 50))
    long, gap = round(tall * rng.uniform(1.5, 3.2)), max(1, tall // 8)
    for row, y in enumerate(range(0, height, tall)):
        for x in range(-(row % 2) * long // 2, width, long):
            tone = np.clip(base + rng.integers(-25, 26), 0, 255)
            cv2.rectangle(image, (x, y), (x + long - gap, y + tall - gap), tone.tolist(), -1)
    return image


def weave(rng: Rng, height: int, width: int) -> Bgr:
    """Fabric: two crossed sine ripples on a cloth colour."""
    yy, xx = np.mgrid[0:height, 0:width].astype(np.float32)
    pitch_x, pitch_y = rng.uniform(2.5, 14, 2)
    ripple = np.sin(2 * np.pi * xx / pitch_x) * np.sin(2 * np.pi * yy / pitch_y)
    return add_field(flat(height, width, random_color(rng, 30, 225)), ripple.astype(np.float32), rng.uniform(10, 70))


def bar_chart(rng: Rng, height: int, width: int) -> Bgr:
    """Chart with bars of uneven height standing on one axis."""
    image = flat(height, width, random_color(rng, 225, 256))
    count = int(rng.integers(5, 34))
    pitch = max(3, int(width * 0.8 / count))
    bar = max(1, round(pitch * rng.uniform(0.4, 0.85)))
    color, base = random_color(rng, 0, 190), int(height * 0.88)
    for i in range(count):
        x, top = int(width * 0.1) + i * pitch, int(base - height * 0.75 * rng.random())
        cv2.rectangle(image, (x, top), (x + bar, base), color, -1)
    cv2.line(image, (int(width * 0.08), base), (int(width * 0.94), base), (40, 40, 40), 1)
    write_line(rng, image, int(width * 0.1), 2, max(6, height // 14), (40, 40, 40))
    return image


def keyboard(rng: Rng, height: int, width: int) -> Bgr:
    """Rows of keys with a letter each."""
    dark = rng.random() < 0.6
    body, key = ((40, 40, 42), (22, 22, 24)) if dark else ((190, 190, 192), (238, 238, 240))
    ink = (225, 225, 225) if dark else (50, 50, 50)
    image = flat(height, width, body)
    size = int(rng.integers(14, 60))
    for row, y in enumerate(range(3, height, size + 4)):
        for x in range(3 - row * size // 3, width, size + 4):
            cv2.rectangle(image, (x, y), (x + size, y + size), key, -1)
            letter = chr(65 + int(rng.integers(26)))
            cv2.putText(image, letter, (x + size // 4, y + size * 2 // 3), 0, size / 50, ink, 1, cv2.LINE_AA)
    return image


def halftone(rng: Rng, height: int, width: int) -> Bgr:
    """Dot screen: perforated metal, LED walls, printed halftone."""
    pitch = rng.uniform(4, 24)
    yy, xx = np.mgrid[0:height, 0:width].astype(np.float32)
    wave = np.cos(2 * np.pi * xx / pitch) + np.cos(2 * np.pi * yy / pitch)
    one, two = _two_tones(rng)
    level = rng.uniform(-0.8, 0.8) + 0.6 * soft_field(rng, height, width, 4)
    return np.where((wave > level)[..., None], one, two).astype(np.uint8)


def table(rng: Rng, height: int, width: int) -> Bgr:
    """Ruled table filled with text."""
    image = flat(height, width, random_color(rng, 228, 256))
    row, columns = int(rng.integers(10, 34)), int(rng.integers(2, 7))
    size, ink = max(5, int(row * 0.55)), random_color(rng, 0, 90)
    for y in range(0, height, row):
        cv2.line(image, (0, y), (width, y), (120, 120, 120), 1)
        for c in range(columns):
            x = c * width // columns
            write_line(rng, image[:, x : x + width // columns - 2], 3, y + 2, size, ink)
    for c in range(columns + 1):
        cv2.line(image, (c * width // columns, 0), (c * width // columns, height), (120, 120, 120), 1)
    return image


def page(rng: Rng, height: int, width: int) -> Bgr:
    """Sheet of running text with the odd headline."""
    image = flat(height, width, random_color(rng, 222, 256))
    ink, y = random_color(rng, 0, 90), int(height * 0.04)
    while y < height:
        tall = int(rng.integers(height // 12 + 2, height // 3 + 4))
        size = int(np.exp(rng.uniform(np.log(5), np.log(max(7, height / 12)))))
        write_block(rng, image, (int(width * 0.06), y, int(width * 0.94), min(y + tall, height)), size, ink)
        y += tall + size
    return image


LOOKALIKES: tuple[Callable[[Rng, int, int], Bgr], ...] = (
    stripes, grid, checker, pixel_art, crossword, bricks, weave, bar_chart, keyboard, halftone, table, page,
)  # fmt: skip

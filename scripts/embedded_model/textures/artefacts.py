"""Objects and prints in strict order, the hardest to tell from codes: keys, scales, boards, signs.

Every function returns BGR uint8 HxWx3, seen straight on, and shows no code.
"""

from __future__ import annotations

import cv2
import numpy as np

from scripts.embedded_model.textures import heaps, materials
from scripts.embedded_model.textures.architecture import either_way
from scripts.embedded_model.textures.fields import Bgr, Field, Rng, noise_field
from scripts.embedded_model.textures.lettering import write_line
from scripts.embedded_model.textures.paint import add_field, flat, near_color, random_color, surface_color


def piano(rng: Rng, height: int, width: int) -> Bgr:
    """White and black piano keys."""
    key = max(6, int(width * rng.uniform(0.015, 0.08)))
    image, long = flat(height, width, (232, 238, 240)), int(height * rng.uniform(0.4, 1.0))
    for number, left in enumerate(range(0, width, key)):
        cv2.line(image, (left, 0), (left, long), (60, 60, 60), max(1, key // 16))
        if number % 7 not in (0, 3):
            cv2.rectangle(image, (left - key // 3, 0), (left + key // 3, int(long * 0.62)), (22, 20, 20), -1)
    image[long:] = materials.material(rng, height, width)[long:]
    return either_way(rng, image)


def bookshelf(rng: Rng, height: int, width: int) -> Bgr:
    """Spines, files, records or bottles side by side on boards."""
    image = materials.planks(rng, height, width)
    tall = max(24, int(height * rng.uniform(0.2, 0.7)))
    for base in range(tall, height + tall, tall + max(3, tall // 12)):
        left, mean = 0, max(4.0, tall * rng.uniform(0.05, 0.25))
        while left < width:
            wide = max(3, int(rng.gamma(5, mean / 5)))
            top = base - int(tall * rng.uniform(0.65, 0.98))
            color = surface_color(rng)
            cv2.rectangle(image, (left, top), (left + wide - 1, base), color, -1)
            cv2.line(image, (left, top), (left, base), (np.array(color) * 0.5).tolist(), 1)
            if rng.random() < 0.6:
                band = top + int((base - top) * rng.uniform(0.1, 0.8))
                cv2.rectangle(image, (left, band), (left + wide - 1, band + tall // 14), random_color(rng), -1)
            left += wide
    return image


def score(rng: Rng, height: int, width: int) -> Bgr:
    """Printed music: staves, bar lines, note heads with stems and beams."""
    image, ink = flat(height, width, near_color(rng, (225, 235, 238), 8)), (20, 20, 20)
    step = max(3, int(height * rng.uniform(0.008, 0.03)))
    for top in range(step * 2, height, step * int(rng.integers(9, 14))):
        for line in range(5):
            cv2.line(image, (0, top + line * step), (width, top + line * step), (70, 70, 70), 1)
        left = step * 2
        while left < width:
            y = top + int(rng.integers(-1, 10)) * step // 2
            stem = left + step // 2
            cv2.ellipse(image, (left, y), (step // 2 + 1, step // 2), -20, 0, 360, ink, -1, cv2.LINE_AA)
            cv2.line(image, (stem, y), (stem, y - step * 3), ink, 1)
            if rng.random() < 0.3:
                beam = (left + step * 3, y - step * 3 + max(1, step // 3))
                cv2.rectangle(image, (stem, y - step * 3), beam, ink, -1)
            if rng.random() < 0.15:
                cv2.line(image, (left + step * 2, top), (left + step * 2, top + step * 4), ink, 1)
            left += step * int(rng.integers(2, 6))
    return image


def street_map(rng: Rng, height: int, width: int) -> Bgr:
    """Map: parks, roads of several widths, names."""
    image = flat(height, width, near_color(rng, (225, 235, 240), 10))
    for _ in range(int(rng.integers(2, 8))):
        center = (rng.uniform(0, 1, 2) * (width, height)).astype(int).tolist()
        axes = (rng.uniform(0.04, 0.2, 2) * width).astype(int).tolist()
        cv2.ellipse(image, center, axes, rng.uniform(0, 180), 0, 360, random_color(rng, 150, 240), -1)
    for _ in range(int(rng.integers(12, 60))):
        one, two = (rng.uniform(-0.1, 1.1, (2, 2)) * (width, height)).astype(int).tolist()
        thick = int(rng.choice([1, 2, 3, 6]))
        cv2.line(image, one, two, (150, 150, 150), thick + 2, cv2.LINE_AA)
        cv2.line(image, one, two, (250, 250, 250) if thick < 6 else (90, 190, 250), thick, cv2.LINE_AA)
    for _ in range(8):
        x, y = (rng.uniform(0, 0.8, 2) * (width, height)).astype(int).tolist()
        write_line(rng, image, x, y, max(6, height // 40), (60, 60, 60))
    return image


def mosaic(rng: Rng, height: int, width: int) -> Bgr:
    """Pixelated picture: the squares of a censored face, of tiles or of a far-off LED wall."""
    cell = float(np.exp(rng.uniform(np.log(5), np.log(48))))
    rows, columns = max(2, int(height / cell)), max(2, int(width / cell))
    small = heaps.heap(rng, max(rows, 24), max(columns, 24))
    small = cv2.resize(small, (columns, rows), interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST)


def maze(rng: Rng, height: int, width: int) -> Bgr:
    """Labyrinth of walls one cell wide; its lines join up, the cells of a code do not."""
    cell = max(3, int(max(height, width) * rng.uniform(0.008, 0.04)))
    rows, columns = (height // cell) // 2 * 2 + 3, (width // cell) // 2 * 2 + 3
    walls = np.zeros((rows, columns), np.uint8)
    walls[::2, ::2] = 255
    walls[::2, 1::2] = 255 * (rng.random((rows // 2 + 1, columns // 2)) < 0.5)
    walls[1::2, ::2] = 255 * (rng.random((rows // 2, columns // 2 + 1)) < 0.35)
    big = cv2.resize(walls, (columns * cell, rows * cell), interpolation=cv2.INTER_NEAREST)[:height, :width]
    paper, ink = surface_color(rng, 200, 250), surface_color(rng, 10, 90)
    return np.where(big[..., None] > 0, np.array(ink, np.uint8), np.array(paper, np.uint8))


def ruler(rng: Rng, height: int, width: int) -> Bgr:
    """Scales, gauges and combs: ticks of a few fixed lengths at one pitch, with numbers."""
    image = materials.plain(rng, height, width)
    ink = (30, 30, 30) if image.mean() > 110 else (225, 225, 225)
    pitch = int(np.exp(rng.uniform(np.log(4), np.log(24))))
    for top in range(int(rng.integers(height // 3 + 1)), height, max(30, height // int(rng.integers(1, 4)))):
        for number, left in enumerate(range(0, width, pitch)):
            long = 5 if number % 10 == 0 else 3.5 if number % 5 == 0 else 2
            cv2.line(image, (left, top), (left, top + int(long * pitch * 0.8)), ink, max(1, pitch // 7))
            if number % 10 == 0:
                write_line(rng, image[:, : left + 3 * pitch], left, top + 5 * pitch, max(6, pitch), ink)
    return either_way(rng, image)


def circuit(rng: Rng, height: int, width: int) -> Bgr:
    """Circuit board: traces, pads, chips with rows of legs, white print."""
    board = flat(height, width, near_color(rng, (60, 95, 30), 30))
    image = cv2.addWeighted(materials.plain(rng, height, width), 0.3, board, 0.7, 0)
    for _ in range(int(rng.integers(20, 60))):
        x, y = (rng.uniform(0, 1, 2) * (width, height)).astype(int).tolist()
        reach = int(rng.uniform(0.05, 0.4) * width)
        path = np.array([[x, y], [x + reach, y], [x + reach + reach // 3, y + reach // 3]], np.int32)
        cv2.polylines(image, [path], False, near_color(rng, (80, 140, 60)), int(rng.integers(1, 4)), cv2.LINE_AA)
        cv2.circle(image, (x, y), int(rng.integers(2, 6)), (170, 200, 210), -1, cv2.LINE_AA)
    for _ in range(int(rng.integers(1, 7))):
        left, top = (rng.uniform(0, 0.9, 2) * (width, height)).astype(int).tolist()
        wide, tall = (rng.uniform(0.05, 0.3, 2) * width).astype(int).tolist()
        pitch = int(rng.integers(4, 14))
        for leg in range(left, left + wide, pitch):
            cv2.rectangle(image, (leg, top - pitch), (leg + pitch // 2, top + tall + pitch), (175, 180, 180), -1)
        cv2.rectangle(image, (left, top), (left + wide, top + tall), (35, 33, 32), -1)
        write_line(rng, image, left + 3, top + tall // 3, max(6, tall // 5), (190, 190, 190))
    return image


def glyphs(rng: Rng, height: int, width: int) -> Bgr:
    """Dense signs of a script that no font here has: strokes in square cells."""
    cell = int(np.exp(rng.uniform(np.log(10), np.log(70))))
    paper, ink = surface_color(rng, 190, 250), surface_color(rng, 10, 90)
    image = flat(height, width, paper)
    thick, room = max(1, cell // 12), cell - max(2, cell // 5)
    for top in range(2, height, round(cell * rng.uniform(1.0, 1.5))):
        for left in range(2, width, cell):
            if rng.random() < 0.08:
                continue
            strokes = rng.integers(0, room, (int(rng.integers(3, 8)), 2, 2))
            for (x, y), (other_x, other_y) in strokes.tolist():
                end = (left + other_x, top + y) if rng.random() < 0.5 else (left + x, top + other_y)
                cv2.line(image, (left + x, top + y), end, ink, thick, cv2.LINE_AA)
    return image


def targets(rng: Rng, height: int, width: int) -> Bgr:
    """Rings, nested squares, icons and buttons: like the finder of a code, but without its modules."""
    image = materials.plain(rng, height, width)
    for _ in range(int(rng.integers(1, 14))):
        size = int(max(height, width) * float(np.exp(rng.uniform(np.log(0.04), np.log(0.5)))))
        x, y = (rng.uniform(0, 1, 2) * (width, height)).astype(int).tolist()
        tones, round_one = (random_color(rng), random_color(rng)), rng.random() < 0.5
        rings = int(rng.integers(2, 6))
        for ring in range(rings):
            reach = size * (rings - ring) // (2 * rings) + 1
            if round_one:
                cv2.circle(image, (x, y), reach, tones[ring % 2], -1, cv2.LINE_AA)
            else:
                cv2.rectangle(image, (x - reach, y - reach), (x + reach, y + reach), tones[ring % 2], -1)
    return image


def display(rng: Rng, height: int, width: int) -> Bgr:
    """Dot-matrix or LED display: lit dots of letters on a dark panel."""
    dot = int(rng.integers(4, 12))
    rows, columns = height // dot + 1, width // dot + 1
    text: Field = np.zeros((max(rows, 8), max(columns, 8), 3), np.uint8)
    for top in range(1, rows, 12):
        write_line(rng, text, int(rng.integers(4)), top, 9, (255, 255, 255))
    lit = cv2.resize(text[:rows, :columns], (columns * dot, rows * dot), interpolation=cv2.INTER_NEAREST)
    tile = np.zeros((dot, dot), np.float32)
    cv2.circle(tile, (dot // 2, dot // 2), max(1, dot // 3), 1.0, -1)
    mask = np.tile(tile, (rows, columns))[:height, :width]
    lamp = np.array(random_color(rng, 60, 256), np.float32) / 255
    image = lit[:height, :width].astype(np.float32) * lamp * mask[..., None] + 18
    return cv2.GaussianBlur(image, (0, 0), 1.0).clip(0, 255).astype(np.uint8)


def chess(rng: Rng, height: int, width: int) -> Bgr:
    """Chess or draughts board with pieces."""
    cell = max(6, int(min(height, width) * rng.uniform(0.05, 0.16)))
    yy, xx = np.mgrid[0:height, 0:width] // cell
    pale, dark = near_color(rng, (180, 215, 235), 25), near_color(rng, (60, 90, 130), 25)
    board = np.where(((xx + yy) % 2 == 0)[..., None], np.array(pale, np.uint8), np.array(dark, np.uint8))
    for y in range(cell // 2, height, cell):
        for x in range(cell // 2, width, cell):
            if rng.random() < 0.25:
                color = (235, 240, 240) if rng.random() < 0.5 else (25, 25, 28)
                cv2.circle(board, (x + cell // 12, y + cell // 12), cell // 3, (40, 50, 60), -1, cv2.LINE_AA)
                cv2.circle(board, (x, y), cell // 3, color, -1, cv2.LINE_AA)
    return add_field(board, noise_field(rng, height, width), 3)

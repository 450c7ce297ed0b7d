"""Single codes with what belongs to them: stickers, printed fields, marks on the thing itself, label sheets."""

from __future__ import annotations

import cv2
import numpy as np

from scripts.embedded_model.geometry import rectangle_outline
from scripts.embedded_model.prints import (
    Print,
    caption_room,
    decorate,
    inks,
    new_symbol,
    print_code,
    quiet_zone,
    stamp_code,
)
from scripts.embedded_model.surfaces import PlacedCode, Surface, opaque
from scripts.embedded_model.symbols import Gray, Rng, Symbol, draw_symbology
from scripts.embedded_model.textures.fields import soft_field
from scripts.embedded_model.textures.lettering import write_block, write_line
from scripts.embedded_model.textures.paint import Color, add_field, flat, random_color


def label(rng: Rng, long_side: float, symbol: Symbol | None = None) -> Surface:
    """Sticker or printed field with one code, maybe a caption and some text around it."""
    code = print_code(rng, symbol or new_symbol(rng, long_side=long_side), long_side)
    height, width = code.coverage.shape
    margin, (paper, ink) = quiet_zone(rng, code), inks(rng)
    above = round(height * rng.uniform(0, 0.6)) if rng.random() < 0.35 else 0
    below = caption_room(code)
    side = round(width * rng.uniform(0.1, 1.2)) if rng.random() < 0.25 else 0
    image = flat(height + 2 * margin + above + below, width + 2 * margin + side, paper)
    placed = stamp_code(image, code, margin, margin + above, ink)
    decorate(rng, image, code, margin, margin + above, paper, ink)
    size = max(5, round(height * rng.uniform(0.08, 0.3)))
    write_block(rng, image, (margin, 2, image.shape[1] - 2, above), size, ink)
    if side:
        box = (margin * 2 + width, margin, image.shape[1] - 2, image.shape[0] - 2)
        write_block(rng, image, box, size, ink)
    if rng.random() < 0.2:
        cv2.rectangle(image, (0, 0), (image.shape[1] - 1, image.shape[0] - 1), ink, 1 + height // 80)
    return opaque(image, [placed], glossy=rng.random() < 0.3)


def bare_print(rng: Rng, long_side: float, paper: Color, ink: Color, symbol: Symbol | None = None) -> Surface:
    """One code on clear paper and next to nothing around it, as an encoder draws it or a scanner crops it."""
    code = print_code(rng, symbol or new_symbol(rng), long_side)
    height, width = code.coverage.shape
    margin = round(code.module * rng.uniform(0, 8)) if rng.random() < 0.8 else 0
    below = caption_room(code) if rng.random() < 0.5 else 0
    image = flat(height + 2 * margin + below, width + 2 * margin, paper)
    placed = stamp_code(image, code, margin, margin, ink)
    if below:
        decorate(rng, image, code, margin, margin, paper, ink)
    return opaque(image, [placed])


def _contrasting(rng: Rng, ground: float) -> Color:
    return random_color(rng, 0, 45) if ground > rng.uniform(95, 150) else random_color(rng, 195, 256)


def _mark(code: Print, color: Color, alpha: Gray, margin: int) -> Surface:
    height, width = code.coverage.shape
    texture = flat(height + 2 * margin, width + 2 * margin, color)
    return Surface(texture, alpha, [PlacedCode(code.symbol, rectangle_outline(margin, margin, width, height))])


def direct_mark(rng: Rng, long_side: float, ground: float) -> Surface:
    """Code marked straight on whatever lies below: laser, dot peen, stencil or stamp.

    `ground` is the grey level (0..255) of what lies below; the mark contrasts with it.
    """
    code = print_code(rng, new_symbol(rng, long_side=long_side), long_side)
    height, width = code.coverage.shape
    margin = max(2, round(2 * code.module))
    alpha: Gray = np.zeros((height + 2 * margin, width + 2 * margin), np.uint8)
    alpha[margin : margin + height, margin : margin + width] = code.coverage
    alpha = cv2.convertScaleAbs(alpha, alpha=rng.uniform(0.55, 1.0))
    surface = _mark(code, _contrasting(rng, ground), alpha, margin)
    if rng.random() < 0.4:
        _emboss(rng, surface, alpha, code.module)
    return surface


def _emboss(rng: Rng, surface: Surface, alpha: Gray, module: float) -> None:
    """Light on one flank of every mark and shade on the other, as pits and burrs show."""
    shift = max(1.0, module * rng.uniform(0.1, 0.3))
    turn = rng.uniform(0, 2 * np.pi)
    move = np.array([[1, 0, shift * np.cos(turn)], [0, 1, shift * np.sin(turn)]], np.float32)
    moved = cv2.warpAffine(alpha, move, surface.size)
    flank = (moved.astype(np.float32) - alpha) / 255
    surface.texture[:] = add_field(surface.texture, cv2.blur(flank, (3, 3)), rng.uniform(60, 200))


def label_roll(rng: Rng, width: int, height: int) -> Surface:
    """Sheet of many small labels, mostly of one symbology."""
    image = flat(height, width, random_color(rng, 190, 256))
    codes: list[PlacedCode] = []
    symbology = draw_symbology(rng) if rng.random() < 0.7 else None
    columns, rows = (max(1, min(int(rng.integers(1, 7)), side // 60)) for side in (width, height))
    pitch_x, pitch_y = width // columns, height // rows
    cut_lines = rng.random() < 0.5
    for cell in range(rows * columns):
        left, top = cell % columns * pitch_x, cell // columns * pitch_y
        long_side = min(pitch_x, pitch_y) * rng.uniform(0.5, 0.85)
        code = print_code(rng, new_symbol(rng, symbology, long_side), long_side)
        tall, wide = code.coverage.shape
        room_x, room_y = pitch_x - wide - 8, pitch_y - tall - 16
        if room_x < 0 or room_y < 0:
            continue
        x, y = left + 4 + room_x // 2, top + 4 + int(room_y * rng.uniform(0, 0.6))
        codes.append(stamp_code(image, code, x, y, random_color(rng, 0, 60)))
        write_line(rng, image[:, x : left + pitch_x - 4], 0, y + tall + 2, max(7, pitch_y // 12), (40, 40, 40))
        if cut_lines:
            cv2.rectangle(image, (left, top), (left + pitch_x - 1, top + pitch_y - 1), (170, 170, 170), 1)
    image = add_field(image, soft_field(rng, height, width, 2), rng.uniform(0, 25))
    return opaque(image, codes)

"""Printed sheets: parcel labels, invoices, tickets, pages and scraps, laid out from top to bottom."""

from __future__ import annotations

import cv2

from scripts.embedded_model.prints import caption_room, decorate, inks, new_symbol, print_code, quiet_zone, stamp_code
from scripts.embedded_model.surfaces import PlacedCode, Surface, opaque
from scripts.embedded_model.symbols import Rng
from scripts.embedded_model.textures.backdrops import lookalike, vista
from scripts.embedded_model.textures.fields import Bgr
from scripts.embedded_model.textures.lettering import write_block, write_line
from scripts.embedded_model.textures.paint import Color, flat, random_color

_ROWS = 14


def _flow_code(rng: Rng, image: Bgr, top: int, paper: Color, ink: Color) -> tuple[int, PlacedCode | None]:
    width = image.shape[1]
    long_side = width * rng.uniform(0.15, 0.85)
    code = print_code(rng, new_symbol(rng, long_side=long_side), long_side)
    height, code_width = code.coverage.shape
    margin = quiet_zone(rng, code)
    room = width - code_width - 2 * min(margin, width // 12)
    if room < 0 or top + height + margin > image.shape[0]:
        return top, None
    left = min(margin, width // 12) + int(rng.integers(0, room + 1))
    placed = stamp_code(image, code, left, top + margin, ink)
    decorate(rng, image, code, left, top + margin, paper, ink)
    size = max(5, width // int(rng.integers(14, 44)))
    beside = (left + code_width + margin + 3, top + margin, width - 3, top + margin + height)
    write_block(rng, image, beside, size, ink)
    return top + height + 2 * margin + caption_room(code), placed


def _flow_text(rng: Rng, image: Bgr, top: int, ink: Color) -> int:
    width, kind = image.shape[1], rng.random()
    tall = max(8, round(image.shape[0] * rng.uniform(0.05, 0.22)))
    bottom: int = min(top + tall, image.shape[0] - 1)
    left, right = width // 20, width - width // 20
    if kind < 0.55:
        size = max(5, width // int(rng.integers(9, 46)))
        write_block(rng, image, (left, top + 3, right, bottom), size, ink)
    elif kind < 0.65:
        middle = (left + right) // 2
        size = max(5, width // int(rng.integers(20, 50)))
        write_block(rng, image, (left, top + 3, middle - 4, bottom), size, ink)
        write_block(rng, image, (middle + 4, top + 3, right, bottom), size, ink)
    elif kind < 0.76:
        cv2.line(image, (0, top + 2), (width, top + 2), ink, max(1, width // 150))
        return top + 5
    elif kind < 0.85:
        cv2.rectangle(image, (left, top + 2), (right, bottom), ink, -1 if kind < 0.79 else 1)
    elif bottom - top > 12:
        picture = lookalike if kind < 0.95 else vista
        image[top + 2 : bottom, left:right] = picture(rng, bottom - top - 2, right - left)
    return bottom + 3


def sheet(rng: Rng, width: int, height: int) -> Surface:
    """Parcel label, invoice, page or ticket: codes, text, rules and tables flowing down a sheet."""
    paper, ink = inks(rng)
    image = flat(height, width, paper)
    codes: list[PlacedCode] = []
    top, wanted = int(rng.integers(2, 2 + max(1, height // 5))), int(rng.integers(1, 5))
    for _ in range(_ROWS):
        if top > height - 20:
            break
        if rng.random() < (0.45 if codes else 0.65) and len(codes) < wanted:
            top, placed = _flow_code(rng, image, top, paper, ink)
            codes += [placed] if placed else []
        else:
            top = _flow_text(rng, image, top, ink)
    if rng.random() < 0.3:
        cv2.rectangle(image, (2, 2), (width - 3, height - 3), ink, max(1, width // 160))
    return opaque(image, codes, glossy=rng.random() < 0.15)


def shelf_ticket(rng: Rng, width: int, height: int) -> Surface:
    """Price label: a name, a large price and a small linear or matrix code."""
    paper, ink = inks(rng)
    image = flat(height, width, paper)
    long_side = width * rng.uniform(0.2, 0.5)
    code = print_code(rng, new_symbol(rng, long_side=long_side), long_side)
    tall, wide = code.coverage.shape
    left, top = int(rng.integers(2, max(3, width - wide - 2))), height - tall - max(3, height // 8)
    codes = []
    write_line(rng, image, width // 20, height // 30 + 1, max(6, height // 6), ink)
    price = f"{int(rng.integers(0, 99))}.{int(rng.integers(0, 99)):02d}"
    cv2.putText(
        image, price, (width // 20, height * 3 // 5), 0, height / 70, random_color(rng, 0, 120), height // 40 + 1
    )
    if top > height // 6 and left + wide < width:
        cv2.rectangle(image, (left - 2, top - 2), (left + wide + 2, height), paper, -1)
        codes.append(stamp_code(image, code, left, top, ink))
    return opaque(image, codes, glossy=rng.random() < 0.4)


def scrap(rng: Rng, width: int, height: int) -> Surface:
    """Printed thing without any code."""
    kind = rng.random()
    if kind < 0.55:
        return opaque(lookalike(rng, height, width), [])
    if kind < 0.7:
        return opaque(vista(rng, height, width), [], glossy=rng.random() < 0.5)
    _, ink = colors = inks(rng)
    image, top = flat(height, width, colors[0]), 2
    while top < height - 12:
        top = _flow_text(rng, image, top, ink)
    return opaque(image, [], glossy=rng.random() < 0.3)

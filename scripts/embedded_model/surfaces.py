"""Flat printed things that carry codes: labels, parcels, packs, pages, tickets, screens, marks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import cv2
import numpy as np

from scripts.embedded_model import textures
from scripts.embedded_model.geometry import Points, rectangle_outline
from scripts.embedded_model.rendering import render, row_height, stretch_bars
from scripts.embedded_model.symbols import Gray, Rng, Symbol, Symbology, draw_symbology, write_symbol
from scripts.embedded_model.textures import Bgr, Color

MIN_MODULE_PIXELS = 0.62
_MIN_LONG_SIDE = 20


@dataclass(frozen=True)
class PlacedCode:
    """A code and its outline (Nx2, continuous pixels of the surface or picture that holds it)."""

    symbol: Symbol
    outline: Points


@dataclass
class Surface:
    """`texture` HxWx3 BGR, `alpha` HxW (255 = opaque) and the codes printed on it."""

    texture: Bgr
    alpha: Gray
    codes: list[PlacedCode] = field(default_factory=list)
    glossy: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.texture.shape[1], self.texture.shape[0]


@dataclass(frozen=True)
class Print:
    """A code ready to be stamped: coverage HxW (255 = ink), pixels a module and the code itself."""

    symbol: Symbol
    coverage: Gray
    module: float


def print_code(rng: Rng, symbol: Symbol, long_side: float, plain: bool = False) -> Print:
    """Render `symbol` so that its longer side is about `long_side` pixels (never an illegible smear)."""
    modules = stretch_bars(rng, symbol)
    tall = row_height(rng, symbol)
    rows, columns = modules.shape[0] * tall, modules.shape[1]
    long_side = max(long_side, _MIN_LONG_SIDE, MIN_MODULE_PIXELS * max(rows, columns))
    scale = long_side / max(rows, columns)
    width, height = max(3, round(columns * scale)), max(3, round(rows * scale))
    coverage = render(rng, modules, width, height, plain)
    if rng.random() < 0.12:
        coverage = np.ascontiguousarray(np.rot90(coverage))
    return Print(symbol, coverage, scale)


def stamp_code(surface: Bgr, code: Print, left: int, top: int, ink: Color) -> PlacedCode:
    """Print the code at (left, top) in place and tell where it went."""
    textures.stamp(surface, code.coverage, left, top, ink)
    height, width = code.coverage.shape
    return PlacedCode(code.symbol, rectangle_outline(left, top, width, height))


def inks(rng: Rng) -> tuple[Color, Color]:
    """(paper, ink): mostly black on white, sometimes coloured, sometimes light on dark."""
    kind = rng.random()
    if kind < 0.55:
        return textures.random_color(rng, 228, 256), textures.random_color(rng, 0, 50)
    if kind < 0.85:
        return textures.random_color(rng, 150, 256), textures.random_color(rng, 0, 95)
    light, dark = textures.random_color(rng, 165, 256), textures.random_color(rng, 0, 90)
    return (dark, light) if kind < 0.95 else (light, textures.random_color(rng, 30, 130))


def new_symbol(rng: Rng, symbology: Symbology | None = None) -> Symbol:
    """A random code, of the given symbology if there is one."""
    return write_symbol(rng, symbology or draw_symbology(rng))


def opaque(texture: Bgr, codes: list[PlacedCode], glossy: bool = False) -> Surface:
    """Surface without holes."""
    return Surface(texture, np.full(texture.shape[:2], 255, np.uint8), codes, glossy)


def quiet_zone(rng: Rng, code: Print) -> int:
    """Random clear margin in pixels, from next to nothing to generous."""
    return max(1, round(code.module * float(np.exp(rng.uniform(np.log(1.0), np.log(14))))))


def _caption(rng: Rng, image: Bgr, code: Print, left: int, top: int, ink: Color) -> None:
    """Human-readable line under a linear code."""
    height = max(5, round(code.coverage.shape[1] * rng.uniform(0.06, 0.13)))
    mask = textures.text_mask(code.symbol.text[:20], "DejaVuSansMono", 24)
    width = min(code.coverage.shape[1], max(4, round(mask.shape[1] * height / mask.shape[0])))
    small = cv2.resize(mask, (width, height), interpolation=cv2.INTER_AREA)
    textures.stamp(image, small, left + (code.coverage.shape[1] - width) // 2, top, ink)


def label(rng: Rng, long_side: float, symbol: Symbol | None = None) -> Surface:
    """Sticker or printed field with one code, maybe a caption and a line of text."""
    code = print_code(rng, symbol or new_symbol(rng), long_side)
    height, width = code.coverage.shape
    margin, paper_ink = quiet_zone(rng, code), inks(rng)
    above = round(height * rng.uniform(0, 0.6)) if rng.random() < 0.4 else 0
    below = round(width * 0.16) if code.symbol.symbology.class_id == 0 and rng.random() < 0.7 else 0
    side = round(width * rng.uniform(0.1, 1.2)) if rng.random() < 0.25 else 0
    image = textures.flat(height + 2 * margin + above + below, width + 2 * margin + side, paper_ink[0])
    placed = stamp_code(image, code, margin, margin + above, paper_ink[1])
    if below:
        _caption(rng, image, code, margin, margin + above + height + 2, paper_ink[1])
    size = max(5, round(height * rng.uniform(0.08, 0.3)))
    textures.write_block(rng, image, (margin, 2, image.shape[1] - 2, above), size, paper_ink[1])
    if side:
        box = (margin * 2 + width, margin, image.shape[1] - 2, image.shape[0] - 2)
        textures.write_block(rng, image, box, size, paper_ink[1])
    if rng.random() < 0.2:
        cv2.rectangle(image, (0, 0), (image.shape[1] - 1, image.shape[0] - 1), paper_ink[1], 1 + height // 80)
    return opaque(image, [placed], glossy=rng.random() < 0.3)


def _flow_code(rng: Rng, image: Bgr, top: int, ink: Color) -> tuple[int, PlacedCode | None]:
    width = image.shape[1]
    code = print_code(rng, new_symbol(rng), width * rng.uniform(0.15, 0.85))
    height, code_width = code.coverage.shape
    margin = quiet_zone(rng, code)
    room = width - code_width - 2 * min(margin, width // 12)
    if room < 0 or top + height + margin > image.shape[0]:
        return top, None
    left = min(margin, width // 12) + int(rng.integers(0, room + 1))
    placed = stamp_code(image, code, left, top + margin, ink)
    size = max(5, width // int(rng.integers(14, 44)))
    beside = (left + code_width + margin + 3, top + margin, width - 3, top + margin + height)
    textures.write_block(rng, image, beside, size, ink)
    bottom = top + margin + height
    if code.symbol.symbology.class_id == 0 and rng.random() < 0.6:
        _caption(rng, image, code, left, bottom + 2, ink)
        bottom += round(code_width * 0.12)
    return bottom + margin, placed


def _flow_text(rng: Rng, image: Bgr, top: int, ink: Color) -> int:
    width, kind = image.shape[1], rng.random()
    tall = max(8, round(image.shape[0] * rng.uniform(0.05, 0.22)))
    bottom: int = min(top + tall, image.shape[0] - 1)
    if kind < 0.6:
        size = max(5, width // int(rng.integers(9, 46)))
        textures.write_block(rng, image, (width // 20, top + 3, width - width // 20, bottom), size, ink)
    elif kind < 0.75:
        cv2.line(image, (0, top + 2), (width, top + 2), ink, max(1, width // 150))
        return top + 5
    elif kind < 0.85:
        cv2.rectangle(image, (width // 20, top + 2), (width - width // 20, bottom), ink, -1 if kind < 0.79 else 1)
    elif bottom - top > 12:
        image[top + 2 : bottom, width // 20 : width - width // 20] = textures.lookalike(
            rng, bottom - top - 2, width - 2 * (width // 20)
        )
    return bottom + 3


def sheet(rng: Rng, width: int, height: int) -> Surface:
    """Parcel label, invoice, page or ticket: codes, text, rules and tables flowing down a sheet."""
    paper, ink = inks(rng)
    image = textures.flat(height, width, paper)
    codes: list[PlacedCode] = []
    top, wanted = int(rng.integers(2, 2 + max(1, height // 5))), int(rng.integers(1, 5))
    for _ in range(14):
        if top > height - 20:
            break
        if rng.random() < 0.5 and len(codes) < wanted:
            top, placed = _flow_code(rng, image, top, ink)
            codes += [placed] if placed else []
        else:
            top = _flow_text(rng, image, top, ink)
    return opaque(image, codes, glossy=rng.random() < 0.15)


def pack(rng: Rng, width: int, height: int) -> Surface:
    """Product packaging: artwork with a code in a clear field or printed straight on a plain area."""
    image = textures.background(rng, height, width)
    for _ in range(int(rng.integers(1, 6))):
        size = max(6, round(height * float(np.exp(rng.uniform(np.log(0.02), np.log(0.22))))))
        x, y = int(rng.integers(0, width)), int(rng.integers(0, height))
        textures.write_line(rng, image, x - width // 4, y, size, textures.random_color(rng))
    codes: list[PlacedCode] = []
    for _ in range(int(rng.integers(1, 3))):
        spot = label(rng, min(width, height) * rng.uniform(0.18, 0.8))
        room_x, room_y = width - spot.size[0], height - spot.size[1]
        if room_x < 0 or room_y < 0:
            continue
        left, top = int(rng.integers(0, room_x + 1)), int(rng.integers(0, room_y + 1))
        field_box = (left, top, left + spot.size[0], top + spot.size[1])
        if any(_touches(code, field_box) for code in codes):
            continue
        image[top : field_box[3], left : field_box[2]] = spot.texture
        shift = np.array([left, top], np.float32)
        codes += [PlacedCode(code.symbol, code.outline + shift) for code in spot.codes]
    return opaque(image, codes, glossy=rng.random() < 0.5)


def _touches(code: PlacedCode, box: tuple[int, int, int, int]) -> bool:
    (x0, y0), (x1, y1) = code.outline.min(axis=0), code.outline.max(axis=0)
    return bool(x0 < box[2] and x1 > box[0] and y0 < box[3] and y1 > box[1])


def screen(rng: Rng, width: int, height: int) -> Surface:
    """Phone or monitor: an app page with a code inside a bezel, with a faint pixel raster."""
    inner = sheet(rng, width, height)
    bezel = max(2, round(min(width, height) * rng.uniform(0.02, 0.08)))
    frame = textures.flat(height + 2 * bezel, width + 2 * bezel, textures.random_color(rng, 0, 60))
    raster = inner.texture.astype(np.float32)
    raster[:: int(rng.integers(2, 4))] *= rng.uniform(0.82, 1.0)
    raster[:, :: int(rng.integers(2, 4))] *= rng.uniform(0.82, 1.0)
    frame[bezel : bezel + height, bezel : bezel + width] = raster.astype(np.uint8)
    codes = [PlacedCode(code.symbol, code.outline + np.float32(bezel)) for code in inner.codes]
    return opaque(frame, codes, glossy=rng.random() < 0.6)


def label_roll(rng: Rng, width: int, height: int) -> Surface:
    """Sheet of many small labels, mostly of one symbology."""
    image = textures.flat(height, width, textures.random_color(rng, 190, 256))
    codes: list[PlacedCode] = []
    symbology = draw_symbology(rng) if rng.random() < 0.7 else None
    pitch_x, pitch_y = max(60, width // int(rng.integers(2, 5))), max(50, height // int(rng.integers(2, 5)))
    for top in range(4, height - pitch_y, pitch_y):
        for left in range(4, width - pitch_x, pitch_x):
            code = print_code(rng, new_symbol(rng, symbology), min(pitch_x, pitch_y) * rng.uniform(0.5, 0.85))
            if code.coverage.shape[0] + 12 > pitch_y or code.coverage.shape[1] + 8 > pitch_x:
                continue
            codes.append(stamp_code(image, code, left, top, textures.random_color(rng, 0, 60)))
            textures.write_line(
                rng, image[:, left : left + pitch_x - 8], 0, top + code.coverage.shape[0] + 2, 7, (40, 40, 40)
            )
    return opaque(image, codes)


def direct_mark(rng: Rng, long_side: float, ground: float) -> Surface:
    """Code marked straight on whatever lies below: laser, dot peen, stencil or stamp.

    `ground` is the grey level (0..255) of what lies below; the mark contrasts with it.
    """
    code = print_code(rng, new_symbol(rng), long_side)
    height, width = code.coverage.shape
    margin = max(2, round(2 * code.module))
    dark = ground > rng.uniform(80, 150)
    ink = textures.random_color(rng, 0, 50) if dark else textures.random_color(rng, 180, 256)
    texture = textures.flat(height + 2 * margin, width + 2 * margin, ink)
    alpha: Gray = np.zeros(texture.shape[:2], np.uint8)
    alpha[margin : margin + height, margin : margin + width] = code.coverage
    alpha = cv2.convertScaleAbs(alpha, alpha=rng.uniform(0.7, 1.0))
    return Surface(texture, alpha, [PlacedCode(code.symbol, rectangle_outline(margin, margin, width, height))])


def scrap(rng: Rng, width: int, height: int) -> Surface:
    """Printed thing without any code."""
    if rng.random() < 0.6:
        return opaque(textures.lookalike(rng, height, width), [])
    paper, ink = inks(rng)
    image, top = textures.flat(height, width, paper), 2
    while top < height - 12:
        top = _flow_text(rng, image, top, ink)
    return opaque(image, [], glossy=rng.random() < 0.3)


BIG_SURFACES: tuple[Callable[[Rng, int, int], Surface], ...] = (sheet, pack, screen, label_roll)
BIG_WEIGHTS = (0.46, 0.28, 0.16, 0.10)

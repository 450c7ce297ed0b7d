"""Codes as ink on a surface: size, colours, quiet zone, caption, artwork."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from scripts.embedded_model.geometry import rectangle_outline
from scripts.embedded_model.payloads import gtin_check
from scripts.embedded_model.rendering import render, row_height, stretch_bars
from scripts.embedded_model.surfaces import PlacedCode
from scripts.embedded_model.symbols import Gray, Rng, Symbol, Symbology, draw_symbology, write_symbol
from scripts.embedded_model.textures.fields import Bgr
from scripts.embedded_model.textures.lettering import text_mask
from scripts.embedded_model.textures.paint import Color, random_color, stamp, surface_color
from scripts.embedded_model.wear import worn

# Pixels a module by class below which a print would be a smear.
MIN_MODULE_PIXELS = (0.85, 1.4, 1.4, 1.0, 1.4)
_MIN_LONG_SIDE = 20
_SYMBOL_TRIES = 5
_WEAR_SHARE = 0.14
_TURNED_SHARE = 0.12
# Modules of quiet zone by class; Aztec needs none, but labels leave some.
_QUIET_MODULES = (9, 4, 1.5, 2, 1.5)

# Columns of the digit groups under retail bars and the row, of so many, where the guard bars outgrow the others.
_GUARD_ROW, _GUARD_ROWS = 50, 55
_DIGIT_GROUPS: dict[str, tuple[tuple[slice, float, float], ...]] = {
    "EAN13": ((slice(0, 1), -10, -2), (slice(1, 7), 4, 45), (slice(7, 13), 50, 91)),
    "UPCA": ((slice(0, 1), -8, -2), (slice(1, 6), 12, 45), (slice(6, 11), 50, 83), (slice(11, 12), 97, 103)),
    "EAN8": ((slice(0, 4), 4, 31), (slice(4, 8), 36, 63)),
    "UPCE": ((slice(0, 1), -8, -2), (slice(1, 7), 4, 45)),
}
_RETAIL_COLUMNS = {"EAN13": 95, "UPCA": 95, "EAN8": 67, "UPCE": 51}

# Pairs of (paper, ink) in BGR that packaging and tickets favour besides black on white.
_COLORED: tuple[tuple[Color, Color], ...] = (
    ((110, 152, 192), (40, 45, 55)),
    ((100, 140, 180), (235, 240, 242)),
    ((60, 215, 245), (170, 120, 20)),
    ((60, 210, 240), (35, 30, 30)),
    ((240, 245, 248), (130, 50, 20)),
    ((240, 245, 248), (40, 90, 40)),
    ((238, 242, 245), (50, 40, 170)),
    ((215, 225, 250), (90, 40, 90)),
    ((190, 210, 130), (60, 60, 20)),
    ((60, 40, 25), (215, 225, 230)),
    ((40, 40, 160), (240, 240, 245)),
    ((150, 155, 155), (70, 70, 72)),
)


@dataclass(frozen=True)
class Print:
    """A code ready to be stamped: coverage HxW (255 = ink), pixels a module and the code itself.

    `turned` says that the print lies on its side, its first column at the bottom.
    """

    symbol: Symbol
    coverage: Gray
    module: float
    turned: bool = False


def new_symbol(rng: Rng, symbology: Symbology | None = None, long_side: float = np.inf) -> Symbol:
    """A random code, of the given symbology if there is one, and sparse enough for `long_side` pixels if possible."""
    chosen = symbology or draw_symbology(rng)
    finest = MIN_MODULE_PIXELS[chosen.class_id]
    for _ in range(_SYMBOL_TRIES):
        symbol = write_symbol(rng, chosen)
        if max(symbol.modules.shape) * finest <= long_side:
            break
    return symbol


def print_code(rng: Rng, symbol: Symbol, long_side: float, plain: bool = False) -> Print:
    """Render `symbol` so that its longer side is about `long_side` pixels (never an illegible smear)."""
    modules = stretch_bars(rng, symbol)
    tall = row_height(rng, symbol)
    rows, columns = modules.shape[0] * tall, modules.shape[1]
    finest = MIN_MODULE_PIXELS[symbol.symbology.class_id] * max(rows, columns)
    long_side = max(long_side, _MIN_LONG_SIDE, finest)
    scale = long_side / max(rows, columns)
    width, height = max(3, round(columns * scale)), max(3, round(rows * scale))
    coverage = render(rng, modules, width, height, plain, symbol.symbology.name == "QRCode")
    if not plain and rng.random() < _WEAR_SHARE:
        coverage = worn(rng, coverage)
    turned = rng.random() < _TURNED_SHARE
    if turned:
        coverage = np.ascontiguousarray(np.rot90(coverage))
    return Print(symbol, coverage, scale, turned)


def stamp_code(surface: Bgr, code: Print, left: int, top: int, ink: Color) -> PlacedCode:
    """Print the code at (left, top) in place and tell where it went."""
    stamp(surface, code.coverage, left, top, ink)
    height, width = code.coverage.shape
    return PlacedCode(code.symbol, rectangle_outline(left, top, width, height))


def inks(rng: Rng) -> tuple[Color, Color]:
    """(paper, ink): mostly black on white, sometimes coloured, sometimes light on dark."""
    kind = rng.random()
    if kind < 0.45:
        return random_color(rng, 222, 256), random_color(rng, 0, 55)
    if kind < 0.68:
        return surface_color(rng, 190, 250), surface_color(rng, 5, 60)
    if kind < 0.80:
        return random_color(rng, 150, 256), random_color(rng, 0, 95)
    if kind < 0.90:
        return _COLORED[int(rng.integers(len(_COLORED)))]
    light, dark = random_color(rng, 165, 256), random_color(rng, 0, 90)
    return (dark, light) if kind < 0.97 else (light, random_color(rng, 30, 130))


def quiet_zone(rng: Rng, code: Print) -> int:
    """Random clear margin in pixels: mostly what the standard of the code asks for or more, at times too little."""
    if rng.random() < 0.25:
        return max(1, round(code.module * rng.uniform(0.3, 4)))
    return max(1, round(code.module * _QUIET_MODULES[code.symbol.symbology.class_id] * rng.uniform(0.9, 2.5)))


def decorate(rng: Rng, image: Bgr, code: Print, left: int, top: int, paper: Color, ink: Color) -> None:
    """What is often printed with a code: a logo in the middle of a QR code, a human-readable line below bars."""
    if code.symbol.symbology.name == "QRCode" and rng.random() < 0.12:
        _logo(rng, image, code, left, top, paper)
    if code.symbol.symbology.class_id == 0 and not code.turned and rng.random() < 0.75:
        _caption(rng, image, code, left, top, ink)


def caption_room(code: Print) -> int:
    """Pixels below a linear code that its human-readable line may take."""
    if code.symbol.symbology.class_id != 0 or code.turned:
        return 0
    return round(0.16 * int(code.coverage.shape[1]))


def _logo(rng: Rng, image: Bgr, code: Print, left: int, top: int, paper: Color) -> None:
    side = code.coverage.shape[0]
    reach = max(2, round(side * rng.uniform(0.07, 0.13)))
    x, y = left + side // 2, top + side // 2
    cv2.rectangle(image, (x - reach, y - reach), (x + reach, y + reach), paper, -1)
    inner = max(1, reach - max(1, side // 40))
    if rng.random() < 0.5:
        cv2.circle(image, (x, y), inner, random_color(rng), -1, cv2.LINE_AA)
    else:
        cv2.rectangle(image, (x - inner, y - inner), (x + inner, y + inner), random_color(rng), -1)
    mask = text_mask(chr(65 + int(rng.integers(26))), "DejaVuSans-Bold", 24)
    small = cv2.resize(mask, (inner, inner), interpolation=cv2.INTER_AREA)
    stamp(image, small, x - inner // 2, y - inner // 2, random_color(rng, 180, 256))


def _caption(rng: Rng, image: Bgr, code: Print, left: int, top: int, ink: Color) -> None:
    """Human-readable line: between the guard bars of retail codes, centred below the others."""
    name, (height, width) = code.symbol.symbology.name, code.coverage.shape
    groups = _DIGIT_GROUPS.get(name)
    if groups is None or rng.random() < 0.15:
        size = max(5, round(width * rng.uniform(0.06, 0.13)))
        _write(image, code.symbol.text[:24], (left, top + height + 2, left + width), size, ink)
        return
    columns = code.symbol.modules.shape[1]
    step = width / columns
    line = top + round(height * _GUARD_ROW / _GUARD_ROWS) + max(1, round(step))
    size = max(4, round(step * rng.uniform(6.5, 9)))
    digits = _shown_digits(code.symbol)
    for part, start, end in groups:
        _write(image, digits[part], (left + round(start * step), line, left + round(end * step)), size, ink)
    if columns > _RETAIL_COLUMNS[name]:
        start = left + round((_RETAIL_COLUMNS[name] + 9) * step)
        _write(image, code.symbol.text.split(" ")[1], (start, top - round(1.5 * step), left + width), size, ink)


def _shown_digits(symbol: Symbol) -> str:
    """The main number with its check digit, which the payload lacks."""
    number = symbol.text.split(" ")[0]
    return f"{number}{gtin_check(number)}"


def _write(image: Bgr, text: str, span: tuple[int, int, int], height: int, ink: Color) -> None:
    """Text within (left, top, right), `height` pixels tall or less."""
    left, top, right = span
    mask = text_mask(text or "0", "DejaVuSansMono", 24)
    width = min(right - left, max(2, round(mask.shape[1] * height / mask.shape[0])))
    if width < 2:
        return
    small = cv2.resize(mask, (width, height), interpolation=cv2.INTER_AREA)
    stamp(image, small, left + (right - left - width) // 2, top, ink)

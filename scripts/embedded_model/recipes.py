"""Kinds of pictures: what is put where before the camera sees it."""

from __future__ import annotations

import numpy as np

from scripts.embedded_model import geometry, goods, labels, papers
from scripts.embedded_model.canvas import Canvas
from scripts.embedded_model.prints import inks, new_symbol
from scripts.embedded_model.relief import shaped
from scripts.embedded_model.surfaces import Surface
from scripts.embedded_model.symbols import Rng, draw_symbology
from scripts.embedded_model.textures import patterns
from scripts.embedded_model.textures.backdrops import backdrop, lookalike, receding, vista
from scripts.embedded_model.textures.paint import flat, surface_color

_ASPECTS = (1.0, 1.0, 4 / 3, 3 / 4, 4 / 3, 3 / 4, 16 / 9, 9 / 16, 3 / 2, 2 / 3, 2.6)
_MIN_SIDE = 96
_MIN_CROP = 32
_SINGLE_SIZES = (0.14, 0.7)
_FINE_CLASSES = (0, 3)
_FINE_GAIN = 1.8
_WHOLE_SHARE = 0.72


def draw_size(rng: Rng) -> tuple[int, int]:
    """(width, height) of a picture: mostly 640 on the long side, some thumbnails."""
    kind = rng.random()
    long_side = 640 if kind < 0.6 else int(rng.integers(360, 640)) if kind < 0.8 else int(rng.integers(130, 360))
    aspect = _ASPECTS[int(rng.integers(len(_ASPECTS)))] * rng.uniform(0.93, 1.07)
    short_side = max(_MIN_SIDE, round(long_side / max(aspect, 1 / aspect)))
    return (long_side, short_side) if aspect >= 1 else (short_side, long_side)


def _spot(rng: Rng, canvas: Canvas, spread: float) -> tuple[float, float]:
    x, y = rng.uniform(0.5 - spread, 0.5 + spread, 2) * canvas.size
    return float(x), float(y)


def _ground(canvas: Canvas, spot: tuple[float, float], extent: float) -> float:
    """Mean grey level of the square of side `extent` about a spot (of the whole picture if that lies outside)."""
    x, y, reach = int(spot[0]), int(spot[1]), max(2, int(extent / 2))
    patch = canvas.image[max(y - reach, 0) : max(y + reach, 0), max(x - reach, 0) : max(x + reach, 0)]
    return float((patch if patch.size else canvas.image).mean())


def _put(rng: Rng, canvas: Canvas, surface: Surface, pose: geometry.Pose, spot: tuple[float, float]) -> bool:
    """Paste a surface, at times with the shadow that a thing with some thickness throws (a mark throws none)."""
    solid = surface.alpha.mean() > 128
    before = canvas.image.copy() if solid and rng.random() < 0.35 else None
    if before is not None:
        matrix = geometry.homography(pose, surface.size, spot)
        border = geometry.transform(geometry.rectangle_outline(0, 0, *surface.size), matrix)
        reach = max(canvas.size) * rng.uniform(0.005, 0.03)
        canvas.cast_shadow(
            border, tuple(rng.uniform(-reach, reach, 2)), rng.uniform(1, 2 * reach), rng.uniform(0.2, 0.7)
        )
    pasted = canvas.paste(rng, surface, pose, spot)
    if before is not None and not pasted:
        canvas.image = before
    return pasted


def _label(rng: Rng, long_side: float) -> Surface:
    """A label with a code about `long_side` pixels long; bars and rows, which are finer, come out longer."""
    symbology = draw_symbology(rng)
    if symbology.class_id in _FINE_CLASSES:
        long_side *= _FINE_GAIN
    return labels.label(rng, long_side, new_symbol(rng, symbology, long_side))


def _fill_closeup(rng: Rng, canvas: Canvas) -> None:
    """One code that fills much of the picture, sometimes running out of it."""
    strength = 0.0 if rng.random() < 0.3 else 0.9
    for attempt in range(12):
        room = max(canvas.size) if rng.random() < 0.5 else min(canvas.size) * rng.uniform(1.0, 1.3)
        surface = _label(rng, room * rng.uniform(0.55, 1.15) * 0.92**attempt)
        paper = surface.texture[0, 0].copy()
        surface = shaped(rng, surface)
        spread_paper = rng.random() < 0.55
        before = canvas.image
        if spread_paper:
            canvas.image = np.full_like(before, paper)
        pose, spot = geometry.draw_pose(rng, strength), _spot(rng, canvas, 0.12)
        if canvas.paste(rng, surface, pose, spot, lit=not spread_paper):
            return
        canvas.image = before


def _fill_single(rng: Rng, canvas: Canvas) -> None:
    """One label, mark or small thing with a code on a desk, a floor or in a room: the everyday phone picture."""
    reach = max(canvas.size)
    low, high = np.log(_SINGLE_SIZES)
    for _ in range(5):
        long_side = reach * float(np.exp(rng.uniform(low, high)))
        kind, spot = rng.random(), _spot(rng, canvas, 0.3)
        if kind < 0.55:
            surface = _label(rng, long_side)
        elif kind < 0.7:
            surface = labels.direct_mark(rng, long_side, _ground(canvas, spot, long_side))
        else:
            width, height = (long_side * rng.uniform(0.8, 2.0, 2)).astype(int).tolist()
            surface = goods.big_surface(rng, max(width, 80), max(height, 80))
        if _put(rng, canvas, shaped(rng, surface), geometry.draw_pose(rng, 1.0), spot):
            break
    _fill_scraps(rng, canvas, int(rng.integers(0, 3)))


def _fill_big(rng: Rng, canvas: Canvas) -> None:
    """One large sheet, pack, parcel, shelf, screen or roll, with small labels around it."""
    for _ in range(5):
        width, height = (np.array(canvas.size) * rng.uniform(0.45, 1.25, 2)).astype(int).tolist()
        pose = geometry.draw_pose(rng, float(rng.choice([0.0, 1.0], p=[0.2, 0.8])))
        if _put(rng, canvas, shaped(rng, goods.big_surface(rng, width, height)), pose, _spot(rng, canvas, 0.2)):
            break
    _fill_scattered(rng, canvas, int(rng.integers(0, 3)))


def _fill_scattered(rng: Rng, canvas: Canvas, count: int) -> None:
    """Several separate labels, marks and code-free scraps."""
    reach = max(canvas.size)
    largest = rng.uniform(0.1, 0.5)
    for _ in range(count):
        long_side = reach * float(np.exp(rng.uniform(np.log(0.045), np.log(largest))))
        kind, spot = rng.random(), _spot(rng, canvas, 0.5)
        if kind < 0.64:
            surface = _label(rng, long_side)
        elif kind < 0.82:
            surface = labels.direct_mark(rng, long_side, _ground(canvas, spot, long_side))
        else:
            surface = _random_scrap(rng, canvas)
        _put(rng, canvas, shaped(rng, surface), geometry.draw_pose(rng, 1.0), spot)


def _random_scrap(rng: Rng, canvas: Canvas) -> Surface:
    width, height = (max(canvas.size) * np.exp(rng.uniform(np.log(0.08), np.log(0.7), 2))).astype(int).tolist()
    return papers.scrap(rng, max(width, 16), max(height, 16))


def _fill_scraps(rng: Rng, canvas: Canvas, count: int) -> None:
    for _ in range(count):
        surface = shaped(rng, _random_scrap(rng, canvas))
        _put(rng, canvas, surface, geometry.draw_pose(rng, 1.0), _spot(rng, canvas, 0.5))


def _without_codes(rng: Rng, width: int, height: int) -> Canvas:
    """An ordinary photograph, a printed page, a hard pattern that fills the picture, or a desk full of scraps."""
    kind = rng.random()
    if kind < 0.4:
        return Canvas(vista(rng, height, width))
    if kind < 0.68:
        image = patterns.page(rng, height, width) if kind < 0.46 else lookalike(rng, height, width)
        return Canvas(receding(rng, image) if rng.random() < 0.5 else image)
    canvas = Canvas(backdrop(rng, height, width))
    _fill_scraps(rng, canvas, int(rng.integers(0, 6)))
    return canvas


def encoder_picture(rng: Rng) -> Canvas:
    """A code as a program wrote or a scanner cropped it: alone, upright or nearly so, tight or with a margin."""
    while True:
        paper, ink = inks(rng) if rng.random() < 0.4 else ((255, 255, 255), (0, 0, 0))
        surface = labels.bare_print(rng, float(np.exp(rng.uniform(np.log(60), np.log(600)))), paper, ink)
        pad = int(rng.integers(0, 30)) if rng.random() < 0.4 else 0
        width, height = (max(side + 2 * pad, _MIN_CROP) for side in surface.size)
        quarters, tilt = (0, 0.0) if rng.random() < 0.7 else (int(rng.integers(4)), rng.normal(0, 3))
        if quarters % 2:
            width, height = height, width
        canvas = Canvas(flat(height, width, paper if rng.random() < 0.7 else surface_color(rng)))
        pose = geometry.Pose(90.0 * quarters + tilt, 0.0, 0.0, 2.0)
        if canvas.paste(rng, surface, pose, (width / 2, height / 2), lit=False):
            return canvas


def arranged(rng: Rng) -> Canvas:
    """A random scene of any kind, as it lies there before the camera."""
    width, height = draw_size(rng)
    kind = rng.random()
    if kind < 0.18:
        return _without_codes(rng, width, height)
    canvas = Canvas(backdrop(rng, height, width), whole=rng.random() < _WHOLE_SHARE)
    if kind < 0.43:
        _fill_closeup(rng, canvas)
    elif kind < 0.67:
        _fill_single(rng, canvas)
    elif kind < 0.84:
        _fill_big(rng, canvas)
    else:
        _fill_scattered(rng, canvas, int(rng.integers(3, 14)))
    return canvas

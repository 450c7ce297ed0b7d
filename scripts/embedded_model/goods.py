"""Things to buy, carry and look at: packs with artwork, parcels, screens."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from scripts.embedded_model.labels import label, label_roll
from scripts.embedded_model.papers import sheet, shelf_ticket
from scripts.embedded_model.surfaces import PlacedCode, Surface, opaque, shifted
from scripts.embedded_model.symbols import Rng
from scripts.embedded_model.textures import materials
from scripts.embedded_model.textures.backdrops import backdrop
from scripts.embedded_model.textures.fields import Bgr
from scripts.embedded_model.textures.lettering import write_block, write_line
from scripts.embedded_model.textures.paint import add_field, flat, random_color, surface_color


def _artwork(rng: Rng, height: int, width: int) -> Bgr:
    """Front or back of a pack: a picture or plain fields of colour, names and small print."""
    if rng.random() < 0.5:
        image = backdrop(rng, height, width)
    else:
        image = materials.plain(rng, height, width)
        for _ in range(int(rng.integers(1, 5))):
            left, top = (rng.uniform(-0.2, 0.8, 2) * (width, height)).astype(int).tolist()
            right, bottom = left + int(width * rng.uniform(0.2, 1.2)), top + int(height * rng.uniform(0.1, 0.6))
            cv2.rectangle(image, (left, top), (right, bottom), random_color(rng), -1)
    for _ in range(int(rng.integers(1, 6))):
        size = max(6, round(height * float(np.exp(rng.uniform(np.log(0.02), np.log(0.22))))))
        x, y = int(rng.integers(0, width)), int(rng.integers(0, height))
        write_line(rng, image, x - width // 4, y, size, random_color(rng))
    if rng.random() < 0.6:
        left, top = (rng.uniform(0, 0.5, 2) * (width, height)).astype(int).tolist()
        box = (left, top, left + width // 2, top + int(height * rng.uniform(0.1, 0.5)))
        write_block(rng, image, box, max(5, height // int(rng.integers(25, 60))), random_color(rng))
    return image


def _place(rng: Rng, image: Bgr, spot: Surface, codes: list[PlacedCode]) -> None:
    """Put a label somewhere on the picture in place, unless it does not fit or would touch another code."""
    room_x, room_y = image.shape[1] - spot.size[0], image.shape[0] - spot.size[1]
    if room_x < 0 or room_y < 0:
        return
    left, top = int(rng.integers(0, room_x + 1)), int(rng.integers(0, room_y + 1))
    right, bottom = left + spot.size[0], top + spot.size[1]
    if any(_touches(code, (left, top, right, bottom)) for code in codes):
        return
    image[top:bottom, left:right] = spot.texture
    codes += shifted(spot.codes, left, top)


def _touches(code: PlacedCode, box: tuple[int, int, int, int]) -> bool:
    (x0, y0), (x1, y1) = code.outline.min(axis=0), code.outline.max(axis=0)
    return bool(x0 < box[2] and x1 > box[0] and y0 < box[3] and y1 > box[1])


def pack(rng: Rng, width: int, height: int) -> Surface:
    """Product packaging: artwork with one or two codes in clear fields."""
    image = _artwork(rng, height, width)
    codes: list[PlacedCode] = []
    for _ in range(int(rng.integers(1, 3))):
        _place(rng, image, label(rng, min(width, height) * rng.uniform(0.18, 0.8)), codes)
    return opaque(image, codes, glossy=rng.random() < 0.5)


def parcel(rng: Rng, width: int, height: int) -> Surface:
    """Side of a box or bag with a label or two stuck on."""
    image = materials.cardboard(rng, height, width) if rng.random() < 0.6 else materials.plain(rng, height, width)
    codes: list[PlacedCode] = []
    inner = (rng.uniform(0.4, 0.9, 2) * (width, height)).astype(int).tolist()
    if min(inner) > 60:
        _place(rng, image, sheet(rng, *inner), codes)
    _place(rng, image, label(rng, min(width, height) * rng.uniform(0.15, 0.5)), codes)
    return opaque(image, codes, glossy=rng.random() < 0.2)


def shelf_edge(rng: Rng, width: int, height: int) -> Surface:
    """Rail of a shop shelf with price labels, goods above."""
    rail = min(max(40, int(height * rng.uniform(0.25, 0.6))), height)
    image = _artwork(rng, height, width)
    image[height - rail :] = surface_color(rng, 90, 240)
    codes: list[PlacedCode] = []
    left = int(rng.integers(3, 30))
    while left < width - 40:
        wide = max(int(rail * rng.uniform(0.9, 1.8)), 1)
        if left + wide > width:
            break
        spot = shelf_ticket(rng, wide, max(int(rail * 0.85), 1))
        top = height - rail + int(rail * 0.07)
        image[top : top + spot.size[1], left : left + wide] = spot.texture
        codes += shifted(spot.codes, left, top)
        left += wide + int(rng.integers(2, 60))
    return opaque(image, codes)


def screen(rng: Rng, width: int, height: int) -> Surface:
    """Phone or monitor: an app page with a code inside a bezel, with pixel raster and moire."""
    inner = sheet(rng, width, height)
    bezel = max(2, round(min(width, height) * rng.uniform(0.02, 0.08)))
    frame = flat(height + 2 * bezel, width + 2 * bezel, random_color(rng, 0, 60))
    raster = inner.texture.astype(np.float32)
    raster[:: int(rng.integers(2, 4))] *= rng.uniform(0.82, 1.0)
    raster[:, :: int(rng.integers(2, 4))] *= rng.uniform(0.82, 1.0)
    shown = raster.astype(np.uint8)
    frame[bezel : bezel + height, bezel : bezel + width] = _moire(rng, shown) if rng.random() < 0.5 else shown
    return opaque(frame, shifted(inner.codes, bezel, bezel), glossy=rng.random() < 0.6)


def _moire(rng: Rng, image: Bgr) -> Bgr:
    """Coloured beats between the pixels of a screen and those of a sensor, bowed by the view."""
    height, width = image.shape[:2]
    turn, period = rng.uniform(0, np.pi), rng.uniform(5, 60)
    yy, xx = np.mgrid[0:height, 0:width].astype(np.float32)
    phase = (xx * np.float32(np.cos(turn)) + yy * np.float32(np.sin(turn))) * np.float32(2 * np.pi / period)
    phase += np.float32(rng.uniform(0, 5)) * ((xx / width - 0.5) ** 2 + (yy / height - 0.5) ** 2)
    strength = np.float32(rng.uniform(4, 26))
    beats = [np.sin(phase + np.float32(shift)) * strength for shift in rng.uniform(0, 2.5, 3)]
    if rng.random() < 0.3:
        bands = np.sin(np.linspace(0, rng.uniform(6, 40), height, dtype=np.float32))[:, None]
        image = add_field(image, np.repeat(bands, width, 1), rng.uniform(5, 35))
    return cv2.add(image, cv2.merge(beats), dtype=cv2.CV_8U)


BIG_SURFACES: tuple[Callable[[Rng, int, int], Surface], ...] = (sheet, pack, parcel, screen, label_roll, shelf_edge)
BIG_WEIGHTS = (0.30, 0.24, 0.14, 0.14, 0.10, 0.08)


def big_surface(rng: Rng, width: int, height: int) -> Surface:
    """One of `BIG_SURFACES` by `BIG_WEIGHTS`."""
    return BIG_SURFACES[int(rng.choice(len(BIG_SURFACES), p=BIG_WEIGHTS))](rng, width, height)

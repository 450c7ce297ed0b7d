"""The example pictures of the repository, drawn with seeds that no data set uses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from scripts.embedded_model import prints
from scripts.embedded_model.camera.light import shade
from scripts.embedded_model.camera.sensor import sensor_noise
from scripts.embedded_model.canvas import Canvas
from scripts.embedded_model.geometry import Pose
from scripts.embedded_model.payloads import Payload, digits, prose
from scripts.embedded_model.relief import bend
from scripts.embedded_model.surfaces import PlacedCode, Surface, opaque
from scripts.embedded_model.symbols import SYMBOLOGIES, Rng, Symbol, write_symbol
from scripts.embedded_model.textures import materials, patterns
from scripts.embedded_model.textures.fields import Bgr
from scripts.embedded_model.textures.lettering import write_block, write_line
from scripts.embedded_model.textures.paint import flat

SAMPLE_SEED = 90_000
_MAX_BYTES = 240_000
_BENT_SHARE = 0.16
# Plain texts instead of those of the training pictures, so that these pictures stay what they are.
_TEXTS: dict[str, Payload] = {
    "EAN13": digits(12),
    "UPCA": digits(11),
    "Code128": prose(3, 24),
    "QRCode": prose(4, 260),
    "DataMatrix": prose(3, 180),
    "AztecCode": prose(4, 240),
}


def _symbol(rng: Rng, name: str) -> Symbol:
    symbology = next(s for s in SYMBOLOGIES if s.name == name)
    return write_symbol(rng, replace(symbology, payload=_TEXTS.get(name, symbology.payload)))


def _finish(rng: Rng, canvas: Canvas) -> Bgr:
    """A decent phone picture: soft light and a little noise."""
    return sensor_noise(rng, shade(rng, canvas.image))


def _paste(rng: Rng, canvas: Canvas, surface: Surface, pose: Pose, center: tuple[float, float]) -> None:
    canvas.paste(rng, bend(rng, surface) if rng.random() < _BENT_SHARE else surface, pose, center)


def _place(rng: Rng, image: Bgr, name: str, spot: tuple[int, int], side: int) -> PlacedCode:
    code = prints.print_code(rng, _symbol(rng, name), side, plain=True)
    return prints.stamp_code(image, code, *spot, (25, 22, 20))


def parcel(rng: Rng) -> Bgr:
    """Shipping label with four kinds of codes on a cardboard box."""
    canvas = Canvas(materials.speckle(rng, 960, 1280))
    canvas.image[:] = cv2.addWeighted(canvas.image, 0.25, flat(960, 1280, (105, 150, 190)), 0.75, 0)
    paper = flat(760, 900, (246, 247, 247))
    codes = [
        _place(rng, paper, "Code128", (60, 470), 620),
        _place(rng, paper, "DataMatrix", (700, 60), 150),
        _place(rng, paper, "QRCode", (60, 60), 190),
        _place(rng, paper, "PDF417", (300, 250), 460),
    ]
    write_block(rng, paper, (290, 60, 660, 220), 24, (40, 40, 40))
    _paste(rng, canvas, opaque(paper, codes), Pose(-5, 14, -12, 2.0), (640, 480))
    return _finish(rng, canvas)


def shelf(rng: Rng) -> Bgr:
    """Packets side by side, each with its retail code."""
    canvas = Canvas(materials.wood(rng, 800, 1280))
    for i, name in enumerate(("EAN13", "UPCA", "EAN8", "DataBarExpStk")):
        pack = materials.clouds(rng, 420, 270)
        write_line(rng, pack, 18, 30, 34, (250, 250, 250))
        write_line(rng, pack, 18, 84, 20, (250, 250, 250))
        pack[190:390, 25:245] = 250
        code = _place(rng, pack, name, (50, 215), 165)
        pose = Pose(float(rng.normal(0, 3)), float(rng.normal(0, 8)), float(rng.normal(0, 14)), 2.0)
        _paste(rng, canvas, opaque(pack, [code]), pose, (175 + 310 * i, 410))
    return _finish(rng, canvas)


def ticket(rng: Rng) -> Bgr:
    """Boarding pass with an Aztec and a PDF417 code on cloth."""
    canvas = Canvas(patterns.weave(rng, 720, 1080))
    paper = flat(380, 900, (238, 240, 240))
    codes = [_place(rng, paper, "AztecCode", (690, 60), 170), _place(rng, paper, "PDF417", (40, 190), 520)]
    write_block(rng, paper, (40, 20, 600, 160), 26, (70, 40, 20))
    _paste(rng, canvas, opaque(paper, codes), Pose(8, -16, 10, 2.0), (540, 360))
    return _finish(rng, canvas)


def screen(rng: Rng) -> Bgr:
    """Phone on a desk that shows a payment QR code."""
    canvas = Canvas(materials.wood(rng, 960, 960))
    face = flat(760, 400, (30, 26, 24))
    face[20:740, 16:384] = (250, 248, 246)
    code = _place(rng, face, "QRCode", (75, 190), 250)
    write_block(rng, face, (40, 60, 360, 160), 26, (60, 50, 40))
    write_block(rng, face, (40, 500, 360, 700), 18, (120, 110, 100))
    _paste(rng, canvas, opaque(face, [code]), Pose(-14, 20, 8, 1.8), (480, 480))
    return _finish(rng, canvas)


def negative(rng: Rng) -> Bgr:
    """Desk with charts, keys, crosswords and cloth, and not one code."""
    canvas = Canvas(materials.wood(rng, 800, 1200))
    makers: tuple[Callable[[Rng, int, int], Bgr], ...] = (
        patterns.keyboard,
        patterns.bar_chart,
        patterns.crossword,
        patterns.table,
        patterns.stripes,
        patterns.checker,
    )
    for i, maker in enumerate(makers):
        center = (210 + 390 * (i % 3), 220 + 370 * (i // 3))
        pose = Pose(float(rng.normal(0, 6)), float(rng.normal(0, 8)), float(rng.normal(0, 8)), 2.0)
        _paste(rng, canvas, opaque(maker(rng, 290, 320), []), pose, center)
    return _finish(rng, canvas)


SAMPLES: tuple[Callable[[Rng], Bgr], ...] = (parcel, shelf, ticket, screen, negative)


def write_samples(folder: Path) -> list[Path]:
    """Write every sample as `<name>.jpg` of at most 240 kB; returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, draw in enumerate(SAMPLES):
        image = draw(np.random.default_rng([SAMPLE_SEED, number]))
        path = folder / f"{draw.__name__}.jpg"
        path.write_bytes(_encode_below(image, _MAX_BYTES))
        paths.append(path)
    return paths


def _encode_below(image: Bgr, limit: int) -> bytes:
    for quality in range(92, 20, -6):
        data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
        if len(data) <= limit:
            return data
    raise ValueError(f"picture of {image.shape} does not fit {limit} bytes")

"""Lines and blocks of lettering in fonts that ship with matplotlib."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from scripts.embedded_model.textures.fields import Bgr, Gray, Rng
from scripts.embedded_model.textures.paint import Color, stamp

_STRIP_SEED = 7
_STRIP_COUNT = 360
_STRIP_HEIGHT = 40
_FACES = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSerif",
    "DejaVuSansMono",
    "DejaVuSansMono-Bold",
    "STIXGeneral",
)
_SYLLABLES = (
    "ka", "ro", "mi", "ten", "sol", "var", "de", "lu",
    "pra", "nor", "ist", "el", "bo", "can", "dra", "fi",
    "gu", "hal", "ing", "jo", "kle", "mor", "nue", "op",
    "pil", "qua", "ri", "sta", "to", "ur", "ve",
)  # fmt: skip


def random_words(rng: Rng) -> str:
    """A short line of invented words, numbers or codes."""
    kind = rng.random()
    if kind < 0.25:
        return "".join(str(int(d)) for d in rng.integers(0, 10, int(rng.integers(3, 14))))
    words = []
    for _ in range(int(rng.integers(1, 5))):
        word = "".join(_SYLLABLES[int(i)] for i in rng.integers(0, len(_SYLLABLES), int(rng.integers(1, 4))))
        words.append(word.upper() if kind < 0.5 else word.capitalize() if kind < 0.7 else word)
    if kind > 0.9:
        words.append(f"{int(rng.integers(1, 9999))},{int(rng.integers(0, 99)):02d}")
    return " ".join(words)


def text_mask(text: str, face: str, height: int) -> Gray:
    """Coverage HxW (255 = ink) of one line of text in a font that ships with matplotlib."""
    font = ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf" / f"{face}.ttf"), height)
    left, top, right, bottom = font.getbbox(text)
    canvas = Image.new("L", (max(1, int(right - left) + 2), max(1, int(bottom - top) + 2)))
    ImageDraw.Draw(canvas).text((1 - left, 1 - top), text, fill=255, font=font)
    return np.array(canvas)


@lru_cache(maxsize=1)
def _strips() -> tuple[Gray, ...]:
    rng = np.random.default_rng(_STRIP_SEED)
    return tuple(
        text_mask(random_words(rng), _FACES[int(rng.integers(len(_FACES)))], _STRIP_HEIGHT) for _ in range(_STRIP_COUNT)
    )


def write_line(rng: Rng, image: Bgr, left: int, top: int, height: int, color: Color) -> int:
    """Write a random line of the given pixel height; returns its width in pixels."""
    strip = _strips()[int(rng.integers(_STRIP_COUNT))]
    width: int = max(1, round(strip.shape[1] * height / strip.shape[0]))
    stamp(image, cv2.resize(strip, (width, max(1, height)), interpolation=cv2.INTER_AREA), left, top, color)
    return width


def write_block(rng: Rng, image: Bgr, box: tuple[int, int, int, int], size: int, color: Color) -> None:
    """Fill the pixel box (x0, y0, x1, y1) with lines of text `size` pixels high."""
    x0, y0, x1, y1 = box
    if x1 - x0 < 4 or y1 - y0 < size:
        return
    region = image[y0:y1, x0:x1]
    pitch = max(size + 1, round(size * rng.uniform(1.2, 1.9)))
    for top in range(0, y1 - y0 - size, pitch):
        left, end = 0, (x1 - x0) * rng.uniform(0.4, 1.0)
        while left < end:
            left += write_line(rng, region, left, top, size, color) + size // 2

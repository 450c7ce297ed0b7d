"""Fields, text and look-alike patterns that fill the pictures around the codes.

Every function takes the generator first and returns BGR uint8 (or the stated single-channel field).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

Rng = np.random.Generator
Bgr = npt.NDArray[Any]
Gray = npt.NDArray[Any]
Field = npt.NDArray[Any]
Color = tuple[int, int, int]

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


def soft_field(rng: Rng, height: int, width: int, cells: int) -> Field:
    """Smooth random field HxW in about [-1, 1] with `cells` bumps along each side."""
    grid = rng.uniform(-1, 1, (cells + 1, cells + 1)).astype(np.float32)
    return cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)


@lru_cache(maxsize=1)
def _noise_bank() -> Field:
    return np.random.default_rng(11).standard_normal((1536, 1536)).astype(np.float32)


def noise_field(rng: Rng, height: int, width: int) -> Field:
    """Unit-variance white noise HxW: a random window of one fixed sheet, for speed."""
    sheet = _noise_bank()
    top = int(rng.integers(0, sheet.shape[0] - min(height, 1400)))
    left = int(rng.integers(0, sheet.shape[1] - min(width, 1400)))
    window = sheet[top : top + height, left : left + width]
    if window.shape != (height, width):
        window = cv2.resize(window, (width, height), interpolation=cv2.INTER_NEAREST)
    return window


def random_color(rng: Rng, low: int = 0, high: int = 256) -> Color:
    """Random BGR colour with channels in [low, high); two in three are muted, as most real surfaces are."""
    channels = rng.integers(low, high, 3).astype(np.float64)
    if rng.random() < 0.67:
        channels = channels.mean() + (channels - channels.mean()) * rng.uniform(0, 0.45)
    blue, green, red = (int(v) for v in channels)
    return blue, green, red


def flat(height: int, width: int, color: Color) -> Bgr:
    """HxW picture of one BGR colour."""
    return np.full((height, width, 3), color, np.uint8)


def add_field(image: Bgr, field: Field, amount: float) -> Bgr:
    """Add a single-channel field times `amount` grey levels to a BGR picture."""
    return cv2.add(image, cv2.merge([field * amount] * 3), dtype=cv2.CV_8U)


# --- text -------------------------------------------------------------------------------------------


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


def stamp(image: Bgr, mask: Gray, left: int, top: int, color: Color) -> None:
    """Paint `mask` (255 = opaque) in `color` onto `image` in place, clipped at the border."""
    height, width = image.shape[:2]
    x0, y0 = max(left, 0), max(top, 0)
    x1, y1 = min(left + mask.shape[1], width), min(top + mask.shape[0], height)
    if x1 <= x0 or y1 <= y0:
        return
    cover = mask[y0 - top : y1 - top, x0 - left : x1 - left, None].astype(np.float32) / 255
    region = image[y0:y1, x0:x1]
    region[:] = (region * (1 - cover) + np.array(color, np.float32) * cover).astype(np.uint8)


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


# --- look-alikes ------------------------------------------------------------------------------------


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


def lookalike(rng: Rng, height: int, width: int) -> Bgr:
    """One of `LOOKALIKES` at random."""
    return LOOKALIKES[int(rng.integers(len(LOOKALIKES)))](rng, height, width)


# --- backgrounds ------------------------------------------------------------------------------------


def clouds(rng: Rng, height: int, width: int) -> Bgr:
    """Out-of-focus surroundings: three independent soft colour fields over several octaves."""
    channels = []
    for _ in range(3):
        field = sum(soft_field(rng, height, width, 2**k) / 1.6**k for k in range(1, int(rng.integers(3, 7))))
        channels.append(np.clip(rng.uniform(50, 205) + 70 * np.asarray(field), 0, 255))
    share = rng.uniform(0.5, 0.95)
    return cv2.merge([(share * channels[0] + (1 - share) * c).astype(np.uint8) for c in channels])


def wood(rng: Rng, height: int, width: int) -> Bgr:
    """Wood or brushed metal: noise stretched along one axis."""
    base = np.array(random_color(rng, 60, 200)) if rng.random() < 0.4 else np.array([70, 110, 160])
    narrow = noise_field(rng, height, max(8, width // 40))
    grain = cv2.GaussianBlur(cv2.resize(narrow, (width, height), interpolation=cv2.INTER_CUBIC), (0, 0), 0.8)
    image = add_field(flat(height, width, tuple(base.tolist())), grain, rng.uniform(5, 25))
    image = add_field(image, soft_field(rng, height, width, 3), 25)
    return image if rng.random() < 0.5 else np.ascontiguousarray(cv2.resize(cv2.rotate(image, 0), (width, height)))


def speckle(rng: Rng, height: int, width: int) -> Bgr:
    """Stone, carpet, cardboard or grass: noise blurred to a random grain."""
    grain = cv2.GaussianBlur(noise_field(rng, height, width), (0, 0), float(rng.uniform(0.5, 4)))
    grain = grain / (grain.std() + 1e-6)
    image = add_field(flat(height, width, random_color(rng, 40, 215)), grain, rng.uniform(4, 40))
    return add_field(image, soft_field(rng, height, width, 3), rng.uniform(5, 40))


def clutter(rng: Rng, height: int, width: int) -> Bgr:
    """Heap of shaded boxes, discs and text-bearing scraps on a soft background."""
    image = clouds(rng, height, width)
    for _ in range(int(rng.integers(4, 26))):
        size = float(np.exp(rng.uniform(np.log(0.04), np.log(0.5)))) * max(height, width)
        center = rng.uniform(0, 1, 2) * (width, height)
        color, kind = random_color(rng), rng.random()
        box = cv2.boxPoints((tuple(center.tolist()), (size, size * rng.uniform(0.2, 1)), rng.uniform(0, 180)))
        if kind < 0.5:
            cv2.fillConvexPoly(image, box.astype(np.int32), color, cv2.LINE_AA)
            if rng.random() < 0.5:
                cv2.polylines(image, [box.astype(np.int32)], True, random_color(rng), 1 + int(size / 60))
        elif kind < 0.75:
            axes = (int(size / 2) + 1, int(size * rng.uniform(0.1, 0.5)) + 1)
            cv2.ellipse(image, center.astype(int).tolist(), axes, rng.uniform(0, 180), 0, 360, color, -1, cv2.LINE_AA)
        else:
            x, y = center.astype(int)
            write_block(rng, image, (x, y, x + int(size), y + int(size / 2)), max(5, int(size / 9)), color)
    return image


def background(rng: Rng, height: int, width: int) -> Bgr:
    """Random surroundings HxW BGR."""
    kind = rng.random()
    if kind < 0.12:
        return add_field(flat(height, width, random_color(rng)), soft_field(rng, height, width, 2), rng.uniform(0, 50))
    if kind < 0.30:
        return clouds(rng, height, width)
    if kind < 0.42:
        return wood(rng, height, width)
    if kind < 0.57:
        return speckle(rng, height, width)
    if kind < 0.85:
        return clutter(rng, height, width)
    return lookalike(rng, height, width)

"""What printers and time do to the ink of a code: coverage in, coverage out (HxW uint8, 255 = ink).

Ink only ever changes inside the rectangle of the code, so that the true box stays what it is.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from scripts.embedded_model.symbols import Gray, Rng
from scripts.embedded_model.textures.fields import fractal_field, noise_field, soft_field


def _streaks(rng: Rng, ink: Gray) -> Gray:
    """Dead dots of a thermal head: thin lines without ink along one direction."""
    worn = ink.copy()
    lines = worn if rng.random() < 0.5 else worn.T
    thick = max(1, round(lines.shape[0] * rng.uniform(0.005, 0.03)))
    for _ in range(int(rng.integers(1, 6))):
        top = int(rng.integers(lines.shape[0]))
        lines[top : top + thick] = (lines[top : top + thick] * np.float32(rng.uniform(0, 0.5))).astype(np.uint8)
    return worn


def _fading(rng: Rng, ink: Gray) -> Gray:
    """Pale in places: low heat, an empty ribbon, sun."""
    low = rng.uniform(0.2, 0.7)
    height, width = ink.shape
    share = low + (1 - low) * (0.5 + 0.5 * soft_field(rng, height, width, int(rng.integers(1, 4))))
    faded: Gray = (ink * np.clip(share, 0.1, 1)).astype(np.uint8)
    return faded


def _flakes(rng: Rng, ink: Gray) -> Gray:
    """Ink that has come off in specks and patches."""
    height, width = ink.shape
    field = fractal_field(rng, height, width, 0.6 if rng.random() < 0.5 else 1.0)
    return np.where(field > rng.uniform(1.1, 2.2), 0, ink).astype(np.uint8)


def _rough_edges(rng: Rng, ink: Gray) -> Gray:
    """Bleeding on coarse paper or board: edges follow the grain."""
    soft = cv2.GaussianBlur(ink, (0, 0), 1.0 + 0.004 * max(ink.shape)).astype(np.float32)
    rough = soft + noise_field(rng, *ink.shape) * rng.uniform(15, 60) - rng.uniform(80, 150)
    return np.clip(rough * 4, 0, 255).astype(np.uint8)


def _raster(rng: Rng, ink: Gray) -> Gray:
    """Rows of an ink-jet or matrix printer with paper showing between them."""
    pitch, floor = int(rng.integers(2, 7)), rng.uniform(0.1, 0.8)
    share = np.full(ink.shape, 1.0, np.float32)
    rows = share if rng.random() < 0.6 else share.T
    rows[:: max(pitch, 2)] = floor
    if rng.random() < 0.4:
        rows.T[::pitch] *= np.float32(floor)
    return (ink * share).astype(np.uint8)


def _screened(rng: Rng, ink: Gray) -> Gray:
    """Grey or coloured ink printed as a halftone of small dots at a slant."""
    pitch, turn = rng.uniform(2.2, 5), rng.uniform(0, np.pi / 2)
    yy, xx = np.mgrid[0 : ink.shape[0], 0 : ink.shape[1]].astype(np.float32)
    u, v = xx * np.cos(turn) + yy * np.sin(turn), yy * np.cos(turn) - xx * np.sin(turn)
    dots = np.cos(2 * np.pi * u / pitch) + np.cos(2 * np.pi * v / pitch) > rng.uniform(-1.4, -0.3)
    return np.where(dots, ink, ink // 4).astype(np.uint8)


def _scratches(rng: Rng, ink: Gray) -> Gray:
    """Scratches, creases and pen strokes across the code."""
    worn = ink.copy()
    for _ in range(int(rng.integers(1, 9))):
        start, end = (rng.uniform(-0.1, 1.1, (2, 2)) * ink.shape[::-1]).astype(int).tolist()
        value = 0 if rng.random() < 0.75 else 255
        cv2.line(worn, start, end, value, max(1, round(max(ink.shape) * rng.uniform(0.001, 0.015))), cv2.LINE_AA)
    return worn


KINDS: tuple[Callable[[Rng, Gray], Gray], ...] = (
    _streaks, _fading, _fading, _flakes, _rough_edges, _rough_edges, _raster, _screened, _scratches,
)  # fmt: skip


def worn(rng: Rng, ink: Gray) -> Gray:
    """The same coverage with one random kind of wear."""
    return KINDS[int(rng.integers(len(KINDS)))](rng, ink)

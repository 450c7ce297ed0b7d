"""Random single-channel fields, the raw stuff of every texture."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Rng = np.random.Generator
Bgr = npt.NDArray[Any]
Gray = npt.NDArray[Any]
Field = npt.NDArray[Any]
Points = npt.NDArray[Any]

_SHEET_SIDE = 1024
_SLOPES = (0.6, 1.0, 1.5)


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


@lru_cache(maxsize=len(_SLOPES))
def _fractal_sheet(slope: float) -> Field:
    """Square sheet whose amplitude spectrum falls as 1 / frequency^slope (natural images: about 1)."""
    white = np.random.default_rng(13).standard_normal((_SHEET_SIDE, _SHEET_SIDE))
    frequency = np.hypot(np.fft.fftfreq(_SHEET_SIDE)[:, None], np.fft.rfftfreq(_SHEET_SIDE)[None])
    frequency[0, 0] = np.inf
    sheet: Field = np.fft.irfft2(np.fft.rfft2(white) / frequency**slope, s=white.shape)
    sheet /= sheet.std()
    return sheet.astype(np.float32)


def fractal_field(rng: Rng, height: int, width: int, slope: float = 1.0, stretch: float = 1.0) -> Field:
    """Scale-free field HxW of mean 0 and variance 1: a random window of one fixed sheet.

    `slope` is one of 0.6 (rough), 1.0 (natural) and 1.5 (cloudy); a `stretch` above 1 draws streaks along x,
    below 1 along y.
    """
    sheet = _fractal_sheet(slope)
    zoom = float(np.exp(rng.uniform(np.log(0.7), np.log(2.0))))
    rows = int(np.clip(height / zoom * min(stretch, 1.0), 8, _SHEET_SIDE))
    columns = int(np.clip(width / zoom / max(stretch, 1.0), 8, _SHEET_SIDE))
    top, left = int(rng.integers(0, _SHEET_SIDE - rows + 1)), int(rng.integers(0, _SHEET_SIDE - columns + 1))
    window = sheet[top : top + rows, left : left + columns]
    if rng.random() < 0.5:
        window = window[:, ::-1]
    field: Field = cv2.resize(window, (width, height), interpolation=cv2.INTER_LINEAR)
    mean, deviation = (np.float32(value[0, 0]) for value in cv2.meanStdDev(field))
    field -= mean
    field /= deviation + np.float32(1e-6)
    return field

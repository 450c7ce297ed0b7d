"""Symbol bitmap -> printed look: ink coverage at a chosen pixel size."""

from __future__ import annotations

import cv2
import numpy as np

from scripts.embedded_model.symbols import Gray, Rng, Symbol

_MODULE_PIXELS = 6
# Side of the finder patterns of a QR code, in modules.
_QR_FINDER = 7


def stretch_bars(rng: Rng, symbol: Symbol) -> Gray:
    """Modules of a linear code at a random bar height (a 1-D code may be cut to any height)."""
    modules = symbol.modules
    if not symbol.symbology.stretchable:
        return modules
    height, width = modules.shape
    wanted = max(4, round(width * float(np.exp(rng.uniform(np.log(0.12), np.log(0.85))))))
    rows = np.minimum(np.arange(wanted) * height // wanted, height - 1)
    return np.ascontiguousarray(modules[rows])


def row_height(rng: Rng, symbol: Symbol) -> float:
    """Random vertical-to-horizontal module ratio of multi-row symbologies."""
    return float(rng.uniform(0.7, 1.5)) if symbol.symbology.class_id == 3 else 1.0


def render(rng: Rng, modules: Gray, width: int, height: int, plain: bool, finders: bool = False) -> Gray:
    """Ink coverage (255 = ink) of `modules` at height x width pixels, area-averaged.

    `plain` keeps crisp square modules; otherwise dots, rounded cells and ink gain may appear. `finders` says
    that the corners hold QR finder patterns, which such a style often leaves whole.
    """
    rows, columns = modules.shape
    scale = max(1, min(_MODULE_PIXELS, -(-2 * max(width, height) // max(rows, columns))))
    fancy = not plain and rng.random() < 0.3 and scale >= 3
    if fancy:
        scale = _MODULE_PIXELS
    big = cv2.resize(modules, (columns * scale, rows * scale), interpolation=cv2.INTER_NEAREST)
    if fancy:
        big = _stylise(rng, big, rows, columns, finders)
    shrink = width < big.shape[1]
    return cv2.resize(big, (width, height), interpolation=cv2.INTER_AREA if shrink else cv2.INTER_NEAREST)


def _stylise(rng: Rng, big: Gray, rows: int, columns: int, finders: bool) -> Gray:
    kind, cell = rng.random(), _MODULE_PIXELS
    square = 0.3 < rows / columns < 3 and rows < 80
    if kind < 0.35 and square:
        dot = np.zeros((cell, cell), np.uint8)
        cv2.circle(dot, (cell // 2, cell // 2), int(rng.integers(2, 4)), 255, -1)
        dots = cv2.bitwise_and(big, np.tile(dot, (rows, columns)))
        if finders and rng.random() < 0.7:
            _keep_finders(big, dots)
        return dots
    if kind < 0.5 and square:
        return np.where(cv2.GaussianBlur(big, (0, 0), 2.2) > 127, 255, 0).astype(np.uint8)
    size = int(rng.integers(2, 4))
    kernel = np.ones((size, size), np.uint8)
    return cv2.dilate(big, kernel) if kind < 0.8 else cv2.erode(big, kernel)


def _keep_finders(whole: Gray, styled: Gray) -> None:
    side = _QR_FINDER * _MODULE_PIXELS
    for part in (np.s_[:side, :side], np.s_[:side, -side:], np.s_[-side:, :side]):
        styled[part] = whole[part]

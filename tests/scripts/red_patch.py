"""A surface whose code can be found again by its colour, whatever was done to it."""

import numpy as np

from scripts.embedded_model import geometry, surfaces
from scripts.embedded_model.symbols import SYMBOLOGIES, write_symbol
from scripts.embedded_model.textures.paint import flat

PAPER, CODE, GROUND = (230, 0, 0), (0, 0, 230), (0, 230, 0)


def red_patch(width=300, height=220, box=(60, 40, 250, 170)):
    """Blue surface whose code is a plain red rectangle, so that light changes leave it apart."""
    left, top, right, bottom = box
    texture = flat(height, width, PAPER)
    texture[top:bottom, left:right] = CODE
    symbol = write_symbol(np.random.default_rng(0), next(s for s in SYMBOLOGIES if s.name == "DataMatrix"))
    outline = geometry.rectangle_outline(left, top, right - left, bottom - top)
    return surfaces.opaque(texture, [surfaces.PlacedCode(symbol, outline)])


def seen_box(image):
    """Hull of the red pixels, x0 y0 x1 y1."""
    rows, columns = np.nonzero(image[..., 2].astype(int) > 40 + image[..., :2].astype(int).max(axis=-1))
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1

"""A flat thing that may carry codes, before it is put into a picture."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

from scripts.embedded_model.geometry import Points
from scripts.embedded_model.symbols import Gray, Symbol
from scripts.embedded_model.textures.fields import Bgr


@dataclass(frozen=True)
class PlacedCode:
    """A code and its outline (Nx2, continuous pixels of the surface or picture that holds it)."""

    symbol: Symbol
    outline: Points


@dataclass
class Surface:
    """`texture` HxWx3 BGR, `alpha` HxW (255 = opaque), the codes printed on it, and whether it shines."""

    texture: Bgr
    alpha: Gray
    codes: list[PlacedCode] = field(default_factory=list)
    glossy: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.texture.shape[1], self.texture.shape[0]


def opaque(texture: Bgr, codes: list[PlacedCode], glossy: bool = False) -> Surface:
    """Surface without holes."""
    return Surface(texture, np.full(texture.shape[:2], 255, np.uint8), codes, glossy)


def shifted(codes: list[PlacedCode], left: float, top: float) -> list[PlacedCode]:
    """The same codes seen from a larger surface in which theirs begins at (left, top)."""
    return [PlacedCode(code.symbol, code.outline + np.array([left, top], np.float32)) for code in codes]


def padded(surface: Surface, margin_x: int, margin_y: int) -> Surface:
    """The same surface with transparent margins, in which it has room to move."""
    margins = (margin_y, margin_y, margin_x, margin_x)
    texture = cv2.copyMakeBorder(surface.texture, *margins, cv2.BORDER_REPLICATE)
    alpha = cv2.copyMakeBorder(surface.alpha, *margins, cv2.BORDER_CONSTANT, value=0)
    return Surface(texture, alpha, shifted(surface.codes, margin_x, margin_y), surface.glossy)

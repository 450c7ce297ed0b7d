"""A picture under construction that keeps the outlines of the codes in it."""

from __future__ import annotations

import cv2
import numpy as np

from scripts.embedded_model import geometry
from scripts.embedded_model.geometry import Points
from scripts.embedded_model.surfaces import PlacedCode, Surface
from scripts.embedded_model.symbols import Gray, Rng
from scripts.embedded_model.textures.fields import Bgr
from scripts.embedded_model.warps import Displacement

# A code cut by the border keeps its label if this share of it is left; a whole one may lack a rounding error.
_CUT, _WHOLE = 0.6, 0.999
_MIN_BOX_SIDE = 5.0
# Pixels a module below which a code of the class is a grey patch that nobody could tell from others.
_MIN_PITCH = (0.6, 1.1, 1.1, 0.7, 1.1)


class Canvas:
    """A picture under construction that keeps the outlines of the codes pasted so far.

    With `whole` it takes no code that would run out of the picture.
    """

    def __init__(self, image: Bgr, whole: bool = False) -> None:
        self.image = image
        self._least_visible = _WHOLE if whole else _CUT
        self.codes: list[PlacedCode] = []
        self.covered: Gray = np.zeros(image.shape[:2], np.uint8)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.image.shape[1], self.image.shape[0]

    def visible_share(self, outline: Points) -> float:
        """Share of an outline that lies inside the picture."""
        whole = geometry.area(outline)
        return geometry.area(geometry.clip_outline(outline, *self.size)) / whole if whole > 0 else 0.0

    def paste(
        self, rng: Rng, surface: Surface, pose: geometry.Pose, center: tuple[float, float], lit: bool = True
    ) -> bool:
        """Paste a surface unless it would hide a code or show too little of its own; tells whether it did.

        `lit` lets it be a little lighter or darker than it is, as its angle to the light would make it.
        """
        matrix = geometry.homography(pose, surface.size, center)
        border = geometry.transform(geometry.rectangle_outline(0, 0, *surface.size), matrix)
        codes = [PlacedCode(c.symbol, geometry.transform(c.outline, matrix)) for c in surface.codes]
        if not all(self._acceptable(code) for code in codes) or self._hides(border):
            return False
        self._blend(surface, matrix, border, rng.uniform(0.75, 1.08) if lit else 1.0)
        self.codes += codes
        cv2.fillPoly(self.covered, [border.astype(np.int32)], 255)
        return True

    def cast_shadow(self, border: Points, shift: tuple[float, float], softness: float, share: float) -> None:
        """Darken what lies below an outline moved by `shift`, by `share` (0..1), its edge `softness` pixels wide."""
        x0, y0, x1, y1 = geometry.hull_box(border + np.array(shift, np.float32))
        reach = int(softness) + 1
        left, top = max(int(x0) - reach, 0), max(int(y0) - reach, 0)
        right, bottom = min(int(x1) + reach, self.size[0]), min(int(y1) + reach, self.size[1])
        if right <= left or bottom <= top:
            return
        mask = np.zeros((bottom - top, right - left), np.float32)
        moved = border + np.array(shift, np.float32) - np.array([left, top], np.float32)
        cv2.fillPoly(mask, [moved.astype(np.int32)], 1.0)
        light = 1 - np.float32(share) * cv2.blur(mask, (reach, reach))
        region = self.image[top:bottom, left:right]
        region[:] = cv2.multiply(region, cv2.merge([light] * 3), dtype=cv2.CV_8U)

    def distort(self, warp: Displacement) -> None:
        """Warp picture and outlines alike; `warp` has the size of the picture."""
        map_x, map_y = warp.maps()
        self.image = cv2.remap(self.image, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        self.covered = cv2.remap(self.covered, map_x, map_y, cv2.INTER_NEAREST)
        self.codes = [PlacedCode(code.symbol, warp.forward(code.outline)) for code in self.codes]

    def _acceptable(self, code: PlacedCode) -> bool:
        if self.visible_share(code.outline) < self._least_visible:
            return False
        x0, y0, x1, y1 = geometry.hull_box(geometry.clip_outline(code.outline, *self.size))
        thickness = geometry.area(code.outline) / max(x1 - x0, y1 - y0, 1.0)
        if thickness <= _MIN_BOX_SIDE or min(x1 - x0, y1 - y0) <= _MIN_BOX_SIDE:
            return False
        return _pitch(code) >= _MIN_PITCH[code.symbol.symbology.class_id]

    def _hides(self, border: Points) -> bool:
        mask = np.zeros(self.image.shape[:2], np.uint8)
        cv2.fillPoly(mask, [border.astype(np.int32)], 255)
        return bool(cv2.bitwise_and(mask, self.covered).any())

    def _blend(self, surface: Surface, matrix: geometry.Matrix, border: Points, light: float) -> None:
        width, height = self.size
        x0, y0, x1, y1 = geometry.hull_box(border)
        left, top = max(int(x0) - 2, 0), max(int(y0) - 2, 0)
        right, bottom = min(int(x1) + 3, width), min(int(y1) + 3, height)
        if right <= left or bottom <= top:
            return
        shifted = geometry.pixel_matrix(np.array([[1, 0, -left], [0, 1, -top], [0, 0, 1.0]]) @ matrix)
        size = (right - left, bottom - top)
        texture = cv2.warpPerspective(surface.texture, shifted, size, borderMode=cv2.BORDER_REPLICATE)
        alpha = cv2.warpPerspective(surface.alpha, shifted, size)
        region = self.image[top:bottom, left:right]
        cover = (alpha.astype(np.float32) / 255)[..., None]
        mixed = region * (1 - cover) + np.clip(texture * np.float32(light), 0, 255) * cover
        region[:] = mixed.astype(np.uint8)


def _pitch(code: PlacedCode) -> float:
    """Mean extent of a module in pixels: across the bars of a linear code, over both axes of the others."""
    rows, columns = code.symbol.modules.shape
    if code.symbol.symbology.class_id == 0:
        edge = len(code.outline) // 4
        corners = code.outline[::edge]
        longest = float(np.linalg.norm(corners - np.roll(corners, -1, axis=0), axis=1).max())
        return longest / int(max(rows, columns))
    return float(np.sqrt(geometry.area(code.outline) / (rows * columns)))

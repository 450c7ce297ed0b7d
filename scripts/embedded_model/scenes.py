"""Whole pictures: surroundings, surfaces in perspective, things in the way, and the true boxes."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from scripts.embedded_model import camera, geometry, surfaces, textures
from scripts.embedded_model.geometry import Box, Points
from scripts.embedded_model.surfaces import PlacedCode, Surface
from scripts.embedded_model.symbols import Gray, Rng
from scripts.embedded_model.textures import Bgr

NEGATIVE_SHARE = 0.14
_MIN_VISIBLE = 0.45
_MIN_BOX_SIDE = 5.0
_ASPECTS = (1.0, 4 / 3, 3 / 4, 4 / 3, 3 / 4, 16 / 9, 9 / 16, 3 / 2, 2 / 3, 2.6)


@dataclass(frozen=True)
class Target:
    """A true box (x0, y0, x1, y1 in pixels, inside the picture) and the code in it."""

    class_id: int
    box: Box
    code: PlacedCode


@dataclass(frozen=True)
class Scene:
    """A finished picture, BGR uint8 HxWx3, and its targets."""

    image: Bgr
    targets: list[Target]


def draw_size(rng: Rng) -> tuple[int, int]:
    """(width, height) of a picture: mostly 640 on the long side, some thumbnails."""
    kind = rng.random()
    long_side = 640 if kind < 0.6 else int(rng.integers(360, 640)) if kind < 0.8 else int(rng.integers(130, 360))
    aspect = _ASPECTS[int(rng.integers(len(_ASPECTS)))] * rng.uniform(0.93, 1.07)
    return (long_side, max(96, round(long_side / aspect))) if aspect >= 1 else (
        max(96, round(long_side * aspect)), long_side)  # fmt: skip


class Canvas:
    """A picture under construction that keeps the outlines of the codes pasted so far."""

    def __init__(self, image: Bgr) -> None:
        self.image = image
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

    def paste(self, rng: Rng, surface: Surface, pose: geometry.Pose, center: tuple[float, float]) -> bool:
        """Paste a surface unless it would hide a code or show too little of its own; tells whether it did."""
        if rng.random() < 0.16 and surface.size[0] > 24:
            surface = bend(rng, surface)
        matrix = geometry.homography(pose, surface.size, center)
        border = geometry.transform(geometry.rectangle_outline(0, 0, *surface.size), matrix)
        codes = [PlacedCode(c.symbol, geometry.transform(c.outline, matrix)) for c in surface.codes]
        if not all(self._acceptable(code.outline) for code in codes) or self._hides(border):
            return False
        self._blend(rng, surface, matrix, border)
        self.codes += codes
        cv2.fillPoly(self.covered, [border.astype(np.int32)], 255)
        return True

    def _acceptable(self, outline: Points) -> bool:
        share = self.visible_share(outline)
        if share < _MIN_VISIBLE:
            return False
        x0, y0, x1, y1 = geometry.hull_box(geometry.clip_outline(outline, *self.size))
        thickness = geometry.area(outline) / max(x1 - x0, y1 - y0, 1.0)
        return thickness > _MIN_BOX_SIDE and min(x1 - x0, y1 - y0) > _MIN_BOX_SIDE

    def _hides(self, border: Points) -> bool:
        mask = np.zeros(self.image.shape[:2], np.uint8)
        cv2.fillPoly(mask, [border.astype(np.int32)], 255)
        return bool(cv2.bitwise_and(mask, self.covered).any())

    def _blend(self, rng: Rng, surface: Surface, matrix: geometry.Matrix, border: Points) -> None:
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
        light = np.float32(rng.uniform(0.75, 1.08))
        mixed = region * (1 - cover) + np.clip(texture * light, 0, 255) * cover
        region[:] = mixed.astype(np.uint8)


def bend(rng: Rng, surface: Surface) -> Surface:
    """Wrap a surface around a mild cylinder, upright or lying."""
    sideways = rng.random() < 0.3
    texture, alpha = surface.texture, surface.alpha
    if sideways:
        texture, alpha = cv2.transpose(texture), cv2.transpose(alpha)
    width, height = texture.shape[1], texture.shape[0]
    shape = geometry.Cylinder(rng.uniform(0.35, 1.25), rng.uniform(-0.25, 0.25), width, height)
    map_x, map_y = shape.maps()
    texture = cv2.remap(texture, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    shading = np.broadcast_to(shape.shading()[..., None], texture.shape)
    texture = (texture * shading).astype(np.uint8)
    alpha = cv2.remap(alpha, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    codes = []
    for code in surface.codes:
        outline = code.outline[:, ::-1] if sideways else code.outline
        bent = shape.forward(outline)
        codes.append(PlacedCode(code.symbol, bent[:, ::-1].copy() if sideways else bent))
    if sideways:
        texture, alpha = cv2.transpose(texture), cv2.transpose(alpha)
    return Surface(texture, alpha, codes, surface.glossy)


def _spot(rng: Rng, canvas: Canvas, spread: float) -> tuple[float, float]:
    x, y = rng.uniform(0.5 - spread, 0.5 + spread, 2) * canvas.size
    return float(x), float(y)


def _fill_closeup(rng: Rng, canvas: Canvas) -> None:
    """One code that fills much of the picture, sometimes running out of it."""
    flat_scan = rng.random() < 0.3
    for attempt in range(8):
        symbol = surfaces.new_symbol(rng)
        long_side = max(canvas.size) * rng.uniform(0.45, 1.12) * (0.9**attempt)
        surface = surfaces.label(rng, long_side, symbol)
        if rng.random() < 0.55:
            canvas.image[:] = surface.texture[0, 0]
        pose = geometry.draw_pose(rng, 0.0 if flat_scan else 0.9)
        if canvas.paste(rng, surface, pose, _spot(rng, canvas, 0.12)):
            return


def _fill_big(rng: Rng, canvas: Canvas) -> None:
    """One large sheet, pack, screen or roll, with small labels around it."""
    chosen = surfaces.BIG_SURFACES[int(rng.choice(len(surfaces.BIG_SURFACES), p=surfaces.BIG_WEIGHTS))]
    for _ in range(5):
        width, height = (np.array(canvas.size) * rng.uniform(0.45, 1.25, 2)).astype(int).tolist()
        pose = geometry.draw_pose(rng, float(rng.choice([0.0, 1.0], p=[0.2, 0.8])))
        if canvas.paste(rng, chosen(rng, width, height), pose, _spot(rng, canvas, 0.2)):
            break
    _fill_scattered(rng, canvas, int(rng.integers(0, 3)))


def _fill_scattered(rng: Rng, canvas: Canvas, count: int) -> None:
    """Several separate labels, marks and code-free scraps."""
    reach = max(canvas.size)
    for _ in range(count):
        long_side = reach * float(np.exp(rng.uniform(np.log(0.05), np.log(0.75))))
        kind = rng.random()
        if kind < 0.62:
            surface = surfaces.label(rng, long_side)
        elif kind < 0.8:
            surface = surfaces.direct_mark(rng, long_side, float(canvas.image.mean()))
        else:
            surface = _random_scrap(rng, canvas)
        canvas.paste(rng, surface, geometry.draw_pose(rng, 1.0), _spot(rng, canvas, 0.55))


def _random_scrap(rng: Rng, canvas: Canvas) -> Surface:
    width, height = (max(canvas.size) * np.exp(rng.uniform(np.log(0.08), np.log(0.7), 2))).astype(int).tolist()
    return surfaces.scrap(rng, max(width, 16), max(height, 16))


def _occlude(rng: Rng, canvas: Canvas) -> Gray:
    """Draw fingers, tape, straps or pen strokes; returns the mask HxW of what they hide."""
    width, height = canvas.size
    hidden: Gray = np.zeros((height, width), np.uint8)
    for _ in range(int(rng.integers(1, 4))):
        stroke = np.zeros_like(hidden)
        start, end = (rng.uniform(-0.1, 1.1, 2) * canvas.size for _ in range(2))
        kind, color = rng.random(), textures.random_color(rng)
        if kind < 0.4:
            color = tuple((np.array([120, 150, 205]) * rng.uniform(0.4, 1.1)).astype(int).clip(0, 255).tolist())
            axes = (int(width * rng.uniform(0.08, 0.3)), int(width * rng.uniform(0.03, 0.09)) + 1)
            cv2.ellipse(stroke, start.astype(int).tolist(), axes, float(rng.uniform(0, 180)), 0, 360, 255, -1)
        else:
            thick = max(1, int(width * (rng.uniform(0.002, 0.01) if kind < 0.7 else rng.uniform(0.01, 0.07))))
            cv2.line(stroke, start.astype(int).tolist(), end.astype(int).tolist(), 255, thick)
        if all(_hidden_share(code.outline, cv2.bitwise_or(hidden, stroke)) < 0.35 for code in canvas.codes):
            textures.stamp(canvas.image, cv2.blur(stroke, (3, 3)), 0, 0, color)
            hidden = cv2.bitwise_or(hidden, stroke)
    return hidden


def _hidden_share(outline: Points, hidden: Gray) -> float:
    mask = np.zeros_like(hidden)
    cv2.fillPoly(mask, [np.round(outline).astype(np.int32)], 255)
    total = int(cv2.countNonZero(mask))
    return cv2.countNonZero(cv2.bitwise_and(mask, hidden)) / total if total else 1.0


def _visible_box(canvas: Canvas, code: PlacedCode, hidden: Gray | None) -> Box:
    clipped = geometry.clip_outline(code.outline, *canvas.size)
    exact = geometry.hull_box(clipped)
    if hidden is None:
        return exact
    mask = np.zeros_like(hidden)
    cv2.fillPoly(mask, [np.round(clipped).astype(np.int32)], 255)
    seen = cv2.bitwise_and(mask, cv2.bitwise_not(hidden))
    if cv2.countNonZero(seen) == cv2.countNonZero(mask):
        return exact
    left, top, width, height = cv2.boundingRect(seen)
    return (max(exact[0], left), max(exact[1], top), min(exact[2], left + width), min(exact[3], top + height))


def compose(rng: Rng) -> Scene:
    """Draw one whole random picture."""
    width, height = draw_size(rng)
    canvas = Canvas(textures.background(rng, height, width))
    kind, digital = rng.random(), rng.random() < 0.1
    if kind < NEGATIVE_SHARE:
        for _ in range(int(rng.integers(0, 6))):
            canvas.paste(rng, _random_scrap(rng, canvas), geometry.draw_pose(rng, 1.0), _spot(rng, canvas, 0.5))
    elif kind < 0.42:
        _fill_closeup(rng, canvas)
    elif kind < 0.70:
        _fill_big(rng, canvas)
    else:
        _fill_scattered(rng, canvas, int(rng.integers(2, 9)))
    hidden = _occlude(rng, canvas) if rng.random() < 0.15 else None
    image = canvas.image if digital else camera.photograph(rng, canvas.image)
    targets = [Target(c.symbol.symbology.class_id, _visible_box(canvas, c, hidden), c) for c in canvas.codes]
    return Scene(image, targets)

"""Finished pictures: a scene, things in the way, a camera, and the true boxes."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from scripts.embedded_model import geometry
from scripts.embedded_model.camera import devices
from scripts.embedded_model.canvas import Canvas
from scripts.embedded_model.geometry import Box
from scripts.embedded_model.occlusion import occlude
from scripts.embedded_model.recipes import arranged, encoder_picture
from scripts.embedded_model.surfaces import PlacedCode
from scripts.embedded_model.symbols import Gray, Rng
from scripts.embedded_model.textures.fields import Bgr
from scripts.embedded_model.warps import lens_distortion

_LENS_SHARE = 0.08
_OCCLUDED_SHARE = 0.13
_ENCODER_SHARE = 0.11
# Grey levels by which a code must vary, noise smoothed, to be there at all.
_MIN_DEVIATION = 5.0
_SHOTS = 3


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


def _photographed(rng: Rng) -> tuple[Canvas, Gray | None]:
    """A scene before the camera, and the mask of what hides parts of it."""
    canvas = arranged(rng)
    if rng.random() < _LENS_SHARE:
        width, height = canvas.size
        canvas.distort(lens_distortion(height, width, rng.uniform(-0.4, 0.4)))
    hidden = occlude(rng, canvas) if rng.random() < _OCCLUDED_SHARE else None
    return canvas, hidden


def _visible_box(canvas: Canvas, code: PlacedCode, hidden: Gray | None) -> Box | None:
    clipped = geometry.clip_outline(code.outline, *canvas.size)
    if len(clipped) == 0:
        return None
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


def _shot(rng: Rng, canvas: Canvas, boxes: list[Box]) -> Bgr:
    """The scene through a phone or a scanner; a picture in which some code has sunk into the dark is taken again."""
    for _ in range(_SHOTS):
        device = devices.scan if rng.random() < 0.1 else devices.photograph
        image = device(rng, canvas.image)
        if all(_stands_out(image, box) for box in boxes):
            return image
    return canvas.image


def _stands_out(image: Bgr, box: Box) -> bool:
    x0, y0, x1, y1 = (int(v) for v in box)
    patch = cv2.blur(image[y0 : y1 + 1, x0 : x1 + 1], (3, 3))
    return float(cv2.meanStdDev(patch)[1].max()) >= _MIN_DEVIATION


def compose(rng: Rng) -> Scene:
    """Draw one whole random picture."""
    hidden = None
    encoded = rng.random() < _ENCODER_SHARE
    if encoded:
        canvas = encoder_picture(rng)
    else:
        canvas, hidden = _photographed(rng)
    found = [(code, _visible_box(canvas, code, hidden)) for code in canvas.codes]
    targets = [Target(code.symbol.symbology.class_id, box, code) for code, box in found if box is not None]
    if encoded:
        image = devices.scan(rng, canvas.image) if rng.random() < 0.6 else canvas.image
    else:
        image = _shot(rng, canvas, [target.box for target in targets])
    return Scene(image, targets)

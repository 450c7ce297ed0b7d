"""Things between the camera and the codes: fingers, tape, straps, pen strokes."""

from __future__ import annotations

import cv2
import numpy as np

from scripts.embedded_model.canvas import Canvas
from scripts.embedded_model.geometry import Points
from scripts.embedded_model.symbols import Gray, Rng
from scripts.embedded_model.textures.fields import Bgr
from scripts.embedded_model.textures.materials import FLESH
from scripts.embedded_model.textures.paint import Color, near_color, stamp, surface_color

_MAX_HIDDEN = 0.35


def occlude(rng: Rng, canvas: Canvas) -> Gray:
    """Draw a few things over the picture; returns the mask HxW of what they hide.

    None of them hides more than about a third of a code.
    """
    width, height = canvas.size
    hidden: Gray = np.zeros((height, width), np.uint8)
    for _ in range(int(rng.integers(1, 4))):
        stroke: Gray = np.zeros_like(hidden)
        kind = rng.random()
        if kind < 0.45:
            layer = _finger(rng, canvas.image, stroke)
        else:
            thick = rng.uniform(0.002, 0.01) if kind < 0.65 else rng.uniform(0.01, 0.07)
            layer = _band(rng, canvas.image, stroke, max(1, int(width * thick)))
        if all(hidden_share(code.outline, cv2.bitwise_or(hidden, stroke)) < _MAX_HIDDEN for code in canvas.codes):
            clear = kind > 0.9
            _cover(canvas.image, layer, stroke, 0.35 if clear else 1.0)
            hidden = hidden if clear else cv2.bitwise_or(hidden, stroke)
    return hidden


def hidden_share(outline: Points, hidden: Gray) -> float:
    """Share of an outline's pixels (0..1) that a mask covers; 1 where the outline has none."""
    mask = np.zeros_like(hidden)
    cv2.fillPoly(mask, [np.round(outline).astype(np.int32)], 255)
    total = int(cv2.countNonZero(mask))
    return cv2.countNonZero(cv2.bitwise_and(mask, hidden)) / total if total else 1.0


def _cover(image: Bgr, layer: Bgr, mask: Gray, strength: float) -> None:
    soft = cv2.blur(mask, (3, 3)).astype(np.float32)[..., None] * np.float32(strength / 255)
    image[:] = (image * (1 - soft) + layer * soft).astype(np.uint8)


def _finger(rng: Rng, image: Bgr, mask: Gray) -> Bgr:
    """A finger that reaches in from a border, with a nail and a dark side; draws its mask in place."""
    height, width = mask.shape
    reach = max(height, width)
    thick = max(3, int(reach * rng.uniform(0.05, 0.14)))
    turn = rng.uniform(0, 2 * np.pi)
    out = np.array([np.cos(turn), np.sin(turn)])
    tip = np.array([width, height]) * (0.5 + out * rng.uniform(0.2, 0.48))
    root = tip + out * reach
    tone: Color = near_color(rng, FLESH[int(rng.integers(len(FLESH)))], 12)
    dark: Color = near_color(rng, (np.array(tone) * 0.75).tolist(), 4)
    layer = np.full_like(image, dark)
    start, end = tip.astype(int).tolist(), root.astype(int).tolist()
    cv2.line(mask, start, end, 255, thick)
    side = np.array([-out[1], out[0]]) * thick * 0.12
    cv2.line(layer, (tip + side).astype(int).tolist(), (root + side).astype(int).tolist(), tone, int(thick * 0.75) + 1)
    layer = cv2.blur(layer, (max(1, thick // 3),) * 2)
    if rng.random() < 0.5:
        axes = (int(thick * 0.32) + 1, int(thick * 0.25) + 1)
        nail: Color = near_color(rng, np.clip(np.array(tone) * 1.12 + 10, 0, 255).tolist(), 4)
        center = (tip + out * thick * 0.1).astype(int).tolist()
        cv2.ellipse(layer, center, axes, float(np.degrees(turn)), 0, 360, nail, -1, cv2.LINE_AA)
    return layer


def _band(rng: Rng, image: Bgr, mask: Gray, thick: int) -> Bgr:
    """A straight strap, tape, cable or stroke; draws its mask in place."""
    height, width = mask.shape
    start, end = (rng.uniform(-0.1, 1.1, (2, 2)) * (width, height)).astype(int).tolist()
    cv2.line(mask, start, end, 255, thick)
    layer = np.full_like(image, surface_color(rng))
    if thick > 6:
        shine = np.zeros_like(mask)
        cv2.line(shine, (start[0] + thick // 5, start[1]), (end[0] + thick // 5, end[1]), 255, max(1, thick // 5))
        stamp(layer, cv2.convertScaleAbs(shine, alpha=0.4), 0, 0, (250, 250, 250))
    return layer

"""Where a flat surface lands in the picture: perspective, cylinders and the boxes that follow.

Points are Nx2 float32 in continuous pixels (the first pixel spans 0..1), x before y.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from scripts.embedded_model.symbols import Rng

Points = npt.NDArray[Any]
Matrix = npt.NDArray[Any]
Box = tuple[float, float, float, float]

_EDGE_STEPS = 16
_TO_CENTERS = np.array([[1, 0, -0.5], [0, 1, -0.5], [0, 0, 1]], np.float64)
_FROM_CENTERS = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]], np.float64)


def rectangle_outline(left: float, top: float, width: float, height: float) -> Points:
    """Closed outline of a rectangle with enough points to stay true on a bent surface."""
    t = np.linspace(0, 1, _EDGE_STEPS, endpoint=False, dtype=np.float32)
    zero, one = np.zeros_like(t), np.ones_like(t)
    unit = np.concatenate([np.stack(edge, 1) for edge in ((t, zero), (one, t), (1 - t, one), (zero, 1 - t))])
    return (unit * (width, height) + (left, top)).astype(np.float32)


@dataclass(frozen=True)
class Pose:
    """Rotation of a surface in degrees, and the viewing distance in surface diagonals."""

    roll: float
    pitch: float
    yaw: float
    distance: float


def draw_pose(rng: Rng, strength: float) -> Pose:
    """Random pose; `strength` 1 is a hand-held phone, 0 a flat scan."""
    kind = rng.random()
    if kind < 0.5:
        roll = rng.normal(0, 7)
    elif kind < 0.72:
        roll = float(rng.choice([90, 180, 270])) + rng.normal(0, 7)
    else:
        roll = rng.uniform(0, 360)
    steep = rng.random() < 0.18
    spread = (34.0 if steep else 15.0) * strength
    pitch, yaw = np.clip(rng.normal(0, spread, 2), -62, 62)
    return Pose(float(roll if strength else round(roll / 90) * 90), float(pitch), float(yaw), rng.uniform(1.0, 3.5))


def homography(pose: Pose, size: tuple[int, int], center: tuple[float, float]) -> Matrix:
    """3x3 map from surface points (width, height = `size`) to picture points, its middle at `center`."""
    width, height = size
    roll, pitch, yaw = np.radians([pose.roll, pose.pitch, pose.yaw])
    about_z = np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]])
    about_y = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    turn = about_x @ about_y @ about_z
    far = pose.distance * float(np.hypot(width, height))
    project = np.array([[far, 0, center[0]], [0, far, center[1]], [0, 0, 1]])
    plane = np.column_stack([turn[:, 0], turn[:, 1], [0, 0, far]])
    to_middle = np.array([[1, 0, -width / 2], [0, 1, -height / 2], [0, 0, 1]])
    result: Matrix = project @ plane @ to_middle
    result /= result[2, 2]
    return result


def transform(points: Points, matrix: Matrix) -> Points:
    """Apply a 3x3 homography to points."""
    mapped: Points = cv2.perspectiveTransform(points[None].astype(np.float64), matrix)[0].astype(np.float32)
    return mapped


def pixel_matrix(matrix: Matrix) -> Matrix:
    """The same homography for OpenCV, whose integer coordinates name pixel centres."""
    return _TO_CENTERS @ matrix @ _FROM_CENTERS


def clip_outline(outline: Points, width: int, height: int) -> Points:
    """Part of a closed outline inside the picture (Sutherland-Hodgman); possibly empty."""
    points = outline.astype(np.float64)
    for axis, bound, keep_low in (
        (0, 0.0, False),
        (0, float(width), True),
        (1, 0.0, False),
        (1, float(height), True),
    ):
        if len(points) == 0:
            break
        points = _clip_half_plane(points, axis, bound, keep_low)
    return points.astype(np.float32).reshape(-1, 2)


def _clip_half_plane(points: Matrix, axis: int, bound: float, keep_low: bool) -> Matrix:
    signed = (bound - points[:, axis]) if keep_low else (points[:, axis] - bound)
    kept: list[Matrix] = []
    for i in range(len(points)):
        j = (i + 1) % len(points)
        if signed[i] >= 0:
            kept.append(points[i])
        if (signed[i] >= 0) != (signed[j] >= 0):
            kept.append(points[i] + (points[j] - points[i]) * signed[i] / (signed[i] - signed[j]))
    return np.array(kept, np.float64).reshape(-1, 2)


def area(outline: Points) -> float:
    """Area of a closed outline in square pixels."""
    return float(abs(cv2.contourArea(outline))) if len(outline) >= 3 else 0.0


def hull_box(outline: Points) -> Box:
    """Axis-aligned hull (x0, y0, x1, y1) of a non-empty outline."""
    (x0, y0), (x1, y1) = outline.min(axis=0), outline.max(axis=0)
    return float(x0), float(y0), float(x1), float(y1)

"""Bends that a plane may undergo: for points and, as sampling maps for cv2.remap, for pixels.

Points are Nx2 float32 in continuous pixels (the first pixel spans 0..1), x before y.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from scripts.embedded_model.geometry import Points
from scripts.embedded_model.textures.fields import Field

# A displacement whose slope stays below this is met by the fixed-point search well within a hundredth of a pixel.
MAX_SLOPE = 0.5
_SEARCH_STEPS = 14


@dataclass(frozen=True)
class Cylinder:
    """Wrap of a width x height surface around an upright cylinder seen a little from above."""

    half_angle: float
    bow: float
    width: int
    height: int

    def forward(self, points: Points) -> Points:
        """Points on the flat surface -> points on the bent view of the same size."""
        across = points[:, 0] / self.width * 2 - 1
        seen = np.sin(across * self.half_angle) / np.sin(self.half_angle)
        drop = self.bow * self.height * (np.cos(across * self.half_angle) - 1)
        return np.stack([(seen + 1) / 2 * self.width, points[:, 1] + drop], 1).astype(np.float32)

    def maps(self) -> tuple[Points, Points]:
        """Sampling maps HxW for cv2.remap: where in the flat surface each bent pixel comes from."""
        seen = (np.arange(self.width) + 0.5) / self.width * 2 - 1
        across = np.arcsin(np.clip(seen * np.sin(self.half_angle), -1, 1)) / self.half_angle
        drop = self.bow * self.height * (np.cos(across * self.half_angle) - 1)
        from_x = np.broadcast_to((across + 1) / 2 * self.width - 0.5, (self.height, self.width))
        from_y = np.arange(self.height)[:, None] - drop[None]
        return from_x.astype(np.float32), from_y.astype(np.float32)

    def shading(self) -> Points:
        """Brightness 1xW: surfaces that turn away from the viewer get darker."""
        seen = (np.arange(self.width) + 0.5) / self.width * 2 - 1
        facing = np.sqrt(np.clip(1 - (seen * np.sin(self.half_angle)) ** 2, 0, 1))
        brightness: Points = (0.45 + 0.55 * facing)[None].astype(np.float32)
        return brightness


@dataclass(frozen=True)
class Displacement:
    """Smooth warp of a picture onto one of the same size: the pixel at p shows what was at p + (dx, dy)(p).

    `dx` and `dy` are HxW float32 in pixels; neither may change by more than `MAX_SLOPE` pixels a pixel.
    """

    dx: Field
    dy: Field

    def maps(self) -> tuple[Field, Field]:
        """Sampling maps HxW for cv2.remap."""
        height, width = self.dx.shape
        across, down = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)
        return self.dx + across[None], self.dy + down[:, None]

    def forward(self, points: Points) -> Points:
        """Where points of the flat picture are seen: the p with p + offset(p) = point, by fixed-point search."""
        target = points.astype(np.float32)
        seen = target.copy()
        for _ in range(_SEARCH_STEPS):
            x, y = np.ascontiguousarray(seen[:, :1] - 0.5), np.ascontiguousarray(seen[:, 1:] - 0.5)
            offset = [cv2.remap(d, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) for d in (self.dx, self.dy)]
            seen = target - np.concatenate(offset, axis=1)
        return seen


def gentle(height: Field, direction: tuple[float, float], slope: float) -> Displacement:
    """Displacement along `direction` (a unit vector) by a height field, its steepest slope scaled to `slope`."""
    rise = max(float(np.abs(np.diff(height, axis=0)).max()), float(np.abs(np.diff(height, axis=1)).max()), 1e-6)
    scaled = (height * np.float32(min(slope, MAX_SLOPE) / rise)).astype(np.float32)
    return Displacement(scaled * np.float32(direction[0]), scaled * np.float32(direction[1]))


def lens_distortion(height: int, width: int, strength: float) -> Displacement:
    """Barrel (positive) or pincushion distortion about the middle; at a corner |strength| / 3 of the way in or out.

    Radial model of first order, r' = r (1 + k r^2), with r = 1 at the corners and k = `strength` / 3.
    """
    x, y = np.arange(width, dtype=np.float32) + 0.5 - width / 2, np.arange(height, dtype=np.float32) + 0.5 - height / 2
    squared = (x[None] ** 2 + y[:, None] ** 2) / (width**2 / 4 + height**2 / 4)
    gain = (np.float32(strength / 3) * (squared - 1)).astype(np.float32)
    return Displacement(gain * x[None].astype(np.float32), gain * y[:, None].astype(np.float32))

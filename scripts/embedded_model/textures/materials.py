"""Surfaces on which codes are stuck or photographed: wood, stone, card, cloth, plants, metal, skin.

Every function returns BGR uint8 HxWx3 as seen from straight above in even light.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from scripts.embedded_model.textures.fields import Bgr, Field, Rng, fractal_field, noise_field, soft_field
from scripts.embedded_model.textures.paint import (
    Color,
    add_field,
    colorize,
    flat,
    near_color,
    random_color,
    scale_light,
    surface_color,
)

_TIMBER = ((60, 105, 160), (40, 70, 110), (110, 160, 205), (30, 45, 70), (140, 175, 200), (90, 100, 110))
_KRAFT = (110, 152, 192)
FLESH = ((150, 180, 225), (110, 145, 200), (75, 105, 160), (45, 65, 105))
_GREENS = ((20, 35, 22), (35, 75, 45), (50, 120, 90), (90, 170, 150))


def clouds(rng: Rng, height: int, width: int) -> Bgr:
    """Out-of-focus surroundings: three independent soft colour fields over several octaves."""
    channels = []
    for _ in range(3):
        field = sum(soft_field(rng, height, width, 2**k) / 1.6**k for k in range(1, int(rng.integers(3, 7))))
        channels.append(np.clip(rng.uniform(50, 205) + 70 * np.asarray(field), 0, 255))
    share = rng.uniform(0.5, 0.95)
    return cv2.merge([(share * channels[0] + (1 - share) * c).astype(np.uint8) for c in channels])


def wood(rng: Rng, height: int, width: int) -> Bgr:
    """Plain wood: noise stretched along one axis."""
    base = np.array(random_color(rng, 60, 200)) if rng.random() < 0.4 else np.array([70, 110, 160])
    narrow = noise_field(rng, height, max(8, width // 40))
    grain = cv2.GaussianBlur(cv2.resize(narrow, (width, height), interpolation=cv2.INTER_CUBIC), (0, 0), 0.8)
    image = add_field(flat(height, width, tuple(base.tolist())), grain, rng.uniform(5, 25))
    image = add_field(image, soft_field(rng, height, width, 3), 25)
    return image if rng.random() < 0.5 else np.ascontiguousarray(cv2.resize(cv2.rotate(image, 0), (width, height)))


def speckle(rng: Rng, height: int, width: int) -> Bgr:
    """Terrazzo, carpet or coarse plastic: noise blurred to a random grain."""
    grain = cv2.GaussianBlur(noise_field(rng, height, width), (0, 0), float(rng.uniform(0.5, 4)))
    grain = grain / (grain.std() + 1e-6)
    image = add_field(flat(height, width, random_color(rng, 40, 215)), grain, rng.uniform(4, 40))
    return add_field(image, soft_field(rng, height, width, 3), rng.uniform(5, 40))


def planks(rng: Rng, height: int, width: int) -> Bgr:
    """Table or floor of boards with grain, each board a little lighter or darker, dark joints between."""
    color = np.array(_TIMBER[int(rng.integers(len(_TIMBER)))], np.float64) * rng.uniform(0.7, 1.25)
    grain = fractal_field(rng, height, width, 1.0, stretch=float(rng.uniform(8, 30)))
    depth = rng.uniform(0.12, 0.45)
    image = colorize(grain, [color * (1 - depth), color, np.clip(color * (1 + depth), 0, 255)])
    if rng.random() < 0.7:
        image = scale_light(image, _boards(rng, height, width))
    return image


def _boards(rng: Rng, height: int, width: int) -> Field:
    pitch = max(12, int(height * rng.uniform(0.1, 0.5)))
    light: Field = np.ones((height, width), np.float32)
    joint = max(1, pitch // 40)
    for top in range(-int(rng.integers(pitch)), height, pitch):
        low, high = max(top, 0), max(top + pitch, 0)
        light[low:high] *= np.float32(rng.uniform(0.8, 1.1))
        light[low : low + joint] *= np.float32(rng.uniform(0.3, 0.7))
    return light


def concrete(rng: Rng, height: int, width: int) -> Bgr:
    """Concrete, plaster, asphalt or a painted wall: low contrast over all scales, some grains."""
    color = np.array(surface_color(rng, 60, 225), np.float64)
    field = fractal_field(rng, height, width, 1.0 if rng.random() < 0.5 else 0.6)
    depth = rng.uniform(0.04, 0.22)
    image = colorize(field, [color * (1 - 2 * depth), color, np.clip(color * (1 + depth), 0, 255)])
    return add_field(image, noise_field(rng, height, width), rng.uniform(0, 14))


def cardboard(rng: Rng, height: int, width: int) -> Bgr:
    """Brown board with fibres and the shade of its flutes, sometimes a taped joint."""
    color = np.array(near_color(rng, _KRAFT, 16), np.float64)
    fibres = fractal_field(rng, height, width, 0.6, stretch=float(rng.uniform(2, 6)))
    image = colorize(fibres, [color * 0.86, color, np.clip(color * 1.08, 0, 255)])
    ripple = np.sin(np.arange(width, dtype=np.float32) * (2 * np.pi / rng.uniform(6, 18)))[None]
    image = add_field(image, np.repeat(ripple, height, 0), rng.uniform(0, 5))
    if rng.random() < 0.3:
        top, tall = int(rng.integers(height)), max(int(height * rng.uniform(0.08, 0.25)), 1)
        tape = image[top : top + tall]
        tape[:] = cv2.addWeighted(tape, 0.6, np.full_like(tape, near_color(rng, (150, 180, 205))), 0.4, 0)
    return image


def cloth(rng: Rng, height: int, width: int) -> Bgr:
    """Cloth with thread and folds, plain or tartan."""
    color = surface_color(rng)
    image = flat(height, width, color)
    if rng.random() < 0.35:
        _tartan(rng, image)
    thread = noise_field(rng, height, width) if rng.random() < 0.5 else _threads(rng, height, width)
    image = add_field(image, thread, rng.uniform(3, 18))
    folds = fractal_field(rng, height, width, 1.5, stretch=float(np.exp(rng.normal(0, 0.8))))
    return scale_light(image, 1 + np.float32(rng.uniform(0, 0.22)) * folds)


def _tartan(rng: Rng, image: Bgr) -> None:
    height, width = image.shape[:2]
    pitch = int(rng.integers(20, 120))
    for _ in range(int(rng.integers(1, 4))):
        offset, thick = int(rng.integers(pitch)), max(1, int(pitch * rng.uniform(0.05, 0.45)))
        band = np.array(random_color(rng), np.float32) * 0.5
        for start in range(offset, max(height, width), pitch):
            for part in (image[start : start + thick], image[:, start : start + thick]):
                part[:] = (part * np.float32(0.5) + band).astype(np.uint8)


def _threads(rng: Rng, height: int, width: int) -> Field:
    across = np.sin(np.arange(width, dtype=np.float32) * (2 * np.pi / rng.uniform(2.5, 9)))
    along = np.sin(np.arange(height, dtype=np.float32) * (2 * np.pi / rng.uniform(2.5, 9)))
    crossed: Field = np.multiply.outer(along, across)
    return crossed


def grass(rng: Rng, height: int, width: int) -> Bgr:
    """Lawn or moss: upright streaks in greens, or in straw colours."""
    colors = np.array(_GREENS, np.float64) * rng.uniform(0.7, 1.3)
    if rng.random() < 0.25:
        colors = colors * (0.8, 1.0, 1.6)
    blades = fractal_field(rng, height, width, 0.6, stretch=float(rng.uniform(0.15, 0.6)))
    return colorize(blades, np.clip(colors, 0, 255).tolist())


def marble(rng: Rng, height: int, width: int) -> Bgr:
    """Polished stone with veins."""
    base, vein = np.array(surface_color(rng, 90, 240), np.float64), np.array(surface_color(rng), np.float64)
    veins = np.abs(fractal_field(rng, height, width, 1.5))
    mixed = 0.5 * vein + 0.5 * base
    return colorize(veins * 2.5 - 2, [mixed, 0.7 * base + 0.3 * mixed, base, base])


def metal(rng: Rng, height: int, width: int) -> Bgr:
    """Brushed or cast metal with a broad sheen."""
    color = np.array(near_color(rng, (150, 150, 150), 12), np.float64) * rng.uniform(0.5, 1.3)
    stretch = float(rng.uniform(15, 50)) if rng.random() < 0.6 else 1.0
    grain = fractal_field(rng, height, width, 0.6, stretch=stretch)
    image = colorize(grain, [color * 0.8, color, np.clip(color * 1.2, 0, 255)])
    across = np.linspace(0, np.pi * rng.uniform(0.5, 3), width, dtype=np.float32) + np.float32(rng.uniform(0, 6))
    sheen = 1 + np.float32(rng.uniform(0.05, 0.5)) * np.sin(across)[None]
    return scale_light(image, np.repeat(sheen, height, 0))


def foil(rng: Rng, height: int, width: int) -> Bgr:
    """Crumpled foil or film: facets that mirror light here and shade there."""
    rows, columns = max(height // 4, 16), max(width // 4, 16)
    facets = np.abs(fractal_field(rng, rows, columns, 1.5)) + np.abs(fractal_field(rng, rows, columns, 1.5))
    slope: Field = cv2.Sobel(facets, cv2.CV_32F, 1, 0, ksize=3) + cv2.Sobel(facets, cv2.CV_32F, 0, 1, ksize=3)
    slope = cv2.resize(slope * np.float32(1.2 / (slope.std() + 1e-6)), (width, height), interpolation=cv2.INTER_CUBIC)
    color = np.array(surface_color(rng, 70, 200), np.float64)
    return colorize(slope, [color * 0.3, color * 0.75, color, np.clip(color * 1.25, 0, 255), (250, 250, 250)])


def skin(rng: Rng, height: int, width: int) -> Bgr:
    """A palm or an arm, close by and soft."""
    color = np.array(FLESH[int(rng.integers(len(FLESH)))], np.float64) * rng.uniform(0.8, 1.1)
    field = fractal_field(rng, height, width, 1.5) * np.float32(0.7) + soft_field(rng, height, width, 2)
    image = colorize(field, [color * 0.6, color, np.clip(color * 1.2, 0, 255)])
    return add_field(image, noise_field(rng, height, width), rng.uniform(0, 5))


def plain(rng: Rng, height: int, width: int) -> Bgr:
    """Smooth plastic, lacquer, paper or glass: one colour under a gradient."""
    color = surface_color(rng) if rng.random() < 0.7 else surface_color(rng, 190, 250)
    return add_field(flat(height, width, color), soft_field(rng, height, width, 2), rng.uniform(0, 50))


def gravel(rng: Rng, height: int, width: int) -> Bgr:
    """Pebbles, coffee, rice, sweets: many small rounded things with a light and a dark side."""
    base: Color = surface_color(rng, 50, 220)
    image = flat(height, width, near_color(rng, (np.array(base) * 0.35).tolist()))
    size = max(height, width) * float(np.exp(rng.uniform(np.log(0.03), np.log(0.12))))
    count = int(min(600, 2.6 * height * width / size**2))
    centers = rng.uniform(0, 1, (count, 2)) * (width, height)
    shape = np.exp(rng.normal(0, 0.25, (count, 2))) * size / 2
    for center, axes, angle in zip(centers.astype(int).tolist(), shape, rng.uniform(0, 180, count), strict=True):
        color = np.array(near_color(rng, base, 22), np.float64)
        outer, inner = np.maximum(axes, 1).astype(int).tolist(), np.maximum(axes * 0.7, 1).astype(int).tolist()
        cv2.ellipse(image, center, outer, angle, 0, 360, (color * 0.7).tolist(), -1, cv2.LINE_AA)
        lit = (int(center[0] - size / 12), int(center[1] - size / 10))
        cv2.ellipse(image, lit, inner, angle, 0, 360, color.tolist(), -1, cv2.LINE_AA)
    return image


MATERIALS: tuple[Callable[[Rng, int, int], Bgr], ...] = (
    planks, planks, wood, concrete, concrete, cardboard, cardboard, cloth, cloth, grass, marble, metal,
    foil, skin, plain, plain, plain, speckle, gravel,
)  # fmt: skip


def material(rng: Rng, height: int, width: int) -> Bgr:
    """One of `MATERIALS` at random."""
    return MATERIALS[int(rng.integers(len(MATERIALS)))](rng, height, width)

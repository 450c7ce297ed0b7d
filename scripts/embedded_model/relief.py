"""Bent, crumpled and wrapped surfaces, with the shade and shine that go with it."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from scripts.embedded_model.surfaces import PlacedCode, Surface, padded
from scripts.embedded_model.symbols import Rng
from scripts.embedded_model.textures.fields import Field, fractal_field, soft_field
from scripts.embedded_model.textures.paint import add_field, scale_light
from scripts.embedded_model.warps import Cylinder, Displacement, gentle

_COARSE = 96


def bend(rng: Rng, surface: Surface) -> Surface:
    """Wrap a surface around a mild cylinder, upright or lying."""
    sideways = rng.random() < 0.3
    if sideways:
        surface = _transposed(surface)
    half_angle, bow = rng.uniform(0.35, 1.25), rng.uniform(-0.25, 0.25)
    bent = wrap_around(surface, half_angle, bow)
    return _transposed(bent) if sideways else bent


def wrap_around(surface: Surface, half_angle: float, bow: float) -> Surface:
    """Wrap a surface around an upright cylinder, see `Cylinder`; one with codes grows by the height of the bow."""
    height = surface.size[1]
    if surface.codes:
        surface = padded(surface, 0, int(np.ceil(abs(bow) * height * (1 - np.cos(half_angle)))) + 1)
    shape = Cylinder(half_angle, bow * height / surface.size[1], *surface.size)
    maps = shape.maps()
    texture = cv2.remap(surface.texture, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    texture = (texture * np.broadcast_to(shape.shading()[..., None], texture.shape)).astype(np.uint8)
    alpha = cv2.remap(surface.alpha, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    codes = [PlacedCode(code.symbol, shape.forward(code.outline)) for code in surface.codes]
    return Surface(texture, alpha, codes, surface.glossy)


def _transposed(surface: Surface) -> Surface:
    """The surface with x and y exchanged."""
    codes = [PlacedCode(code.symbol, code.outline[:, ::-1].copy()) for code in surface.codes]
    return Surface(cv2.transpose(surface.texture), cv2.transpose(surface.alpha), codes, surface.glossy)


def displace(surface: Surface, warp: Displacement, light: Field) -> Surface:
    """Move pixels, holes and outlines of a surface alike and multiply it by `light` (HxW float32).

    The surface grows by the largest displacement, so that nothing moves out of it.
    """
    reach = int(np.ceil(max(float(np.abs(warp.dx).max()), float(np.abs(warp.dy).max())))) + 1
    lit = Surface(scale_light(surface.texture, light), surface.alpha, surface.codes, surface.glossy)
    roomy = padded(lit, reach, reach)
    wide = Displacement(*(cv2.copyMakeBorder(d, *(reach,) * 4, cv2.BORDER_REPLICATE) for d in (warp.dx, warp.dy)))
    maps = wide.maps()
    texture = cv2.remap(roomy.texture, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    alpha = cv2.remap(roomy.alpha, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    codes = [PlacedCode(code.symbol, wide.forward(code.outline)) for code in roomy.codes]
    return Surface(texture, alpha, codes, surface.glossy)


def wave(rng: Rng, surface: Surface) -> Surface:
    """Paper, cloth or a bag that hangs in a few soft folds."""
    width, height = surface.size
    turn = float(rng.choice([0.0, np.pi / 2, rng.uniform(0, np.pi)]))
    yy, xx = np.mgrid[0:height, 0:width].astype(np.float32) / np.float32(max(width, height))
    along = xx * np.float32(np.cos(turn)) + yy * np.float32(np.sin(turn))
    phase = along * np.float32(2 * np.pi * rng.uniform(0.5, 2.5)) + np.float32(rng.uniform(0, 6))
    phase += np.float32(0.5) * soft_field(rng, height, width, 2)
    side = rng.uniform(0, 2 * np.pi)
    warp = gentle(np.sin(phase), (float(np.cos(side)), float(np.sin(side))), rng.uniform(0.1, 0.35))
    return displace(surface, warp, 1 + np.float32(rng.uniform(0.05, 0.4)) * np.cos(phase))


def crumple(rng: Rng, surface: Surface) -> Surface:
    """Crumpled paper, foil or film: facets between sharp creases, some of them mirror-bright."""
    width, height = surface.size
    relief = np.abs(soft_field(rng, _COARSE, _COARSE, int(rng.integers(2, 5))))
    relief = relief + np.abs(soft_field(rng, _COARSE, _COARSE, int(rng.integers(4, 9)))) * np.float32(0.5)
    slope_x, slope_y = _slopes(relief)
    side = rng.uniform(0, 2 * np.pi)
    tall = cv2.GaussianBlur(cv2.resize(relief, (width, height), interpolation=cv2.INTER_LINEAR), (0, 0), 1.5)
    warp = gentle(tall, (float(np.cos(side)), float(np.sin(side))), rng.uniform(0.1, 0.45))
    facing = slope_x * np.float32(np.cos(side)) + slope_y * np.float32(np.sin(side))
    light = np.clip(1 + np.float32(rng.uniform(0.05, 0.3)) * facing, 0.3, 1.5)
    bent = displace(surface, warp, cv2.resize(light, (width, height)))
    if surface.glossy or rng.random() < 0.3:
        _shine(rng, bent, slope_x, slope_y)
    return bent


def wrap(rng: Rng, surface: Surface) -> Surface:
    """Clear film over a flat thing: streaks of light where the film turns towards the lamp."""
    slope_x, slope_y = _slopes(fractal_field(rng, _COARSE, _COARSE, 1.5, stretch=float(np.exp(rng.normal(0, 0.7)))))
    covered = Surface(surface.texture.copy(), surface.alpha, surface.codes, surface.glossy)
    _shine(rng, covered, cv2.blur(slope_x, (3, 3)), cv2.blur(slope_y, (3, 3)))
    return covered


def _slopes(relief: Field) -> tuple[Field, Field]:
    """Slopes of a relief along x and y, each of unit variance."""
    slopes = [cv2.Sobel(relief, cv2.CV_32F, *axes) for axes in ((1, 0), (0, 1))]
    return slopes[0] / (slopes[0].std() + 1e-6), slopes[1] / (slopes[1].std() + 1e-6)


def _shine(rng: Rng, surface: Surface, slope_x: Field, slope_y: Field) -> None:
    """Add white where the slope is near one random direction, as a mirror would."""
    aim = rng.normal(0, 1.1, 2)
    off = (slope_x - np.float32(aim[0])) ** 2 + (slope_y - np.float32(aim[1])) ** 2
    glint = np.exp(-off * np.float32(rng.uniform(5, 25)))
    glint = cv2.resize(glint, surface.size, interpolation=cv2.INTER_LINEAR)
    surface.texture[:] = add_field(surface.texture, glint, rng.uniform(40, 230))


_SHAPES: tuple[Callable[[Rng, Surface], Surface], ...] = (bend, bend, bend, wave, wave, crumple, crumple)


def shaped(rng: Rng, surface: Surface) -> Surface:
    """The surface as it lies there: often flat, else bent, folded, crumpled or wrapped in film."""
    if min(surface.size) < 16:
        return surface
    if rng.random() < 0.3:
        surface = _SHAPES[int(rng.integers(len(_SHAPES)))](rng, surface)
    if rng.random() < (0.3 if surface.glossy else 0.05):
        surface = wrap(rng, surface)
    return surface

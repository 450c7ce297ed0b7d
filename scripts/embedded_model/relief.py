"""Bent, crumpled and wrapped surfaces, with the shade and shine that go with it."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from scripts.embedded_model.surfaces import PlacedCode, Surface
from scripts.embedded_model.symbols import Rng
from scripts.embedded_model.textures.fields import Field, fractal_field, soft_field
from scripts.embedded_model.textures.paint import add_field, scale_light
from scripts.embedded_model.warps import Cylinder, Displacement, gentle

_COARSE = 96


def bend(rng: Rng, surface: Surface) -> Surface:
    """Wrap a surface around a mild cylinder, upright or lying."""
    sideways = rng.random() < 0.3
    texture, alpha = surface.texture, surface.alpha
    if sideways:
        texture, alpha = cv2.transpose(texture), cv2.transpose(alpha)
    width, height = texture.shape[1], texture.shape[0]
    shape = Cylinder(rng.uniform(0.35, 1.25), rng.uniform(-0.25, 0.25), width, height)
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


def displace(surface: Surface, warp: Displacement, light: Field) -> Surface:
    """Move pixels, holes and outlines of a surface alike, then multiply it by `light` (HxW float32)."""
    map_x, map_y = warp.maps()
    texture = cv2.remap(surface.texture, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    alpha = cv2.remap(surface.alpha, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    codes = [PlacedCode(code.symbol, warp.forward(code.outline)) for code in surface.codes]
    return Surface(scale_light(texture, light), alpha, codes, surface.glossy)


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
    glint = np.exp(-off * np.float32(rng.uniform(2, 12)))
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

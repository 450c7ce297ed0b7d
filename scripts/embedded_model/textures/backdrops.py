"""Which of the textures a picture gets: behind codes, as a hard negative, or as an ordinary photograph."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from scripts.embedded_model.textures import architecture, artefacts, heaps, indoors, living, outdoors, patterns
from scripts.embedded_model.textures.fields import Bgr, Rng
from scripts.embedded_model.textures.materials import material
from scripts.embedded_model.textures.paint import scale_light

Texture = Callable[[Rng, int, int], Bgr]

_SMALLEST_PATCH = 12

STRUCTURES: tuple[Texture, ...] = (
    architecture.slats, architecture.slats, architecture.fence, architecture.facade, architecture.facade,
    architecture.crossing, architecture.columns, architecture.tread,
    artefacts.piano, artefacts.bookshelf, artefacts.bookshelf, artefacts.score, artefacts.street_map,
    artefacts.mosaic, artefacts.maze, artefacts.ruler, artefacts.circuit, artefacts.glyphs,
    artefacts.targets, artefacts.display, artefacts.chess,
)  # fmt: skip


def _one(rng: Rng, choice: tuple[Texture, ...], height: int, width: int) -> Bgr:
    return choice[int(rng.integers(len(choice)))](rng, height, width)


def collage(rng: Rng, height: int, width: int) -> Bgr:
    """Things of unlike stuff before one another: a striped cloth by a tiled wall, a net over gravel."""
    image = material(rng, height, width)
    for _ in range(int(rng.integers(3, 10))):
        size = max(height, width) * float(np.exp(rng.uniform(np.log(0.1), np.log(0.8))))
        outline = heaps.blob(rng, rng.uniform(0, 1, 2) * (width, height), size)
        left, top, wide, tall = cv2.boundingRect(outline)
        x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + wide, width), min(top + tall, height)
        if min(x1 - x0, y1 - y0) < _SMALLEST_PATCH:
            continue
        patch = material(rng, y1 - y0, x1 - x0) if rng.random() < 0.5 else _one(rng, STRUCTURES, y1 - y0, x1 - x0)
        mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
        cv2.fillPoly(mask, [outline - np.array([x0, y0])], 255)
        dim, bright = (float(v) for v in rng.uniform(0.5, 1.2, 2))
        light = np.linspace(dim, bright, x1 - x0, dtype=np.float32)
        cv2.copyTo(scale_light(patch, np.repeat(light[None], y1 - y0, 0)), mask, image[y0:y1, x0:x1])
    return image


VISTAS: tuple[Texture, ...] = (
    heaps.heap, heaps.heap, heaps.bokeh, heaps.bokeh, heaps.clutter, heaps.night,
    outdoors.foliage, outdoors.foliage, outdoors.landscape, outdoors.landscape, outdoors.water,
    outdoors.branches, outdoors.dunes, architecture.street, architecture.street,
    indoors.still_life, indoors.still_life, indoors.interior, indoors.interior,
    collage, collage, collage, living.crowd, living.portrait, living.fur,
)  # fmt: skip


def vista(rng: Rng, height: int, width: int) -> Bgr:
    """Something like an ordinary photograph, HxW BGR."""
    return _one(rng, VISTAS, height, width)


def lookalike(rng: Rng, height: int, width: int) -> Bgr:
    """Something orderly that is no code, HxW BGR."""
    return _one(rng, STRUCTURES if rng.random() < 0.65 else patterns.LOOKALIKES, height, width)


def receding(rng: Rng, image: Bgr) -> Bgr:
    """The same texture seen at a slant: a floor, a wall or a table top that leads away."""
    height, width = image.shape[:2]
    narrow, turn = rng.uniform(0.05, 0.35) * width, rng.uniform(-0.15, 0.15) * width
    source = np.array([[narrow, 0], [width - narrow, 0], [width, height], [0, height]], np.float32)
    target = np.array([[0, 0], [width, 0], [width - turn, height], [turn, height]], np.float32)
    matrix = cv2.getPerspectiveTransform(target, source)
    if rng.random() < 0.5:
        matrix = np.linalg.inv(matrix)
    return cv2.warpPerspective(image, matrix, (width, height), borderMode=cv2.BORDER_REFLECT)


def backdrop(rng: Rng, height: int, width: int) -> Bgr:
    """What lies behind the codes, HxW BGR: mostly a material, often a whole view, seldom a hard pattern."""
    kind = rng.random()
    if kind < 0.58:
        image = material(rng, height, width)
        return receding(rng, image) if rng.random() < 0.3 else image
    if kind < 0.88:
        return vista(rng, height, width)
    return lookalike(rng, height, width)

"""Which of the textures a picture gets: behind codes, as a hard negative, or as an ordinary photograph."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from scripts.embedded_model.textures import architecture, artefacts, heaps, indoors, living, outdoors, patterns
from scripts.embedded_model.textures.fields import Bgr, Rng
from scripts.embedded_model.textures.materials import material

Texture = Callable[[Rng, int, int], Bgr]

VISTAS: tuple[Texture, ...] = (
    heaps.heap, heaps.heap, heaps.bokeh, heaps.bokeh, heaps.clutter, heaps.night,
    outdoors.foliage, outdoors.foliage, outdoors.landscape, outdoors.landscape, outdoors.water,
    outdoors.branches, outdoors.dunes, architecture.street, architecture.street,
    indoors.still_life, indoors.still_life, indoors.interior, indoors.interior,
    living.crowd, living.portrait, living.fur,
)  # fmt: skip

STRUCTURES: tuple[Texture, ...] = (
    architecture.slats, architecture.slats, architecture.fence, architecture.facade, architecture.facade,
    architecture.crossing, architecture.columns, architecture.tread,
    artefacts.piano, artefacts.bookshelf, artefacts.bookshelf, artefacts.score, artefacts.street_map,
    artefacts.mosaic, artefacts.maze, artefacts.ruler, artefacts.circuit, artefacts.glyphs,
    artefacts.targets, artefacts.display, artefacts.chess,
)  # fmt: skip


def _one(rng: Rng, choice: tuple[Texture, ...], height: int, width: int) -> Bgr:
    return choice[int(rng.integers(len(choice)))](rng, height, width)


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

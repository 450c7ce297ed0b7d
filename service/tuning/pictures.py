"""The pictures that engines are compared on: stored ones and variations of them."""

import cv2
import numpy as np
from numpy.typing import NDArray

from service.bundle.store import Bundle
from service.errors import EngineError
from service.pictures import PICTURES
from service.preprocessing.letterbox import PAD_VALUE, letterbox, plan_letterbox

#: Of a square's side; what lies within is enlarged to the whole.
_CENTRE = 0.8
#: Of a square's side that the whole is shrunk to.
_SHRUNK = 0.7
_DIMMED = 0.6
#: Standard deviation, pixels.
_BLUR = 1.0


def comparison_pictures(bundle: Bundle) -> list[NDArray[np.uint8]]:
    """Squares (S, S, 3) uint8 BGR: the bundle's self-check picture, the pictures that come with the project, and each
    of them mirrored, dimmed, enlarged, turned, shrunk and blurred. All as stored come first.

    Raises:
        BundleSchemaError: the stored picture cannot be read.
        EngineError: a picture is missing from the installation.
    """
    stored = [bundle.self_check_arrays()[0], *_shipped(bundle.manifest.model.input.height)]
    varied = [stored, *([change(square) for square in stored] for change in _CHANGES)]
    return [np.ascontiguousarray(square) for squares in varied for square in squares]


def _shipped(side: int) -> list[NDArray[np.uint8]]:
    found = []
    for path in sorted(PICTURES.glob("*.jpg")):
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if image is None:
            raise EngineError(f"The picture {path} that engines are compared on cannot be read. Install afresh.")
        pixels = np.asarray(image, np.uint8)
        found.append(letterbox(pixels, plan_letterbox(pixels.shape[1], pixels.shape[0], side)))
    return found


def _mirror(square: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return square[:, ::-1]


def _dim(square: NDArray[np.uint8]) -> NDArray[np.uint8]:
    dimmed: NDArray[np.uint8] = np.rint(square * np.float32(_DIMMED)).astype(np.uint8)
    return dimmed


def _enlarge(square: NDArray[np.uint8]) -> NDArray[np.uint8]:
    side = len(square)
    cut = round(side * (1 - _CENTRE) / 2)
    inner = np.ascontiguousarray(square[cut : side - cut, cut : side - cut])
    return np.asarray(cv2.resize(inner, (side, side), interpolation=cv2.INTER_LINEAR), np.uint8)


def _turn(square: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return square[::-1, ::-1]


def _shrink(square: NDArray[np.uint8]) -> NDArray[np.uint8]:
    side = len(square)
    inner = round(side * _SHRUNK)
    margin = (side - inner) // 2
    shrunk = np.full_like(square, PAD_VALUE)
    shrunk[margin : margin + inner, margin : margin + inner] = cv2.resize(
        square, (inner, inner), interpolation=cv2.INTER_AREA
    )
    return shrunk


def _blur(square: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(cv2.GaussianBlur(square, (0, 0), _BLUR), np.uint8)


_CHANGES = (_mirror, _dim, _enlarge, _turn, _shrink, _blur)

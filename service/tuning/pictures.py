"""The pictures that engines are compared on: stored ones and variations of them."""

import cv2
import numpy as np
from numpy.typing import NDArray

from service.bundle.manifest import InputSpec
from service.bundle.store import Bundle
from service.errors import EngineError
from service.pictures import PICTURES
from service.preprocessing.letterbox import PAD_VALUE, letterbox, plan_letterbox

#: Of a side; what lies within is enlarged to the whole.
_CENTRE = 0.8
#: Of a side that the whole is shrunk to.
_SHRUNK = 0.7
_DIMMED = 0.6
#: Standard deviation, pixels.
_BLUR = 1.0


def comparison_pictures(bundle: Bundle) -> list[NDArray[np.uint8]]:
    """Letterboxed pictures (H, W, 3) uint8 BGR: the bundle's self-check picture, the pictures that come with the
    project, and each of them mirrored, dimmed, enlarged, turned, shrunk and blurred. All as stored come first.

    Raises:
        BundleSchemaError: the stored picture cannot be read.
        EngineError: a picture is missing from the installation.
    """
    stored = [bundle.self_check_arrays()[0], *_shipped(bundle.manifest.model.input)]
    varied = [stored, *([change(picture) for picture in stored] for change in _CHANGES)]
    return [np.ascontiguousarray(picture) for pictures in varied for picture in pictures]


def _shipped(spec: InputSpec) -> list[NDArray[np.uint8]]:
    found = []
    for path in sorted(PICTURES.glob("*.jpg")):
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if image is None:
            raise EngineError(f"The picture {path} that engines are compared on cannot be read. Install afresh.")
        pixels = np.asarray(image, np.uint8)
        found.append(letterbox(pixels, plan_letterbox(pixels.shape[1], pixels.shape[0], spec.height, spec.rect)))
    return found


def _mirror(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return picture[:, ::-1]


def _dim(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    dimmed: NDArray[np.uint8] = np.rint(picture * np.float32(_DIMMED)).astype(np.uint8)
    return dimmed


def _enlarge(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = picture.shape[:2]
    down, across = (round(side * (1 - _CENTRE) / 2) for side in (height, width))
    inner = np.ascontiguousarray(picture[down : height - down, across : width - across])
    return np.asarray(cv2.resize(inner, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def _turn(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return picture[::-1, ::-1]


def _shrink(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = picture.shape[:2]
    rows, columns = round(height * _SHRUNK), round(width * _SHRUNK)
    top, left = (height - rows) // 2, (width - columns) // 2
    shrunk = np.full_like(picture, PAD_VALUE)
    shrunk[top : top + rows, left : left + columns] = cv2.resize(picture, (columns, rows), interpolation=cv2.INTER_AREA)
    return shrunk


def _blur(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), _BLUR), np.uint8)


_CHANGES = (_mirror, _dim, _enlarge, _turn, _shrink, _blur)

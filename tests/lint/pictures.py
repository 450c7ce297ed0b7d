"""Ordinary pictures for the linter: generated scenes in warm light, the same for the same index.

Generated scenes have no colour in common, so exchanging red and blue would leave them as they were. A camera's do.
"""

from pathlib import Path

import cv2
import numpy as np

from scripts.embedded_model.dataset import make_picture

_SEED = 77
_WARM = np.array([0.7, 0.9, 1.0])  # of blue, green and red


def picture(index: int) -> np.ndarray:
    """One scene, (H, W, 3) uint8 BGR."""
    scene = cv2.imdecode(np.frombuffer(make_picture(_SEED, "test", index)[0], np.uint8), cv2.IMREAD_COLOR)
    return np.rint(scene * _WARM).astype(np.uint8)


def picture_bytes(index: int) -> bytes:
    """The same as a JPEG file."""
    return cv2.imencode(".jpg", picture(index), [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes()


def write_pictures(folder: Path, count: int) -> Path:
    """Pictures 0 to ``count`` as files."""
    folder.mkdir(parents=True)
    for index in range(count):
        (folder / f"{index:04d}.jpg").write_bytes(picture_bytes(index))
    return folder

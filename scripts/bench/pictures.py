"""The pictures that are sent: four sizes made of two samples, always the same bytes with the same OpenCV."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

JPEG_QUALITY = 90
#: Grey levels. Enlarged pictures have no grain, and without it a 12-megapixel JPEG decodes faster than any photograph.
NOISE = 3.0
SEED = 20261129


@dataclass(frozen=True)
class Picture:
    """One JPEG file.

    Attributes:
        name: as on the command line.
        wh: width and height, pixels.
        jpeg: the whole file.
    """

    name: str
    wh: tuple[int, int]
    jpeg: bytes

    @property
    def title(self) -> str:
        """Name and size, for people."""
        return f"{self.name}, {self.wh[0]} x {self.wh[1]}"

    @property
    def sha256(self) -> str:
        """Of the file."""
        return hashlib.sha256(self.jpeg).hexdigest()


@dataclass(frozen=True)
class _Recipe:
    sample: str
    wh: tuple[int, int]


DEFAULT = "default"
_RECIPES = {
    DEFAULT: _Recipe("parcel.jpg", (1080, 810)),
    "small": _Recipe("parcel.jpg", (640, 480)),
    "full-hd": _Recipe("shelf.jpg", (1920, 1080)),
    "12-megapixel": _Recipe("parcel.jpg", (4000, 3000)),
}
NAMES = tuple(_RECIPES)


def make_picture(name: str, samples: Path) -> Picture:
    """Cut a sample to the proportions wanted, resize it and add grain.

    Args:
        name: one of ``NAMES``.
        samples: folder with the repository's samples.

    Raises:
        FileNotFoundError: the sample is not there.
    """
    recipe = _RECIPES[name]
    pixels = cv2.imread(str(samples / recipe.sample), cv2.IMREAD_COLOR)
    if pixels is None:
        raise FileNotFoundError(samples / recipe.sample)
    (width, height), (have_height, have_width) = recipe.wh, pixels.shape[:2]
    scale = min(have_width / width, have_height / height)
    cut_width, cut_height = round(width * scale), round(height * scale)
    left, top = (have_width - cut_width) // 2, (have_height - cut_height) // 2
    cut = pixels[top : top + cut_height, left : left + cut_width]
    grows = width > cut_width
    resized = cv2.resize(cut, recipe.wh, interpolation=cv2.INTER_CUBIC if grows else cv2.INTER_AREA)
    grain = np.random.default_rng(SEED).normal(0, NOISE, resized.shape)
    grainy = np.clip(np.rint(resized + grain), 0, 255).astype(np.uint8)
    _, encoded = cv2.imencode(".jpg", grainy, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return Picture(name, recipe.wh, encoded.tobytes())

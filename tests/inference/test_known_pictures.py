"""Pictures named by their bytes and read again: what the network gets is what it is served, or nothing."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.bundle.manifest import InputSpec, RectSpec
from service.errors import PictureUnusable
from service.inference.known_pictures import Picture, digest, read_fitted
from service.preprocessing.letterbox import letterbox, plan_letterbox
from tests.inference.pictures import as_viewed, encode, scene

MAX_PIXELS = 10_000
SQUARE = InputSpec(width=64, height=64, rect=None)
RECT = InputSpec(width=64, height=64, rect=RectSpec(multiple=32, shortest=32))


@pytest.fixture
def pictures(tmp_path: Path) -> list[Picture]:
    """Upright ones as PNG, and a JPEG that lies on its side."""
    files = {
        f"{number}.png": encode(Image.fromarray(scene(40 + 9 * number, 40, seed=number)), "PNG") for number in range(5)
    }
    files["turned.jpg"] = encode(Image.fromarray(scene(80, 30)), "JPEG", orientation=6, quality=100)
    found = []
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        found.append(Picture(tmp_path / name, hashlib.sha256(data).hexdigest()))
    return found


def test_the_digest_can_be_computed_in_the_shell(pictures: list[Picture]) -> None:
    """sha256sum FILES | cut -c-64 | sort | sha256sum"""
    sums = sorted(picture.sha256 for picture in pictures)
    expected = hashlib.sha256(("\n".join(sums) + "\n").encode()).hexdigest()
    assert digest(pictures) == digest(pictures[::-1]) == expected != digest(pictures[1:])


@pytest.mark.parametrize("spec", [SQUARE, RECT], ids=["square", "rect"])
def test_they_come_as_the_network_is_served_them(pictures: list[Picture], spec: InputSpec) -> None:
    """Turned upright and letterboxed with grey, as Pillow sees the file."""
    told: list[tuple[int, int]] = []
    fitted = list(read_fitted(pictures, spec, MAX_PIXELS, lambda done, total: told.append((done, total))))
    for picture, pixels in zip(pictures, fitted, strict=True):
        viewed = as_viewed(picture.path.read_bytes())
        expected = letterbox(viewed, plan_letterbox(viewed.shape[1], viewed.shape[0], 64, spec.rect))
        assert pixels.shape == expected.shape
        assert np.abs(pixels.astype(int) - expected).max() <= (3 if picture.path.name == "turned.jpg" else 0)
    assert {pixels.shape for pixels in fitted} == ({(64, 64, 3)} if spec is SQUARE else {(64, 64, 3), (64, 32, 3)})
    assert told == [(done, len(pictures)) for done in range(1, len(pictures) + 1)]


def test_one_that_changes_on_the_way_ends_it(pictures: list[Picture]) -> None:
    pictures[3].path.write_bytes(pictures[4].path.read_bytes())
    with pytest.raises(PictureUnusable, match=r"3\.png has changed since the folder was read\."):
        list(read_fitted(pictures, SQUARE, MAX_PIXELS))
    pictures[3].path.unlink()
    with pytest.raises(PictureUnusable, match=r"3\.png cannot be used: "):
        list(read_fitted(pictures, SQUARE, MAX_PIXELS))


def test_one_that_cannot_be_served_ends_it(pictures: list[Picture], tmp_path: Path) -> None:
    """A folder may be read without decoding what is in it."""
    for name, data in (("large.png", encode(Image.fromarray(scene(101, 100)), "PNG")), ("no.jpg", b"no picture")):
        (tmp_path / name).write_bytes(data)
        one = Picture(tmp_path / name, hashlib.sha256(data).hexdigest())
        with pytest.raises(PictureUnusable, match=f"{name} cannot be used: "):
            list(read_fitted([*pictures, one], SQUARE, MAX_PIXELS))

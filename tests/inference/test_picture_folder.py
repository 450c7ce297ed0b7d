"""What becomes of each file in a folder of pictures, for every command that reads one."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.bundle.store import Bundle
from service.drift.calibration import LEAST_PICTURES
from service.errors import CalibrationUnusable
from service.inference.calibration_pictures import measure_folder
from service.inference.picture_folder import Decoded, Repeated, Unreadable, picture_files, read_files
from tests.inference.pictures import as_viewed, encode, scene

MAX_PIXELS = 10_000


def write(folder: Path, count: int) -> list[Path]:
    paths = [folder / f"{number:03d}.png" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_bytes(encode(Image.fromarray(scene(30, 40, seed=number)), "PNG"))
    return paths


def test_files_named_like_pictures_are_found_at_any_depth_in_order(tmp_path: Path) -> None:
    for name in ("b.JPG", "a/c.png", "a/b/d.tiff", "notes.txt", "jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert picture_files(tmp_path) == [tmp_path / name for name in ("a/b/d.tiff", "a/c.png", "b.JPG")]


def test_every_file_is_decoded_repeated_or_unreadable(tmp_path: Path) -> None:
    first, second = write(tmp_path, 2)
    again, large, scan, gone = (tmp_path / name for name in ("again.png", "large.png", "scan.tiff", "gone.png"))
    shutil.copy(second, again)
    large.write_bytes(encode(Image.fromarray(scene(101, 100)), "PNG"))
    scan.write_bytes(encode(Image.fromarray(scene()), "TIFF"))
    found = list(read_files([first, second, again, large, scan, gone], MAX_PIXELS))
    kinds = [Decoded, Decoded, Repeated, Unreadable, Unreadable, Unreadable]
    assert [type(one) for one in found] == kinds
    assert [one.path for one in found] == [first, second, again, large, scan, gone]
    for one in found[:2]:
        assert isinstance(one, Decoded)
        assert one.sha256 == hashlib.sha256(one.path.read_bytes()).hexdigest()
        assert np.array_equal(one.pixels, as_viewed(one.path.read_bytes()))
    assert "10000" in found[3].reason


def test_calibration_names_a_format_that_is_not_served_as_recalibration_does(bundle: Bundle, tmp_path: Path) -> None:
    write(tmp_path, LEAST_PICTURES)
    (tmp_path / "000.tiff").write_bytes(encode(Image.fromarray(scene()), "TIFF"))
    with pytest.raises(CalibrationUnusable, match=r"000\.tiff cannot be used: "):
        measure_folder(bundle, tmp_path, MAX_PIXELS, lambda _done, _total: None)

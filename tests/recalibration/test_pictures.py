"""Which pictures of a folder are used, and what is said about the others."""

import hashlib
import shutil
from pathlib import Path

import pytest
from PIL import Image

from service.errors import RecalibrationError
from service.inference.known_pictures import digest
from service.recalibration.pictures import LEAST_FITTED, PictureSet, open_pictures
from tests.inference.pictures import encode, scene

MAX_PIXELS = 10_000


def write(folder: Path, count: int) -> list[Path]:
    """Different pictures, some of them in folders below."""
    paths = []
    for number in range(count):
        path = folder / ("deep/er" if number % 3 == 0 else "") / f"{number:03d}.PNG"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(Image.fromarray(scene(30 + number, 40, seed=number)), "PNG"))
        paths.append(path)
    return paths


def read(folder: Path, hold_back: float = 0.0) -> PictureSet:
    return open_pictures(folder, hold_back, MAX_PIXELS, lambda done, total: None)


def test_every_picture_below_the_folder_is_either_fitted_or_held_back(tmp_path: Path) -> None:
    paths = write(tmp_path, 30)
    (tmp_path / "notes.txt").write_text("no picture")
    found = read(tmp_path, 0.2)
    assert (len(found.fitted), len(found.held_back)) == (24, 6)
    assert {one.path for one in found.fitted + found.held_back} == set(paths)
    for one in found.fitted:
        assert one.sha256 == hashlib.sha256(one.path.read_bytes()).hexdigest()


def test_the_pictures_decide_and_not_their_names(tmp_path: Path) -> None:
    for name, path in zip("zyxwvutsrqponmlkjihg", write(tmp_path / "a", 20), strict=True):
        (tmp_path / "b").mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / "b" / f"{name}.png")
    a, b = read(tmp_path / "a", 0.1), read(tmp_path / "b", 0.1)
    assert [one.sha256 for one in a.fitted] == [one.sha256 for one in b.fitted]
    assert [one.sha256 for one in a.held_back] == [one.sha256 for one in b.held_back]
    assert digest(a.fitted) == digest(b.fitted) != digest(a.fitted[1:])


def test_what_cannot_be_served_is_skipped_by_name_and_repetitions_are_counted(tmp_path: Path) -> None:
    paths = write(tmp_path, LEAST_FITTED)
    shutil.copy(paths[3], tmp_path / "once_more.png")
    shutil.copy(paths[3], tmp_path / "and_again.jpeg")
    cut, large, other = tmp_path / "cut.jpg", tmp_path / "large.png", tmp_path / "other.tiff"
    cut.write_bytes(encode(Image.fromarray(scene()), "JPEG")[:300])
    large.write_bytes(encode(Image.fromarray(scene(101, 100)), "PNG"))
    other.write_bytes(encode(Image.fromarray(scene()), "TIFF"))
    found = read(tmp_path)
    assert [one.path for one in found.skipped] == [cut, large, other]
    assert "10000" in found.skipped[1].reason
    assert (len(found.fitted), found.repeated) == (LEAST_FITTED, 2)


def test_too_few_pictures_are_refused_with_what_is_wrong_with_the_rest(tmp_path: Path) -> None:
    write(tmp_path, LEAST_FITTED)
    assert len(read(tmp_path).fitted) == LEAST_FITTED
    with pytest.raises(RecalibrationError, match=f"leaves {LEAST_FITTED - 2} pictures .* with 2 held back; it takes"):
        read(tmp_path, 0.1)
    (tmp_path / "001.PNG").write_bytes(b"no")
    with pytest.raises(RecalibrationError, match=r"1 cannot be read, such as .*001\.PNG"):
        read(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(RecalibrationError, match="leaves 0 pictures"):
        read(tmp_path / "empty")
    for nowhere in (tmp_path / "nowhere", tmp_path / "002.PNG"):
        with pytest.raises(RecalibrationError, match="not a folder"):
            read(nowhere)

"""Which pictures of a folder are taken: those that differ, evenly chosen among them."""

from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from service.bundle.store import Bundle
from service.commands.calibrate import calibrate
from service.drift.calibration import LEAST_PICTURES
from service.errors import CalibrationUnusable
from service.inference.calibration_file import calibration_path
from service.inference.calibration_pictures import calibration_files, even_choice, measure_folder, read_pictures
from service.lint.faults import PICTURE_FAULTS


def write(folder: Path, name: str, level: int) -> None:
    cv2.imwrite(str(folder / f"{name}.png"), np.full((4, 4, 3), level, np.uint8))


def levels(folder: Path) -> tuple[list[int], list[tuple[int, int]]]:
    """The grey levels of the pictures read, and the progress told."""
    told: list[tuple[int, int]] = []
    pictures = read_pictures(calibration_files(folder), 10**6, lambda done, total: told.append((done, total)))
    return [int(picture[0, 0, 0]) for picture in pictures], told


def test_copies_do_not_take_the_place_of_different_pictures(tmp_path: Path) -> None:
    for level in range(LEAST_PICTURES):
        for copy in range(3):
            write(tmp_path, f"{level:03}-{copy}", level)
    everything, told = levels(tmp_path)
    assert everything == list(range(LEAST_PICTURES))
    assert told == [(done + 1, LEAST_PICTURES) for done in range(LEAST_PICTURES)]


def test_the_choice_is_even() -> None:
    some = even_choice(128, 100).tolist()
    assert len(some) == 100 and (some[0], some[-1]) == (0, 127)
    assert set(np.diff(some).tolist()) <= {1, 2}  # 128 / 100
    assert even_choice(3, 3).tolist() == even_choice(3, 100).tolist() == [0, 1, 2]


def test_each_file_is_read_once(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((8 << number, 8, 3), 9 * number, np.uint8))
    assert len({path.stat().st_size for path in tmp_path.iterdir()}) == 3
    monkeypatch.setattr("service.inference.calibration_pictures.LEAST_PICTURES", 3)
    read, read_bytes = Counter[str](), Path.read_bytes

    def count(path: Path) -> bytes:
        read[path.name] += 1
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", count)
    found = measure_folder(bundle, tmp_path, 10**6, lambda _done, _total: None, most_with_faults=2)
    assert {name: read[name] for name in ("0.png", "1.png", "2.png")} == {"0.png": 1, "1.png": 1, "2.png": 1}
    assert len(found.samples) == 3
    assert found.faults.shape[:2] == (2, len(PICTURE_FAULTS)) and np.isfinite(found.faults).all()


def test_a_file_that_cannot_be_written_is_said_before_any_picture_is_read(bundle_copy: Bundle, tmp_path: Path) -> None:
    calibration_path(bundle_copy).mkdir()
    try:
        with pytest.raises(CalibrationUnusable, match="cannot be written: Is a directory"):
            calibrate(data=tmp_path, weights="embedded", bundle_dir=bundle_copy.path)
    finally:
        calibration_path(bundle_copy).rmdir()
    place = list(bundle_copy.path.parent.iterdir())
    with pytest.raises(CalibrationUnusable, match="0 different pictures"):
        calibrate(data=tmp_path, weights="embedded", bundle_dir=bundle_copy.path)
    assert list(bundle_copy.path.parent.iterdir()) == place  # the check has left nothing


def test_copies_do_not_count(tmp_path: Path) -> None:
    for number in range(LEAST_PICTURES + 5):
        write(tmp_path, f"{number:03}", number % (LEAST_PICTURES - 1))
    with pytest.raises(CalibrationUnusable, match=f"holds {LEAST_PICTURES - 1} different pictures"):
        levels(tmp_path)

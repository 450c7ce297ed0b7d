"""Which pictures of a folder are taken: those that differ, evenly chosen among them."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from service.drift.calibration import LEAST_PICTURES
from service.errors import CalibrationUnusable
from service.inference.calibration_pictures import read_pictures


def write(folder: Path, name: str, level: int) -> None:
    cv2.imwrite(str(folder / f"{name}.png"), np.full((4, 4, 3), level, np.uint8))


def levels(folder: Path, most: int | None) -> tuple[list[int], list[tuple[int, int]]]:
    """The grey levels of the pictures read, and the progress told."""
    told: list[tuple[int, int]] = []
    pictures = read_pictures(folder, 10**6, most, lambda done, total: told.append((done, total)))
    return [int(picture[0, 0, 0]) for picture in pictures], told


def test_copies_do_not_take_the_place_of_different_pictures(tmp_path: Path) -> None:
    for level in range(LEAST_PICTURES):
        for copy in range(3):
            write(tmp_path, f"{level:03}-{copy}", level)
    everything, told = levels(tmp_path, None)
    assert everything == list(range(LEAST_PICTURES))
    assert told == [(done + 1, LEAST_PICTURES) for done in range(LEAST_PICTURES)]
    some, told = levels(tmp_path, 100)
    assert len(some) == len(set(some)) == 100 and (some[0], some[-1]) == (0, LEAST_PICTURES - 1)
    assert told[-1] == (100, 100)
    steps = np.diff(some)
    assert set(steps.tolist()) <= {1, 2}  # 128 / 100


def test_copies_do_not_count(tmp_path: Path) -> None:
    for number in range(LEAST_PICTURES + 5):
        write(tmp_path, f"{number:03}", number % (LEAST_PICTURES - 1))
    with pytest.raises(CalibrationUnusable, match=f"holds {LEAST_PICTURES - 1} different pictures"):
        levels(tmp_path, None)

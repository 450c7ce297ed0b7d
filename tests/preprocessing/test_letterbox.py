"""Letterboxing against Ultralytics' own, to the byte, and its inverse against ``scale_boxes``."""

import numpy as np
import pytest
from ultralytics.data.augment import LetterBox
from ultralytics.utils.ops import scale_boxes

from service.preprocessing.letterbox import letterbox, plan_letterbox, unletterbox_xyxy

SIZES = [
    (810, 1080),
    (1280, 720),
    (640, 640),
    (320, 320),
    (1, 1),
    (1, 3000),
    (3000, 1),
    (641, 427),
    (427, 641),
    (33, 77),
]


def picture(width: int, height: int) -> np.ndarray:
    return np.random.default_rng(width * 10_000 + height).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("size", [128, 320, 640])
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_pixels_equal_ultralytics(width: int, height: int, size: int) -> None:
    image = picture(width, height)
    expected = LetterBox((size, size), auto=False)(image=image)
    np.testing.assert_array_equal(letterbox(image, plan_letterbox(width, height, size)), expected)


TURNS = {
    "mirrored": lambda image: image[:, ::-1],
    "upside-down": lambda image: image[::-1],
    "transposed": lambda image: image.transpose(1, 0, 2),
    "clockwise": lambda image: image.transpose(1, 0, 2)[:, ::-1],
}


@pytest.mark.parametrize("size", [128, 320, 640])
@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize(
    ("width", "height"), [*SIZES, (640, 1280), (1283, 4001), (65_000, 3), (3, 65_000), (5000, 257)]
)
def test_a_turned_view_gives_the_pixels_of_its_copy(width: int, height: int, turn: str, size: int) -> None:
    """Only what OpenCV reads of a view is copied; what it reads must be found for any scale."""
    view = TURNS[turn](picture(width, height))
    plan = plan_letterbox(view.shape[1], view.shape[0], size)
    np.testing.assert_array_equal(letterbox(view, plan), letterbox(np.ascontiguousarray(view), plan))


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_drawing_into_a_used_canvas_leaves_nothing_of_the_last_picture(width: int, height: int) -> None:
    image, plan = picture(width, height), plan_letterbox(width, height, 320)
    canvas = np.full((320, 320, 3), 7, np.uint8)
    assert letterbox(image, plan, canvas) is canvas
    np.testing.assert_array_equal(canvas, letterbox(image, plan))


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_boxes_come_back_as_ultralytics_scales_them(width: int, height: int) -> None:
    boxes = np.random.default_rng(5).uniform(-20, 660, (50, 4)).astype(np.float32)
    expected = scale_boxes((640, 640), boxes.copy(), (height, width))
    found = unletterbox_xyxy(boxes, plan_letterbox(width, height, 640))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-2)
    assert found.min() >= 0 and found[:, ::2].max() <= width and found[:, 1::2].max() <= height


def test_no_boxes_stay_no_boxes() -> None:
    assert unletterbox_xyxy(np.empty((0, 4), np.float32), plan_letterbox(10, 20, 640)).shape == (0, 4)

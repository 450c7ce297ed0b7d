"""Padding found in tensors that the service's own letterbox made, and in others' ways of padding."""

import numpy as np
import pytest

from service.lint.padding import crop_padding, find_padding
from service.preprocessing.letterbox import PAD_VALUE, letterbox, plan_letterbox


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3)).astype(np.uint8)


def tensor_of(picture: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(picture[..., ::-1].transpose(2, 0, 1)).astype(np.float32) / 255


@pytest.mark.parametrize(("width", "height"), [(640, 480), (480, 640), (1920, 1080), (333, 200), (200, 333)])
def test_the_letterbox_of_the_service_is_found_to_the_pixel(width, height):
    plan = plan_letterbox(width, height, 320)
    tensor = tensor_of(letterbox(noise(height, width), plan))
    padding = find_padding(tensor)
    assert padding is not None
    assert (padding.left, padding.top) == plan.offset_xy
    assert crop_padding(tensor, padding).shape[1:] == plan.resized_wh[::-1]
    assert padding.expected
    assert padding.color == pytest.approx([PAD_VALUE / 255] * 3)


@pytest.mark.parametrize("color", [(0, 0, 0), (255, 255, 255), (128, 128, 128), (114, 114, 120), (10, 200, 30)])
def test_another_color_is_told(color):
    square = np.full((320, 320, 3), color[::-1], np.uint8)
    square[40:280] = noise(240, 320)
    padding = find_padding(tensor_of(square))
    assert padding is not None
    assert (padding.top, padding.bottom, padding.left, padding.right) == (40, 40, 0, 0)
    assert padding.color == pytest.approx([value / 255 for value in color])
    assert not padding.expected


def test_padding_at_the_bottom_or_the_right_alone_is_found():
    square = np.full((320, 320, 3), PAD_VALUE, np.uint8)
    square[:240] = noise(240, 320)
    padding = find_padding(tensor_of(square))
    assert padding is not None
    assert (padding.top, padding.bottom, padding.left, padding.right) == (0, 80, 0, 0)
    turned = find_padding(np.ascontiguousarray(tensor_of(square).transpose(0, 2, 1)))
    assert turned is not None
    assert (turned.top, turned.bottom, turned.left, turned.right) == (0, 0, 0, 80)


def test_pictures_without_padding_have_none():
    assert find_padding(tensor_of(noise(64, 64))) is None
    sky = noise(320, 320)
    sky[:50] = 255  # blown out
    assert find_padding(tensor_of(sky)) is None
    uneven = noise(320, 320)
    uneven[:30], uneven[-12:] = 0, 0
    assert find_padding(tensor_of(uneven)) is None
    two_colors = noise(320, 320)
    two_colors[:30], two_colors[-30:] = 0, 255
    padding = find_padding(tensor_of(two_colors))
    assert padding is None or padding.top == 0
    assert find_padding(np.full((3, 64, 64), 0.5, np.float32)) is None


def test_nothing_is_cropped_where_nothing_was_found():
    tensor = tensor_of(noise(64, 96))
    assert crop_padding(tensor, None) is tensor

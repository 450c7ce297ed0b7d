"""What is done band by band to spare memory is what would be done to the whole picture."""

import numpy as np

from service.preprocessing.corruptions import add_noise, darken

PIXELS = np.random.default_rng(1).integers(0, 256, (150, 70, 3), dtype=np.uint8)


def test_noise_is_drawn_over_the_whole_picture() -> None:
    noise = np.random.default_rng(0).normal(0, 15, PIXELS.shape)
    expected = np.clip(np.rint(PIXELS + noise), 0, 255).astype(np.uint8)
    np.testing.assert_array_equal(add_noise(PIXELS), expected)


def test_darkness_is_a_share_of_each_value() -> None:
    np.testing.assert_array_equal(darken(PIXELS), (PIXELS * 0.4).astype(np.uint8))

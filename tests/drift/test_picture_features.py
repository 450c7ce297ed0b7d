"""The row of numbers that stands for a picture."""

import math

import numpy as np
import pytest

from service.drift.features import LOG_FLOOR, picture_features


def test_means_come_first_then_the_logarithms_of_the_variances() -> None:
    means, variances = np.arange(6.0).reshape(2, 3), np.arange(6.0).reshape(2, 3) ** 2
    found = picture_features(means, variances)
    assert found.shape == (2, 6)
    for picture in range(2):
        for channel in range(3):
            assert found[picture, channel] == means[picture, channel]
            expected = math.log(float(variances[picture, channel]) + LOG_FLOOR)
            assert found[picture, 3 + channel] == pytest.approx(expected, rel=1e-12)


def test_one_picture_and_single_precision_will_do() -> None:
    found = picture_features(np.zeros(4, np.float32), np.ones(4, np.float32))
    assert found.shape == (8,)
    assert found.dtype == np.float64


def test_a_flat_picture_has_finite_features() -> None:
    assert np.isfinite(picture_features(np.zeros(3), np.zeros(3))).all()


def test_moments_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        picture_features(np.zeros((2, 3)), np.zeros((2, 4)))
    with pytest.raises(ValueError, match="negative"):
        picture_features(np.zeros(3), np.array([1.0, -1.0, 1.0]))

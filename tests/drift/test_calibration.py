"""A calibration is of the pictures given, and of enough of them."""

import numpy as np
import pytest

from service.bundle.store import Bundle
from service.drift.calibration import calibrate
from service.drift.features import Samples
from service.drift.layers import watch_layers
from service.errors import CalibrationUnusable
from tests.drift.readings import invented_calibration, invented_samples


def test_the_calibration_is_of_the_pictures(bundle: Bundle) -> None:
    samples, calibration = invented_samples(bundle, 128), invented_calibration(bundle)
    assert calibration.baseline.pictures == 128 and calibration.baseline.rate == 0.02
    np.testing.assert_allclose(calibration.law.mean, samples.means.mean(0), rtol=1e-12)
    total = samples.variances.mean(0) + samples.means.var(0)
    np.testing.assert_allclose(calibration.law.variance, total, rtol=1e-12)


def test_few_or_like_pictures_are_refused(bundle: Bundle) -> None:
    channels, few = watch_layers(bundle).channels, invented_samples(bundle, 63)
    twice = Samples(*(np.concatenate([part, part]) for part in (few.means, few.variances, few.figures)))
    for samples, count in ((few, 63), (twice, 126)):
        with pytest.raises(CalibrationUnusable, match=f"Only 63 of {count} pictures differ"):
            calibrate(samples, channels, 0.01, "")

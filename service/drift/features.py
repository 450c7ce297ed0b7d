"""One row of numbers per picture: what of it is compared with the calibration pictures."""

import numpy as np
from numpy.typing import NDArray

LOG_FLOOR = 1e-4
"""Added to a variance before its logarithm, in squared units of the layer's output. It bounds what a flat picture can
do: the feature falls to ln(1e-4) = -9.2, not to minus infinity."""


def picture_features(means: NDArray[np.float64], variances: NDArray[np.float64]) -> NDArray[np.float64]:
    """The channels' means, then the logarithms of their variances over a picture's positions.

    ``means`` and ``variances`` have shape (..., C), all probed layers side by side; the answer has (..., 2C).

    Raises:
        ValueError: the shapes differ or a variance is negative.
    """
    means, variances = np.asarray(means, np.float64), np.asarray(variances, np.float64)
    if means.shape != variances.shape:
        raise ValueError(f"means {means.shape} and variances {variances.shape} differ in shape")
    if (variances < 0).any():
        raise ValueError("a variance must not be negative")
    return np.concatenate([means, np.log(variances + LOG_FLOOR)], axis=-1)

"""One picture, or a window of them, as rows of numbers that can be compared."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service.drift.distances import Array, Law, log_variance_ratio, shift


def picture_features(mean: Array, variance: Array, law: Law) -> Array:
    """A picture's features (2 * living channels,): z of each living channel, then ln(v / s2) of each.

    Args:
        mean, variance: (channels,) over the positions of the picture's maps.
    """
    alive = law.alive
    living = Law(law.mean[alive], law.variance[alive])
    return np.concatenate([shift(mean[alive], living), log_variance_ratio(variance[alive], living)])


def pool(means: Array, variances: Array) -> Law:
    """The law of all positions of several pictures, each picture weighing the same.

    By the law of total variance: the mean of the variances and the variance of the means.

    Args:
        means, variances: (pictures, channels).
    """
    return Law(means.mean(0), variances.mean(0) + means.var(0))


def feature_channels(law: Law) -> NDArray[np.intp]:
    """The channel that each feature of ``picture_features`` is about, (2 * living channels,)."""
    living = np.flatnonzero(law.alive)
    return np.concatenate([living, living])


def join_laws(laws: Sequence[Law]) -> Law:
    """The laws of several layers as one, channels one after the other."""
    return Law(np.concatenate([law.mean for law in laws]), np.concatenate([law.variance for law in laws]))

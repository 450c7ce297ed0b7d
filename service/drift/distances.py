"""How far one normal law is from another, per channel: observed mean m and variance v, reference mu and s2.

All functions take and give float64 arrays (channels,). Variances below a millionth of the reference's count as that:
a channel that a black picture leaves constant is far away, not infinitely far.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.bundle.batchnorm import DEAD_STD

Array = NDArray[np.float64]

#: Least variance told apart from none, over the reference's; float32 maps round to about this.
LEAST_VARIANCE_RATIO = 1e-6


@dataclass(frozen=True)
class Law:
    """Means and variances (channels,) that a layer's outputs are held against."""

    mean: Array
    variance: Array

    @property
    def alive(self) -> NDArray[np.bool_]:
        """Channels that vary at all, (channels,); the others have no deviation to measure in and take no part."""
        return self.variance > DEAD_STD**2


def training_law(gamma: NDArray, beta: NDArray, running_var: NDArray, eps: float) -> Law:
    """The law that a BatchNorm gave its output in training, and that the folded convolution still has.

    y = gamma (x - mean) / sqrt(var + eps) + beta, hence mean beta and variance gamma^2 var / (var + eps) over inputs
    of mean ``mean`` and variance ``var`` (Ioffe and Szegedy 2015, arXiv:1502.03167, algorithm 1).

    Args:
        gamma, beta, running_var: (channels,) of any floating type; reckoned in float64.
    """
    wide = [np.asarray(values, np.float64) for values in (gamma, beta, running_var)]
    return Law(wide[1], wide[0] ** 2 * wide[2] / (wide[2] + eps))


def shift(mean: Array, law: Law) -> Array:
    """z: the shift of the mean in standard deviations of the reference, signed."""
    return (mean - law.mean) / np.sqrt(law.variance)


def log_variance_ratio(variance: Array, law: Law) -> Array:
    """ln(v / s2): 0 for the same spread, ln 2 for twice the variance."""
    return np.log(_floored(variance, law) / law.variance)


def symmetric_kl(mean: Array, variance: Array, law: Law) -> Array:
    """Half the sum of both Kullback-Leibler divergences of the two normal laws (Jeffreys 1946, halved), in nats:

    ((v + d^2) / s2 + (s2 + d^2) / v) / 4 - 1/2 with d = m - mu.
    """
    squared, observed = (mean - law.mean) ** 2, _floored(variance, law)
    return ((observed + squared) / law.variance + (law.variance + squared) / observed) / 4 - 0.5


def wasserstein2(mean: Array, variance: Array, law: Law) -> Array:
    """The 2-Wasserstein distance of the two normal laws in standard deviations of the reference:
    sqrt(d^2 + (sqrt v - s)^2) / s (Dowson and Landau, Journal of Multivariate Analysis 12, 1982)."""
    deviation = np.sqrt(law.variance)
    squared = (mean - law.mean) ** 2 + (np.sqrt(_floored(variance, law)) - deviation) ** 2
    return np.asarray(np.sqrt(squared) / deviation)


def _floored(variance: Array, law: Law) -> Array:
    return np.maximum(variance, LEAST_VARIANCE_RATIO * law.variance)

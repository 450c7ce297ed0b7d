"""A covariance that can be inverted even where there are more features than pictures."""

import numpy as np
from numpy.typing import NDArray

LEAST_SHRINKAGE = 1e-6
"""Share of the identity that is always mixed in. The estimate alone can be nil, and then nothing could be inverted."""


def shrunk_covariance(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """The covariance (F, F) of centred ``samples`` (N, F), drawn towards a multiple of the identity: positive definite.

    Ledoit & Wolf, "A well-conditioned estimator for large-dimensional covariance matrices", Journal of Multivariate
    Analysis 88 (2004) 365-411: with S the sample covariance and m = tr(S) / F, the estimate is
    (b2 / d2) m I + (1 - b2 / d2) S, where d2 = |S - m I|^2 and b2 = min(d2, sum_k |x_k x_k' - S|^2 / N^2), both in
    the squared Frobenius norm (the paper's division by F cancels).

    Raises:
        ValueError: there is no sample, or none differs from 0.
    """
    count, width = samples.shape
    if not samples.any():
        raise ValueError("samples that do not vary have no covariance to invert")
    sample = samples.T @ samples / count
    level = float(np.trace(sample)) / width
    squared = float(np.square(sample).sum())
    dispersion = squared - width * level**2
    fourth = float(np.square(np.square(samples).sum(axis=1)).sum())
    # The cross terms of the sum over k add up to N |S|^2, which spares forming the N products.
    error = max(fourth / count - squared, 0.0) / count
    intensity = 1.0 if error >= dispersion else max(error / dispersion, LEAST_SHRINKAGE)
    estimate: NDArray[np.float64] = (1 - intensity) * sample
    estimate[np.diag_indices(width)] += intensity * level
    return estimate

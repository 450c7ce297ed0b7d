"""A covariance that can be inverted although there are more features than pictures."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Shrunk:
    """A shrunk covariance (P, P) and the share of it that is the scaled identity, 0 to 1."""

    covariance: Array
    shrinkage: float


def shrink_covariance(rows: Array) -> Shrunk:
    """The estimator of Ledoit and Wolf, "A well-conditioned estimator for large-dimensional covariance matrices",
    Journal of Multivariate Analysis 88 (2004), lemma 3.2 and theorem 3.2.

    With S the sample covariance (division by N, the mean being estimated), m = trace(S) / P and the norm
    ||A||^2 = trace(A A') / P: d2 = ||S - m I||^2, b2 = min(d2, sum over rows of ||x x' - S||^2 / N^2), and the
    estimate is b2/d2 m I + (1 - b2/d2) S.

    Args:
        rows: (N, P), N at least 2.
    """
    count, features = rows.shape
    centred = rows - rows.mean(0)
    sample = centred.T @ centred / count
    scale = float(np.trace(sample)) / features
    square = float((sample**2).sum())
    distance = square / features - scale**2
    if distance <= 0:  # S is a multiple of the identity already
        return Shrunk(scale * np.eye(features), 1.0)
    # sum ||x x' - S||^2 = sum |x|^4 - N ||S||^2, since the x x' sum to N S.
    fourth = float((np.einsum("ij,ij->i", centred, centred) ** 2).sum())
    error = (fourth - count * square) / count**2 / features
    share = min(error, distance) / distance
    sample *= 1 - share
    sample[np.diag_indices(features)] += share * scale
    return Shrunk(sample, share)


def whitening(covariance: Array) -> Array:
    """A matrix T (P, P) with T' C T = I, so that |d T| is the Mahalanobis length of a row d.

    Directions of no variance, which only exactly repeated features leave, are ignored.
    """
    values, vectors = np.linalg.eigh(covariance)
    kept = values > values[-1] * 1e-12
    scaled = np.zeros_like(vectors)
    scaled[:, kept] = vectors[:, kept] / np.sqrt(values[kept])
    return scaled

"""What windows of ordinary pictures look like, and from where on a window no longer does.

A window is so many successive pictures. Each becomes a vector from the calibration pictures' centre in whitened
coordinates (those of Mahalanobis' distance, with the shrunk covariance of ``shrinkage``) and is shortened to
``REACH``, so that one black picture is no drift. The window's score is the length of their mean, per feature and in
standard errors: it is of order 1 for ordinary pictures. No theory gives a threshold, since features are neither
normal nor independent. It comes from windows of calibration pictures that were left out of the fit.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from service.drift.distances import LARGEST
from service.drift.shrinkage import shrunk_covariance

WINDOW = 32
"""Pictures per full window. Longer ones would answer too late, and slow changes would be averaged away."""
LEFT_OUT = 16
"""Pictures left out of a fit to set the threshold, and so the shortest window it holds for. Half a window leaves more
pictures to fit, and its scores scatter a little more than a full window's: the threshold errs to the safe side."""
REACH = 0.7
"""Greatest length of a whitened picture, as the root mean square of its features. Of new ordinary photographs one in
five is longer; their median is 0.55. It bounds a picture's share in a mean, and it also sees blur, noise and swapped
channels better than 1 or no limit do, since rare pictures no longer widen the ordinary scatter."""
MIN_PICTURES = 64
"""Four windows of ``LEFT_OUT``. So few keep the rate, but see only gross faults in most windows; 128 see far more."""
SPLITS = 200
"""How often a window is left out and the rest fitted."""
LEAST_SCALE = 1e-3
"""Least scale of a feature, relative to its centre or to 1. Half precision alone changes a number by 5e-4, and a
feature that never varied must not turn the last digit of a float into a drift."""


@dataclass(frozen=True)
class Baseline:
    """A fit to N calibration pictures of F features each."""

    center: NDArray[np.float64]
    """(F,), the features' means."""
    scale: NDArray[np.float64]
    """(F,), the features' standard deviations over pictures, floored by ``LEAST_SCALE``."""
    whitening: NDArray[np.float64]
    """(F, F), the symmetric inverse square root of the standardised features' shrunk covariance."""
    threshold: float
    """A window of ``LEFT_OUT`` to ``WINDOW`` pictures whose score exceeds it has drifted."""
    rate: float
    """False alarms wanted, as a share of the windows of ordinary pictures."""
    pictures: int
    """N."""
    measured_rate: float
    """Share of left-out windows over the threshold. The fit has not seen their pictures, but the threshold was set on
    these very windows, and they overlap: a check of the threshold, no independent measurement."""

    def score(self, features: NDArray[np.float64]) -> float:
        """The score of one window, ``features`` (W, F) with W from 1 to ``WINDOW``.

        Its mean over ordinary windows hardly depends on W, but its scatter grows as W falls: a window shorter than
        ``LEFT_OUT`` exceeds the threshold more often than ``rate`` says. It is below sqrt(W) ``REACH``.

        Raises:
            ValueError: the shape is another, or a feature is not finite.
        """
        standardised = (self._checked(features) - self.center) / self.scale
        return _window_score(standardised @ self.whitening, self.pictures)

    def _checked(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        features = np.asarray(features, np.float64)
        if features.ndim != 2 or features.shape[1] != len(self.center) or not 1 <= len(features) <= WINDOW:
            raise ValueError(f"expected 1 to {WINDOW} pictures of {len(self.center)} features, not {features.shape}")
        return _finite(features)


def fit_baseline(features: NDArray[np.float64], rate: float, rng: np.random.Generator) -> Baseline:
    """Fit centre, scale and whitening to all of ``features`` (N, F), and a threshold to windows left out.

    ``SPLITS`` times ``LEFT_OUT`` pictures are left out, the rest fitted and the window of those left out scored: each
    score is a draw from the law of ordinary windows under a fit that has not seen them. The logarithms of the scores
    are near normal, and the threshold is their mean plus so many standard deviations as a normal law exceeds at
    ``rate``. N pictures hold only N / ``LEFT_OUT`` windows that share no picture, and a standard deviation from n
    windows has the relative standard error 1 / sqrt(2 n); it is raised by half of that.

    Pictures that resemble each other (frames of one video, crops of one photograph) count as fewer than N, and no
    fit can see that: then false alarms on other scenes are more frequent than ``rate`` says.

    Raises:
        ValueError: fewer than ``MIN_PICTURES`` pictures, a rate outside 0 to 0.5 (both excluded), a feature that is
            not finite, or no feature that varies.
    """
    features = np.asarray(features, np.float64)
    if features.ndim != 2 or len(features) < MIN_PICTURES:
        raise ValueError(f"at least {MIN_PICTURES} pictures are needed, one a row, not {features.shape}")
    if not 0 < rate < 0.5:
        raise ValueError(f"the rate must lie between 0 and 0.5, not {rate}")
    features = _finite(features)
    scores = _left_out_scores(features, rng)
    threshold = safe_threshold(scores, rate, len(features))
    center, scale, covariance = _fit(features)
    return Baseline(
        center=center,
        scale=scale,
        whitening=_inverse_root(covariance),
        threshold=threshold,
        rate=rate,
        pictures=len(features),
        measured_rate=float((scores > threshold).mean()),
    )


def safe_threshold(scores: NDArray[np.float64], rate: float, pictures: int) -> float:
    """What a new ordinary score exceeds at ``rate``, given some ``scores`` above 0; see :func:`fit_baseline`."""
    logs = np.log(np.maximum(scores, np.finfo(np.float64).tiny))
    deviation = float(logs.std()) * (1 + math.sqrt(LEFT_OUT / (2 * pictures)) / 2)
    return math.exp(float(logs.mean()) + NormalDist().inv_cdf(1 - rate) * deviation)


def _finite(features: NDArray[np.float64]) -> NDArray[np.float64]:
    """The features, none so large that a square could overflow."""
    if not np.isfinite(features).all():
        raise ValueError("features must be finite")
    return np.clip(features, -LARGEST, LARGEST)


def _left_out_scores(features: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """The scores (SPLITS,) of random windows, each under a fit to all other pictures."""
    scores = np.empty(SPLITS)
    for split in range(SPLITS):
        order = rng.permutation(len(features))
        window, rest = features[order[:LEFT_OUT]], features[order[LEFT_OUT:]]
        center, scale, covariance = _fit(rest)
        standardised = (window - center) / scale
        # Any root of the covariance gives the same lengths, and Cholesky's is many times quicker than the symmetric.
        whitened = np.linalg.solve(np.linalg.cholesky(covariance), standardised.T).T
        scores[split] = _window_score(whitened, len(rest))
    return scores


def _fit(features: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Centre (F,), scale (F,) and the shrunk covariance (F, F) of the standardised features."""
    center = features.mean(axis=0)
    scale = np.maximum(features.std(axis=0), LEAST_SCALE * np.maximum(1, np.abs(center)))
    return center, scale, shrunk_covariance((features - center) / scale)


def _window_score(whitened: NDArray[np.float64], pictures: int) -> float:
    """The score of ``whitened`` pictures (W, F) under a fit to so many ``pictures``."""
    lengths = np.sqrt(np.square(whitened).mean(axis=1, keepdims=True))
    mean = (whitened * (REACH / np.maximum(lengths, REACH))).mean(axis=0)
    return math.sqrt(float(np.square(mean).mean()) / (1 / len(whitened) + 1 / pictures))


def _inverse_root(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    values, vectors = np.linalg.eigh(covariance)
    root: NDArray[np.float64] = (vectors / np.sqrt(values)) @ vectors.T
    return root

"""What windows of ordinary pictures look like, and from where on a window no longer does.

A window is so many successive pictures. Each becomes a vector from the calibration pictures' centre in whitened
coordinates (those of Mahalanobis' distance, with the shrunk covariance of ``shrinkage``) and is shortened to
``REACH``, so that one black picture is no drift. The length of their mean, per feature and in standard errors, is the
window's distance: it is of order 1 for ordinary pictures and grows with any change at all. A change along one of
hundreds of directions drowns in it, though. Where known faults were taught, the same mean is also projected on the
direction in which each of them moves pictures (Fisher's discriminant between pictures with and without it, 1936).

The score is one number: the distance, or the projection that comes nearer to its own limit, scaled so that this limit
falls on the threshold. The wanted rate of false alarms is shared out among them (Bonferroni), so that it holds for the
score. No theory gives threshold or limits, since features are neither normal nor independent. They come from windows
of calibration pictures that were left out of the fit.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from service.drift.distances import LARGEST
from service.drift.shrinkage import shrunk_covariance
from service.drift.taught import TaughtFaults

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
DISTANCE_SHARE = 0.5
"""Of the wanted rate, for the distance where faults were taught; each of them gets an equal part of the rest."""
LEAST_LIMIT = 1.0
"""Least limit of a projection, in standard errors: a fault that changes nothing has no direction, and nil scatter."""


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
    usual: float
    """The distance of ordinary windows: half of them are farther."""
    faults: tuple[str, ...]
    """The C known faults, in words; none where none was taught."""
    directions: NDArray[np.float64]
    """(C, F), unit vectors in whitened coordinates: where each fault moves pictures."""
    limits: NDArray[np.float64]
    """(C,), the projections on ``directions`` from which on a window has drifted, in standard errors."""
    rate: float
    """False alarms wanted, as a share of the windows of ordinary pictures."""
    pictures: int
    """N."""
    measured_rate: float
    """Share of left-out windows over the threshold. The fit has not seen their pictures, but the threshold was set on
    these very windows, and they overlap: a check of the threshold, no independent measurement."""

    def score(self, features: NDArray[np.float64]) -> float:
        """The score of one window, ``features`` (W, F) with W from 1 to ``WINDOW``.

        It is the distance, or more where a projection has come farther on its way from nil to its limit than the
        distance has from what is usual to the threshold. Distances of ordinary windows are all alike, so by shares of
        the limits themselves half a fault would rank below them.

        Its mean over ordinary windows hardly depends on W, but its scatter grows as W falls: a window shorter than
        ``LEFT_OUT`` exceeds the threshold more often than ``rate`` says.

        Raises:
            ValueError: the shape is another, or a feature is not finite.
        """
        distance, projections = self._measure(features)
        return float(max([distance, *(self.usual + (self.threshold - self.usual) * projections / self.limits)]))

    def foremost_fault(self, features: NDArray[np.float64]) -> tuple[str, float, float] | None:
        """The known fault whose limit a window exceeds by most, its projection and its limit; None where none is.

        Raises:
            ValueError: as for ``score``.
        """
        _, projections = self._measure(features)
        over = [
            (float(p / limit), n, float(p), float(limit))
            for n, p, limit in zip(self.faults, projections, self.limits, strict=True)
            if p > limit
        ]
        return max(over)[1:] if over else None

    def _measure(self, features: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        standardised = (self._checked(features) - self.center) / self.scale
        found = _measure_window(standardised @ self.whitening, self.directions, self.pictures)
        return float(found[0]), found[1:]

    def _checked(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        features = np.asarray(features, np.float64)
        if features.ndim != 2 or features.shape[1] != len(self.center) or not 1 <= len(features) <= WINDOW:
            raise ValueError(f"expected 1 to {WINDOW} pictures of {len(self.center)} features, not {features.shape}")
        return _finite(features)


def fit_baseline(
    features: NDArray[np.float64], rate: float, rng: np.random.Generator, taught: TaughtFaults | None = None
) -> Baseline:
    """Fit centre, scale, whitening and directions to all of ``features`` (N, F), and the limits to windows left out.

    ``SPLITS`` times ``LEFT_OUT`` pictures are left out, the rest fitted and the window of those left out measured:
    each distance and projection is a draw from the law of ordinary windows under a fit that has not seen them. The
    projections and the logarithms of the distances are near normal, and a limit is their mean plus so many standard
    deviations as a normal law exceeds at its share of ``rate``. N pictures hold only N / ``LEFT_OUT`` windows that
    share no picture, and a standard deviation from n windows has the relative standard error 1 / sqrt(2 n); it is
    raised by half of that.

    Pictures that resemble each other (frames of one video, crops of one photograph) count as fewer than N, and no
    fit can see that: then false alarms on other scenes are more frequent than ``rate`` says.

    Args:
        taught: what known faults do to the same features; None looks for changes of any kind only.

    Raises:
        ValueError: fewer than ``MIN_PICTURES`` pictures, a rate outside 0 to 0.5 (both excluded), a feature that is
            not finite, no feature that varies, or faults tried on too few pictures or with other features.
    """
    features = np.asarray(features, np.float64)
    if features.ndim != 2 or len(features) < MIN_PICTURES:
        raise ValueError(f"at least {MIN_PICTURES} pictures are needed, one a row, not {features.shape}")
    if not 0 < rate < 0.5:
        raise ValueError(f"the rate must lie between 0 and 0.5, not {rate}")
    features = _finite(features)
    taught = _nothing(features) if taught is None else _usable(taught, features)
    found = _left_out_measures(features, taught, rng)
    share = DISTANCE_SHARE if taught.names else 1.0
    threshold = safe_threshold(found[:, 0], rate * share, len(features))
    limits = np.array([safe_limit(p, rate * (1 - share) / len(taught.names), len(features)) for p in found.T[1:]])
    limits = np.maximum(limits, LEAST_LIMIT)
    center, scale, covariance = _fit(features)
    whitening = _inverse_root(covariance)
    return Baseline(
        center=center,
        scale=scale,
        whitening=whitening,
        threshold=threshold,
        usual=math.exp(float(_logarithms(found[:, 0]).mean())),
        faults=taught.names,
        directions=_unit(taught.mean_changes(np.array([], np.intp)) / scale @ whitening),
        limits=limits,
        rate=rate,
        pictures=len(features),
        measured_rate=float(((found[:, 0] > threshold) | (found[:, 1:] > limits).any(axis=1)).mean()),
    )


def safe_threshold(scores: NDArray[np.float64], rate: float, pictures: int) -> float:
    """What a new ordinary distance exceeds at ``rate``, given some ``scores`` above 0; see :func:`fit_baseline`."""
    return math.exp(safe_limit(_logarithms(scores), rate, pictures))


def safe_limit(values: NDArray[np.float64], rate: float, pictures: int) -> float:
    """What a new value exceeds at ``rate``, given some ``values`` of a law that is near normal."""
    deviation = float(values.std()) * (1 + math.sqrt(LEFT_OUT / (2 * pictures)) / 2)
    return float(values.mean()) + NormalDist().inv_cdf(1 - rate) * deviation


def _logarithms(distances: NDArray[np.float64]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = np.log(np.maximum(distances, np.finfo(np.float64).tiny))
    return found


def _nothing(features: NDArray[np.float64]) -> TaughtFaults:
    return TaughtFaults((), np.arange(len(features)), np.zeros((len(features), 0, features.shape[1])))


def _usable(taught: TaughtFaults, features: NDArray[np.float64]) -> TaughtFaults:
    wanted = (len(taught.rows), len(taught.names), features.shape[1])
    if not taught.names or taught.changes.shape != wanted or len(np.unique(taught.rows)) <= LEFT_OUT:
        raise ValueError(
            f"changes of more than {LEFT_OUT} pictures by each of {len(taught.names)} faults are needed, {wanted}, "
            f"not {taught.changes.shape}"
        )
    return TaughtFaults(taught.names, taught.rows, _finite(taught.changes))


def _finite(features: NDArray[np.float64]) -> NDArray[np.float64]:
    """The features, none so large that a square could overflow."""
    if not np.isfinite(features).all():
        raise ValueError("features must be finite")
    return np.clip(features, -LARGEST, LARGEST)


def _left_out_measures(
    features: NDArray[np.float64], taught: TaughtFaults, rng: np.random.Generator
) -> NDArray[np.float64]:
    """The measures (SPLITS, 1 + C) of random windows, each under a fit to all other pictures."""
    found = np.empty((SPLITS, 1 + len(taught.names)))
    for split in range(SPLITS):
        order = rng.permutation(len(features))
        window, rest = features[order[:LEFT_OUT]], features[order[LEFT_OUT:]]
        center, scale, covariance = _fit(rest)
        # Any root of the covariance gives the same lengths and angles, and Cholesky's is many times quicker than the
        # symmetric. The directions are fitted anew too: a window that had a part in them would look too ordinary.
        standardised = np.concatenate([window - center, taught.mean_changes(order[:LEFT_OUT])]) / scale
        whitened = np.linalg.solve(np.linalg.cholesky(covariance), standardised.T).T
        found[split] = _measure_window(whitened[:LEFT_OUT], _unit(whitened[LEFT_OUT:]), len(rest))
    return found


def _fit(features: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Centre (F,), scale (F,) and the shrunk covariance (F, F) of the standardised features."""
    center = features.mean(axis=0)
    scale = np.maximum(features.std(axis=0), LEAST_SCALE * np.maximum(1, np.abs(center)))
    return center, scale, shrunk_covariance((features - center) / scale)


def _measure_window(
    whitened: NDArray[np.float64], directions: NDArray[np.float64], pictures: int
) -> NDArray[np.float64]:
    """(1 + C,), distance and projections of ``whitened`` pictures (W, F) under a fit to so many ``pictures``."""
    lengths = np.sqrt(np.square(whitened).mean(axis=1, keepdims=True))
    mean = (whitened * (REACH / np.maximum(lengths, REACH))).mean(axis=0) / math.sqrt(1 / len(whitened) + 1 / pictures)
    return np.concatenate([[math.sqrt(float(np.square(mean).mean()))], directions @ mean])


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rows (C, F) with length 1; nil stays nil."""
    lengths = np.sqrt(np.square(vectors).sum(axis=1, keepdims=True))
    return np.asarray(vectors / np.maximum(lengths, np.finfo(np.float64).tiny))


def _inverse_root(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    values, vectors = np.linalg.eigh(covariance)
    root: NDArray[np.float64] = (vectors / np.sqrt(values)) @ vectors.T
    return root

"""What each picture fault looks like to the first layers: learnt with the baseline of drift.

A linear discriminant (Fisher 1936; shared covariance, as in Hastie, Tibshirani and Friedman, The Elements of
Statistical Learning, 4.3) over the per-channel means and log variances of one picture, its log-likelihoods tempered
(Guo et al. 2017, 1706.04599) so that probabilities hold on pictures it has not seen.

Several pictures with one fault are no independent evidence where they show one scene: 32 frames of a camera that
stands still say little more than one of them. Let the features of N pictures be normal about their class's centre,
any two of them correlated by r. Then the logarithm of their joint density is, up to a constant that all classes share,
the sum of those of the single pictures divided by 1 + (N - 1) r: the pictures count as N / (1 + (N - 1) r), which is
Kish's effective sample size ("Survey Sampling", 1965). With r_ij between the pictures i and j, of which r_ii is 1,
picture i weighs w_i = 1 / sum_j r_ij here. That gives the same for equal r, is exact for groups of equally correlated
pictures that are unrelated to each other, and copies of a picture change nothing.

Under that law d_ij, half the mean square of the whitened difference between two pictures, is 1 - r on average. Features
have heavier tails than a normal law, so that many pairs of different scenes lie nearer than 1. The scale is therefore
what calibration pictures show: r_ij = max(0, 1 - d_ij / near), where all but `_NEAR_SHARE` of their pairs lie further
apart than ``near``. Frames of a camera that stands still lie far below it. What resembles each other less, pictures of
one place at other hours for instance, counts as different.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

#: A fault is named from this probability on; below it the answer is that the pictures do not tell.
CERTAIN = 0.95
#: Pictures behind one answer, for which confusions are measured.
GROUP_SIZES = (1, 8, 32)
_FOLDS = 5
#: Relative to a feature's size; half precision alone changes a number by 5e-4.
_LEAST_SCALE = 1e-3
_GROUPS = 400
#: Temperatures tried; likelihoods of correlated features are always too sure, never too shy.
_TEMPERATURES = np.geomspace(1.0, 300.0, 60)
#: Of the pairs of different calibration pictures so many lie nearer than ``near``, and count as related.
_NEAR_SHARE = 0.01
#: Where calibration pictures are copies of each other, so that pictures must be copies to count as related.
_LEAST_NEAR = 1e-6


@dataclass(frozen=True)
class Signatures:
    """Fitted discriminant over C classes and F features.

    Attributes:
        names: (C,) the classes.
        centers: (C, F) mean features of each.
        scale: (F,) standard deviation within the classes.
        precision: (F, F) inverse of the shrunk correlation within the classes.
        temperature: what log-likelihoods are divided by.
        near: half the mean square of the whitened difference from which on two pictures count as unrelated.
        confusion: by pictures in a group, (C, C + 1) shares: true class in rows, answered class in columns, at the
            end those without an answer of probability `CERTAIN`. Measured on pictures that were left out of the fit.
    """

    names: tuple[str, ...]
    centers: Floats
    scale: Floats
    precision: Floats
    temperature: float
    near: float
    confusion: dict[int, Floats]

    def log_likelihoods(self, features: Floats) -> Floats:
        """Tempered log-likelihood (N, C) of pictures' features (N, F), up to a constant per picture."""
        return self._raw(features) / self.temperature

    def probabilities(self, features: Floats) -> Floats:
        """Probability (C,) of each class for pictures (N, F) that share one, all classes alike beforehand.

        Pictures that are alike count as fewer than they are.
        """
        return _softmax(self.weights(features) @ self.log_likelihoods(features))

    def named_probabilities(self, features: Floats) -> dict[str, float]:
        """`probabilities` by class name."""
        return dict(zip(self.names, self.probabilities(features).tolist(), strict=True))

    def weights(self, features: Floats) -> Floats:
        """How much each of the pictures (N, F) counts, (N,): 1 where none resembles it, 1 / n for each of n copies."""
        return np.asarray(1 / self.relations(features).sum(1))

    def effective_pictures(self, features: Floats) -> float:
        """How many different pictures tell as much as these (N, F): from 1 to N."""
        return float(self.weights(features).sum())

    def relations(self, features: Floats) -> Floats:
        """Correlation r (N, N) of pictures (N, F), from 0 to 1."""
        related = np.maximum(0.0, 1 - self.distances(features, features) / self.near)
        np.fill_diagonal(related, 1.0)
        return related

    def distances(self, some: Floats, others: Floats) -> Floats:
        """Half the mean square of the whitened differences, (N, M), between pictures (N, F) and others (M, F)."""
        root = np.linalg.cholesky(self.precision) / self.scale[:, None]
        # From one of them, since differences of large squares would drown small distances.
        whitened, others_whitened = (some - some[0]) @ root, (others - some[0]) @ root
        squares = np.square(whitened).sum(1)[:, None] + np.square(others_whitened).sum(1)
        return np.asarray(np.maximum(squares - 2 * whitened @ others_whitened.T, 0.0) / (2 * len(self.scale)))

    def _raw(self, features: Floats) -> Floats:
        offsets = (features[:, None] - self.centers) / self.scale
        return np.asarray(-0.5 * np.einsum("ncf,fg,ncg->nc", offsets, self.precision, offsets, optimize=True))


def fit_signatures(
    features: Floats, names: Sequence[str], shrink: Callable[[Floats], Floats], rng: np.random.Generator
) -> Signatures:
    """Learn the classes from pictures that were each spoilt in every way.

    Args:
        features: (N, C, F) of N pictures with each of C faults, those of one scene next to each other.
        names: the C faults.
        shrink: covariance estimate (F, F) of centred samples (M, F) that has an inverse.
        rng: draws groups for the confusion figures.

    Raises:
        ValueError: fewer pictures than folds.
    """
    pictures = len(features)
    if pictures < _FOLDS:
        raise ValueError(f"{pictures} pictures cannot be split into {_FOLDS} folds")
    held_out = np.empty((pictures, len(names), len(names)))
    apart: list[list[Floats]] = [[] for _ in names]
    # Blocks, not a shuffle: neighbours by name are often frames of one film, which must not sit on both sides.
    fold_of = np.arange(pictures) * _FOLDS // pictures
    for fold in range(_FOLDS):
        left_out = fold_of == fold
        fitted = _fit(features[~left_out], names, shrink)
        for true in range(len(names)):
            held_out[left_out, true] = fitted.log_likelihoods(features[left_out, true])
            apart[true].append(fitted.distances(features[left_out, true], features[~left_out, true]).ravel())
    temperature = float(min(_TEMPERATURES, key=lambda t: _log_loss(held_out / t)))
    # Pictures with one fault may differ less than others, but they are different pictures all the same.
    near = min(float(np.quantile(np.concatenate(pairs), _NEAR_SHARE)) for pairs in apart)
    fitted = replace(_fit(features, names, shrink), temperature=temperature, near=max(near, _LEAST_NEAR))
    related = np.stack([fitted.relations(features[:, true]) for true in range(len(names))])
    sizes = [size for size in GROUP_SIZES if size <= pictures]
    return replace(fitted, confusion={size: _confusion(held_out / temperature, related, size, rng) for size in sizes})


def describe_signatures(signatures: Signatures) -> list[str]:
    """How surely each fault is told, as a table for a terminal."""
    width = max(map(len, signatures.names))
    lines = [
        "Told rightly, of pictures left out of the fit (none: no fault claimed):",
        " " * width + "".join(f"{f'{size} at once':>14}" for size in signatures.confusion),
    ]
    for row, name in enumerate(signatures.names):
        shares = (table[row, row] if row else 1 - table[row, 1:-1].sum() for table in signatures.confusion.values())
        lines.append(f"{name:<{width}}" + "".join(f"{share:>14.0%}" for share in shares))
    return lines


def _fit(features: Floats, names: Sequence[str], shrink: Callable[[Floats], Floats]) -> Signatures:
    centers = features.mean(0)
    residuals = (features - centers).reshape(-1, features.shape[-1])
    scale = residuals.std(0)
    # What hardly varies must not make rounding on another processor look like a fault.
    scale = np.maximum(scale, _LEAST_SCALE * np.maximum(1.0, np.abs(centers).max(0)))
    precision = np.asarray(np.linalg.inv(shrink(residuals / scale)), np.float64)
    return Signatures(tuple(names), centers, scale, precision, temperature=1.0, near=1.0, confusion={})


def _log_loss(log_likelihoods: Floats) -> float:
    """Mean -ln of the true class's probability; (N, C, C) with the true class in the second axis."""
    probabilities = _softmax(log_likelihoods)
    own = np.einsum("ncc->nc", probabilities)
    return float(-np.log(np.maximum(own, 1e-300)).mean())


def _confusion(held_out: Floats, related: Floats, size: int, rng: np.random.Generator) -> Floats:
    """(C, C + 1) shares of answers to groups of ``size`` different pictures with the same fault.

    Args:
        held_out: (N, C, C) tempered log-likelihoods, the true class in the second axis.
        related: (C, N, N) the pictures' relations, the true class first.
    """
    pictures, classes = held_out.shape[:2]
    if size == 1:
        groups = np.arange(pictures)[:, None]
    else:
        groups = np.stack([rng.choice(pictures, size, replace=False) for _ in range(_GROUPS)])
    shares = []
    for true in range(classes):
        weights = 1 / related[true][groups[:, :, None], groups[:, None]].sum(-1)
        probabilities = _softmax(np.einsum("gn,gnc->gc", weights, held_out[groups, true]))
        answered = np.where(probabilities.max(-1) >= CERTAIN, probabilities.argmax(-1), classes)
        shares.append(np.bincount(answered, minlength=classes + 1) / len(groups))
    return np.stack(shares)


def _softmax(values: Floats) -> Floats:
    raised = np.exp(values - values.max(-1, keepdims=True))
    return np.asarray(raised / raised.sum(-1, keepdims=True))

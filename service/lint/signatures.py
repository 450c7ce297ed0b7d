"""What each picture fault looks like to the first layers: learnt when the drift baseline is calibrated.

A linear discriminant (Fisher 1936; shared covariance, as in Hastie, Tibshirani and Friedman, The Elements of
Statistical Learning, 4.3) over the per-channel means and log variances of one picture, its log-likelihoods tempered
(Guo et al. 2017, 1706.04599) so that probabilities hold on pictures it has not seen.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Signatures:
    """Fitted discriminant over C classes and F features.

    Attributes:
        names: (C,) the classes.
        centers: (C, F) mean features of each.
        scale: (F,) standard deviation within the classes.
        precision: (F, F) inverse of the shrunk correlation within the classes.
        temperature: what log-likelihoods are divided by.
        confusion: by pictures in a group, (C, C + 1) shares: true class in rows, answered class in columns, at the
            end those without an answer of probability `CERTAIN`. Measured on pictures that were left out of the fit.
    """

    names: tuple[str, ...]
    centers: Floats
    scale: Floats
    precision: Floats
    temperature: float
    confusion: dict[int, Floats]

    def log_likelihoods(self, features: Floats) -> Floats:
        """Tempered log-likelihood (N, C) of pictures' features (N, F), up to a constant per picture."""
        return self._raw(features) / self.temperature

    def probabilities(self, features: Floats) -> Floats:
        """Probability (C,) of each class for pictures (N, F) that share one, all classes alike beforehand."""
        return _softmax(self.log_likelihoods(features).sum(0))

    def named_probabilities(self, features: Floats) -> dict[str, float]:
        """`probabilities` by class name."""
        return dict(zip(self.names, self.probabilities(features).tolist(), strict=True))

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
    # Blocks, not a shuffle: neighbours by name are often frames of one film, which must not sit on both sides.
    fold_of = np.arange(pictures) * _FOLDS // pictures
    for fold in range(_FOLDS):
        left_out = fold_of == fold
        fitted = _fit(features[~left_out], names, shrink)
        for true in range(len(names)):
            held_out[left_out, true] = fitted.log_likelihoods(features[left_out, true])
    temperature = min(_TEMPERATURES, key=lambda t: _log_loss(held_out / t))
    confusion = {size: _confusion(held_out / temperature, size, rng) for size in GROUP_SIZES if size <= pictures}
    fitted = _fit(features, names, shrink)
    return Signatures(fitted.names, fitted.centers, fitted.scale, fitted.precision, float(temperature), confusion)


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
    return Signatures(tuple(names), centers, scale, precision, 1.0, {})


def _log_loss(log_likelihoods: Floats) -> float:
    """Mean -ln of the true class's probability; (N, C, C) with the true class in the second axis."""
    probabilities = _softmax(log_likelihoods)
    own = np.einsum("ncc->nc", probabilities)
    return float(-np.log(np.maximum(own, 1e-300)).mean())


def _confusion(held_out: Floats, size: int, rng: np.random.Generator) -> Floats:
    """(C, C + 1) shares of answers to groups of ``size`` different pictures with the same fault."""
    pictures, classes = held_out.shape[:2]
    if size == 1:
        groups = np.arange(pictures)[:, None]
    else:
        groups = np.stack([rng.choice(pictures, size, replace=False) for _ in range(_GROUPS)])
    probabilities = _softmax(held_out[groups].sum(1))
    answered = np.where(probabilities.max(-1) >= CERTAIN, probabilities.argmax(-1), classes)
    return np.stack([np.bincount(answered[:, true], minlength=classes + 1) / len(groups) for true in range(classes)])


def _softmax(values: Floats) -> Floats:
    raised = np.exp(values - values.max(-1, keepdims=True))
    return np.asarray(raised / raised.sum(-1, keepdims=True))

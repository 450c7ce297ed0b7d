"""One row of numbers per picture: what of it is compared with the calibration pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from service.bundle.probe import FIGURES, PLANES

LOG_FLOOR = 1e-4
"""Added to a variance before its logarithm, in squared units of the layer's output. It bounds what a flat picture can
do: the feature falls to ln(1e-4) = -9.2, not to minus infinity."""
FIGURE_FLOOR = 1e-7
"""The same for the figures of a picture itself, whose values lie between 0 and 1."""


class Measured(Protocol):
    """One picture's reading, float64: ``means`` and ``variances`` (C,), ``figures`` (12,)."""

    @property
    def means(self) -> NDArray[np.float64]: ...

    @property
    def variances(self) -> NDArray[np.float64]: ...

    @property
    def figures(self) -> NDArray[np.float64]: ...


@dataclass(frozen=True)
class Samples:
    """What the probe said about N pictures: ``means`` and ``variances`` (N, C), ``figures`` (N, 12), all float64."""

    means: NDArray[np.float64]
    variances: NDArray[np.float64]
    figures: NDArray[np.float64]

    @classmethod
    def of(cls, readings: Sequence[Measured]) -> "Samples":
        """The readings of at least one picture, one a row."""
        return cls(
            np.stack([reading.means for reading in readings]),
            np.stack([reading.variances for reading in readings]),
            np.stack([reading.figures for reading in readings]),
        )

    def __len__(self) -> int:
        return len(self.means)

    def features(self, channels: NDArray[np.intp]) -> NDArray[np.float64]:
        """One row per picture: those of the given channels, then those of the picture itself."""
        layers = picture_features(self.means[:, channels], self.variances[:, channels])
        return np.concatenate([layers, figure_features(self.figures)], axis=-1)


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


def figure_features(figures: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean of each plane as it is, and the logarithms of variance, detail and squared magnitude of detail.

    ``figures`` has shape (..., 12), in the order of ``bundle.probe.FIGURES``; so has the answer.

    Raises:
        ValueError: another shape.
    """
    figures = np.asarray(figures, np.float64)
    if figures.shape[-1] != len(FIGURES):
        raise ValueError(f"there must be {len(FIGURES)} figures, not {figures.shape}")
    means, variances, squares, magnitudes = np.split(figures, len(FIGURES) // len(PLANES), axis=-1)
    logs = [np.log(values + FIGURE_FLOOR) for values in (variances, squares, np.square(magnitudes))]
    return np.concatenate([means, *logs], axis=-1)

"""How far a layer's outputs lie from a reference law, channel by channel, both taken as normal.

With observed mean m and variance v, reference mean mu and variance s2, and delta = m - mu, the distances are the
textbook closed forms for two normal laws in one dimension. Three limits keep every result finite:

* a variance counts as at least ``VARIANCE_FLOOR``: the output over a flat picture does not vary at all, and its
  distance by Kullback and Leibler would be infinite;
* magnitudes count as at most ``LARGEST``, the largest number in single precision, so that no square overflows;
* a channel whose reference variance does not exceed ``VARIANCE_FLOOR`` is dead. Its output was a constant, so a
  distance in its own standard deviations means nothing and it stays out of every average. It is not forgotten
  either: one that leaves its constant by more than ``REVIVED`` is named in ``LayerDistances.revived``.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

VARIANCE_FLOOR = 1e-6
"""In squared units of the layer's output, before the activation. Living channels have variances near one."""
REVIVED = 0.01
"""In units of the layer's output, as a Wasserstein-2 distance; ten times the deviation that a dead channel may have."""
LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Normal:
    """Moments of each channel's output, positions and pictures taken together.

    ``mean`` and ``variance`` are float64 of shape (C,), in units of the layer's output and their square.

    Raises:
        ValueError: shapes differ or have not one axis, a number is not finite, or a variance is negative.
    """

    mean: NDArray[np.float64]
    variance: NDArray[np.float64]

    def __post_init__(self) -> None:
        if self.mean.ndim != 1 or self.mean.shape != self.variance.shape:
            raise ValueError(f"moments must share one axis, not {self.mean.shape} and {self.variance.shape}")
        if not (np.isfinite(self.mean).all() and np.isfinite(self.variance).all()):
            raise ValueError("moments must be finite")
        if (self.variance < 0).any():
            raise ValueError("a variance must not be negative")


@dataclass(frozen=True)
class ChannelDistances:
    """Each of shape (C,), finite for dead channels too (there in units of the floor, hence of no meaning)."""

    z: NDArray[np.float64]
    """delta / sqrt(s2): with its sign, in standard deviations of the reference."""
    log_variance_ratio: NDArray[np.float64]
    """ln(v / s2): negative where the output varies less than it should."""
    symmetric_kl: NDArray[np.float64]
    """KL(observed || reference) + KL(reference || observed), in nats."""
    wasserstein2: NDArray[np.float64]
    """sqrt(delta^2 + (sqrt v - sqrt s2)^2), in units of the layer's output."""


@dataclass(frozen=True)
class LayerDistances:
    """One figure each over the channels that count; all 0 where none does."""

    channels: int
    """How many channels count."""
    z_rms: float
    """Root mean square of the channels' z, in standard deviations of the reference."""
    log_variance_ratio: float
    """Median of the channels' abs(ln(v / s2)): robust, since one flat channel gives a large figure."""
    symmetric_kl: float
    """Mean of the channels' symmetric divergence, in nats per channel."""
    wasserstein2: float
    """Root mean square of the channels' distances, in units of the layer's output."""
    worst_channels: tuple[int, ...]
    """Positions in the layer of the furthest counting channels by symmetric divergence, furthest first."""
    revived: tuple[int, ...]
    """Positions of dead channels that left their constant by more than ``REVIVED``."""


def training_law(
    gamma: NDArray[np.float64], beta: NDArray[np.float64], running_var: NDArray[np.float64], eps: float
) -> Normal:
    """What a batch normalization let out in training, on average: mean beta, variance gamma^2 var / (var + eps).

    All arrays have shape (C,). The law is of the convolution's output after folding, before the activation.

    Raises:
        ValueError: ``running_var`` + ``eps`` is not above 0 somewhere, or see :class:`Normal`.
    """
    scale, variance = _limited(np.asarray(gamma, np.float64)), np.asarray(running_var, np.float64)
    if not (variance + eps > 0).all():
        raise ValueError(f"running_var + eps must be above 0, but eps is {eps} and a variance {variance.min()}")
    return Normal(np.asarray(beta, np.float64), np.square(scale) * (variance / (variance + eps)))


def pool(means: NDArray[np.float64], variances: NDArray[np.float64]) -> Normal:
    """One law out of the moments of N pictures, every picture weighing the same whatever its size.

    ``means`` and ``variances`` have shape (N, C). By the law of total variance the pooled variance is the mean of
    the variances plus the variance of the means.

    Raises:
        ValueError: no picture, or see :class:`Normal`.
    """
    means, variances = _limited(np.asarray(means, np.float64)), np.asarray(variances, np.float64)
    if means.ndim != 2 or means.shape != variances.shape or len(means) == 0:
        raise ValueError(f"moments must be (pictures, channels) alike, not {means.shape} and {variances.shape}")
    if (variances < 0).any():
        raise ValueError("a variance must not be negative")
    return Normal(means.mean(axis=0), _limited(variances).mean(axis=0) + means.var(axis=0))


def channel_distances(observed: Normal, reference: Normal) -> ChannelDistances:
    """The four distances of every channel, each (C,).

    Raises:
        ValueError: the two have different numbers of channels.
    """
    delta, v, s2 = _compared(observed, reference)
    square = np.square(delta)
    return ChannelDistances(
        z=delta / np.sqrt(s2),
        log_variance_ratio=np.log(v / s2),
        symmetric_kl=np.maximum(((v + square) / s2 + (s2 + square) / v) / 2 - 1, 0),
        wasserstein2=np.hypot(delta, np.sqrt(v) - np.sqrt(s2)),
    )


def layer_distances(observed: Normal, reference: Normal, worst: int = 5) -> LayerDistances:
    """The layer's figures, and at most ``worst`` of its furthest channels.

    Raises:
        ValueError: the two have different numbers of channels.
    """
    distances = channel_distances(observed, reference)
    alive = counting_channels(reference)
    revived = np.flatnonzero(~alive & (distances.wasserstein2 > REVIVED))
    if not alive.any():
        return LayerDistances(0, 0.0, 0.0, 0.0, 0.0, (), tuple(revived.tolist()))
    positions = np.flatnonzero(alive)
    order = np.argsort(-distances.symmetric_kl[alive], kind="stable")[:worst]
    return LayerDistances(
        channels=len(positions),
        z_rms=_root_mean_square(distances.z[alive]),
        log_variance_ratio=float(np.median(np.abs(distances.log_variance_ratio[alive]))),
        symmetric_kl=float(distances.symmetric_kl[alive].mean()),
        wasserstein2=_root_mean_square(distances.wasserstein2[alive]),
        worst_channels=tuple(positions[order].tolist()),
        revived=tuple(revived.tolist()),
    )


def law_distance(observed: Normal, reference: Normal) -> float:
    """Mean of KL(observed || reference) over the channels that count, in nats per channel; 0 where none counts.

    Raises:
        ValueError: the two have different numbers of channels.
    """
    delta, v, s2 = _compared(observed, reference)
    alive = counting_channels(reference)
    if not alive.any():
        return 0.0
    divergence = (np.log(s2 / v) + (v + np.square(delta)) / s2 - 1) / 2
    return float(np.maximum(divergence[alive], 0).mean())


def counting_channels(reference: Normal) -> NDArray[np.bool_]:
    """Which channels count, (C,): those whose reference variance exceeds ``VARIANCE_FLOOR``."""
    return reference.variance > VARIANCE_FLOOR


def _compared(
    observed: Normal, reference: Normal
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """The difference of the means and both variances, within the limits."""
    if observed.mean.shape != reference.mean.shape:
        raise ValueError(f"{len(observed.mean)} channels observed, {len(reference.mean)} in the reference")
    delta = _limited(observed.mean) - _limited(reference.mean)
    floored = (np.maximum(_limited(law.variance), VARIANCE_FLOOR) for law in (observed, reference))
    v, s2 = floored
    return delta, v, s2


def _limited(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.clip(values, -LARGEST, LARGEST)


def _root_mean_square(values: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.square(values).mean()))

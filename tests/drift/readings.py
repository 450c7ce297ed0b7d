"""Readings of an invented network with two probed layers, of which one channel is dead."""

from dataclasses import dataclass

import numpy as np

from service.bundle.store import Bundle
from service.drift.calibration import Calibration, calibrate
from service.drift.distances import Normal
from service.drift.features import Samples
from service.drift.layers import WatchedLayer, WatchedLayers, watch_layers
from service.drift.taught import TaughtFaults

CHANNELS = 7
DEAD = 2
MEAN = np.array([0.5, -1.0, 0.25, 2.0, 0.0, -0.5, 1.0])
STD = np.array([1.0, 0.5, 0.0, 2.0, 1.5, 0.8, 1.2])


@dataclass(frozen=True)
class Invented:
    means: np.ndarray
    variances: np.ndarray
    figures: np.ndarray


def watched() -> WatchedLayers:
    law = Normal(MEAN, STD**2)
    layers = (
        WatchedLayer("a.bn", 0, 3, Normal(law.mean[:3], law.variance[:3])),
        WatchedLayer("b.bn", 3, 7, Normal(law.mean[3:], law.variance[3:])),
    )
    return WatchedLayers(layers, np.array([0, 1, 3, 4, 5, 6]))


def readings(count: int, seed: int, shift: float = 0.0, darkness: float = 1.0) -> list[Invented]:
    """Pictures whose means scatter by 0.3 standard deviations; ``shift`` moves them all by that many."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        means = MEAN + STD * (0.3 * rng.normal(size=CHANNELS) + shift)
        variances = STD**2 * np.exp(0.3 * rng.normal(size=CHANNELS))
        figures = np.exp(0.1 * rng.normal(size=12)) * np.repeat([0.4, 0.05, 0.01, 0.05], 3)
        figures[:3] *= darkness
        found.append(Invented(means, variances, figures))
    return found


def invented_samples(bundle: Bundle, count: int, seed: int = 0) -> Samples:
    """As many pictures as if measured by the bundle's probe."""
    rng = np.random.default_rng(seed)
    shape = (count, bundle.probe.channels)
    return Samples(rng.normal(size=shape), np.exp(rng.normal(size=shape)), np.exp(rng.normal(size=(count, 12))))


def invented_calibration(bundle: Bundle) -> Calibration:
    """A calibration that fits the bundle's probe, with 128 such pictures and two known faults."""
    samples, channels = invented_samples(bundle, 128), watch_layers(bundle).channels
    changes = np.random.default_rng(1).normal(size=(128, 2, samples.features(channels).shape[1]))
    taught = TaughtFaults(("one fault", "another"), np.arange(128), changes)
    return calibrate(samples, channels, 0.02, "2026-01-02T03:04:05+00:00", taught)

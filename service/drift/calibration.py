"""A calibration: what clean pictures look like to the probe."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.drift.baseline import MIN_PICTURES, Baseline, fit_baseline
from service.drift.distances import Normal, pool
from service.drift.features import Samples
from service.drift.taught import TaughtFaults
from service.drift.words import TraitLaw, trait_law
from service.errors import CalibrationUnusable

DEFAULT_RATE = 0.01
"""False alarms wanted, as a share of the windows of clean pictures."""
#: Pictures that `calibrate` asks for at least: fewer tell only gross drifts.
LEAST_PICTURES = 2 * MIN_PICTURES
_SEED = 0


@dataclass(frozen=True)
class Calibration:
    """What clean pictures look like.

    Attributes:
        baseline: their features, with the threshold for a window.
        law: every probed channel over all of them together.
        trait_law: what people would see in them.
        created_at: UTC, ISO 8601.
    """

    baseline: Baseline
    law: Normal
    trait_law: TraitLaw
    created_at: str


def calibrate(
    samples: Samples,
    channels: NDArray[np.intp],
    rate: float,
    created_at: str,
    taught: TaughtFaults | None = None,
) -> Calibration:
    """Learn from clean pictures.

    Args:
        channels: those that count, as positions among the probed ones.
        rate: false alarms wanted, as a share of the windows of clean pictures.
        taught: what known faults do to these pictures; None looks for changes of any kind only.

    Raises:
        CalibrationUnusable: fewer than ``MIN_PICTURES`` different pictures.
    """
    features = samples.features(channels)
    different = len(np.unique(features.astype(np.float32), axis=0))
    if different < MIN_PICTURES:
        # The same few pictures over and over, as in a trial, say nothing about how others scatter.
        raise CalibrationUnusable(f"Only {different} of {len(samples)} pictures differ; {MIN_PICTURES} must.")
    try:
        baseline = fit_baseline(features, rate, np.random.default_rng(_SEED), taught)
    except ValueError as error:
        raise CalibrationUnusable(f"These pictures allow no calibration: {error}.") from error
    return Calibration(baseline, pool(samples.means, samples.variances), trait_law(samples.figures), created_at)

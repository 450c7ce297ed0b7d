"""What clean pictures look like to the probe, and how far a window of others must be from that to raise an alarm."""

from dataclasses import dataclass

import numpy as np

from service.drift.covariance import shrink_covariance, whitening
from service.drift.distances import Array

#: Pictures in a window.
WINDOW = 32
#: Fewer clean pictures than this leave too few in each half of a split for windows of 32.
LEAST_PICTURES = 4 * WINDOW
DEFAULT_RATE = 0.01
_SPLITS, _WINDOWS_PER_SPLIT, _SEED = 10, 400, 0


@dataclass(frozen=True)
class Baseline:
    """The distribution of clean pictures' features.

    Attributes:
        mean: (features,) their mean.
        whitener: (features, features); the difference of a picture from the mean, times this, has the identity as
            covariance.
        pictures: how many it was learned from.
        shrinkage: share of the covariance that is not the data's but a multiple of the identity, 0 to 1.
    """

    mean: Array
    whitener: Array
    pictures: int
    shrinkage: float

    def whiten(self, rows: Array) -> Array:
        """Features (N, features) of pictures, centred and whitened."""
        return (rows - self.mean) @ self.whitener

    def distance(self, rows: Array) -> float:
        """Distance of a window's mean, from features (N, features) of its pictures: root mean square over the
        whitened features, in standard deviations that the mean of N pictures has by itself; about 1 when clean."""
        return self.length(self.whiten(rows))

    def length(self, white: Array) -> float:
        """The same from whitened features."""
        deviation = np.sqrt(1 / len(white) + 1 / self.pictures)
        return float(np.sqrt(np.mean(white.mean(0) ** 2)) / deviation)


def learn_baseline(rows: Array) -> Baseline:
    """Learn from the features (pictures, features) of clean pictures.

    Features are scaled to unit variance first, so that shrinking treats them alike.
    """
    mean = rows.mean(0)
    deviation = np.maximum(rows.std(0), np.finfo(np.float32).eps * (1 + np.abs(mean)))
    shrunk = shrink_covariance((rows - mean) / deviation)
    return Baseline(mean, whitening(shrunk.covariance) / deviation[:, None], len(rows), shrunk.shrinkage)


def alarm_threshold(rows: Array, rate: float) -> float:
    """The distance that windows of clean pictures exceed at a given rate.

    The pictures are split at random into halves, several times; a baseline is learned from one half and windows are
    drawn with replacement from the other, which it has not seen. The threshold is the quantile over all windows. The
    baseline in use knows twice as many pictures, so it errs, if at all, towards fewer alarms.

    Args:
        rows: (pictures, features) of at least ``LEAST_PICTURES`` clean pictures.
        rate: share of clean windows that may raise an alarm, 0 to 1.
    """
    generator = np.random.default_rng(_SEED)
    distances = []
    for _ in range(_SPLITS):
        order = generator.permutation(len(rows))
        seen, unseen = order[: len(rows) // 2], order[len(rows) // 2 :]
        baseline = learn_baseline(rows[seen])
        white = baseline.whiten(rows[unseen])
        drawn = generator.integers(len(unseen), size=(_WINDOWS_PER_SPLIT, WINDOW))
        distances += [baseline.length(white[window]) for window in drawn]
    return float(np.quantile(distances, 1 - rate))

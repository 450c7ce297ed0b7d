"""Learns from clean pictures, of a folder or the first ones served, what drift and linter go by."""

import numpy as np
from numpy.typing import NDArray

from service.drift.calibration import calibrate
from service.drift.lesson import Lesson
from service.drift.shrinkage import shrunk_covariance
from service.drift.taught import TaughtFaults
from service.errors import CalibrationUnusable
from service.inference.calibration_file import Learnt
from service.lint.faults import PICTURE_FAULTS
from service.lint.signatures import Signatures, fit_signatures

_SEED = 0


def learn(lesson: Lesson, channels: NDArray[np.intp], rate: float, created_at: str) -> Learnt:
    """What clean pictures look like, and what each fault does to them.

    Args:
        channels: those that count, as positions among the probed ones.
        rate: false alarms wanted, as a share of the windows of clean pictures.

    Raises:
        CalibrationUnusable: too few different pictures.
    """
    drift = calibrate(lesson.samples, channels, rate, created_at, teach_faults(lesson.faults, lesson.rows))
    try:
        return Learnt(drift, learn_faults(lesson.faults))
    except ValueError as error:
        raise CalibrationUnusable(f"These pictures do not show what faults look like: {error}.") from error


def learn_faults(features: NDArray[np.float64]) -> Signatures:
    """Learn to tell the faults apart from features (N, C, F) of N pictures with each of ``PICTURE_FAULTS``.

    Raises:
        ValueError: too few pictures, or all alike.
    """
    names = [fault.name for fault in PICTURE_FAULTS]
    return fit_signatures(features, names, shrunk_covariance, np.random.default_rng(_SEED))


def teach_faults(features: NDArray[np.float64], rows: NDArray[np.intp]) -> TaughtFaults:
    """What the faults change in features (N, C, F) of N pictures, for drift to look for.

    Args:
        rows: (N,) which of the calibration pictures these are.
    """
    return TaughtFaults(tuple(fault.title for fault in PICTURE_FAULTS[1:]), rows, features[:, 1:] - features[:, :1])

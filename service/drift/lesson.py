"""Pictures to learn from: what the probe says of them as they are, and of some with every known fault."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.drift.features import Measured, Samples

FIRST_PICTURES = 256
"""Sampled pictures that make the calibration where no file holds one."""
FAULTS_EVERY = 2
"""Of those, one in so many is measured with the faults as well, which takes ten times as long as without. One in four
told the linter too little: red and blue exchanged were named in 16 of 20 windows of 32 photographs; with one in two, in
all of them."""


@dataclass(frozen=True)
class Lesson:
    """Clean pictures.

    Attributes:
        samples: of all of them as they are.
        faults: (N, C, F) features of N of them with each of C faults, the first of which is none.
        rows: (N,) which of them these are, ascending.
    """

    samples: Samples
    faults: NDArray[np.float64]
    rows: NDArray[np.intp]


class FirstPictures:
    """Gathers a lesson from pictures that come one after the other; of each only figures are kept."""

    def __init__(self) -> None:
        self._readings: list[Measured] = []
        self._faults: list[NDArray[np.float64]] = []

    def __len__(self) -> int:
        return len(self._readings)

    @property
    def wants_faults(self) -> bool:
        """Whether the next picture is to come with its features with faults."""
        return len(self._readings) % FAULTS_EVERY == 0

    def add(self, reading: Measured, faults: NDArray[np.float64] | None) -> None:
        """Take in the next picture; ``faults`` (C, F) are its features with each fault where they are wanted."""
        self._readings.append(reading)
        if faults is not None:
            self._faults.append(faults)

    def lesson(self) -> Lesson:
        """What has been gathered: one picture at least."""
        rows = np.arange(0, len(self._readings), FAULTS_EVERY, dtype=np.intp)
        return Lesson(Samples.of(self._readings), np.stack(self._faults), rows)

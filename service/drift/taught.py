"""Known faults, as changes of the features: a window is looked over for each of them along its own direction."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class TaughtFaults:
    """C faults, each tried on M of the calibration pictures."""

    names: tuple[str, ...]
    """(C,), in words."""
    rows: NDArray[np.intp]
    """(M,), which of the calibration pictures, each once."""
    changes: NDArray[np.float64]
    """(M, C, F), the features of the picture with the fault less those of the same picture without it."""

    def mean_changes(self, left_out: NDArray[np.intp]) -> NDArray[np.float64]:
        """(C, F), over all pictures but those ``left_out``."""
        found: NDArray[np.float64] = self.changes[~np.isin(self.rows, left_out)].mean(axis=0)
        return found

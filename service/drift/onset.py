"""Since when the pictures have looked foreign."""

import math

CLEAR_WINDOWS = 3
"""So many windows in a row at or below the threshold end a drift; a drift near the threshold dips below it at times."""


class Onset:
    """Dates the present drift from the scores of successive windows, given in order of time.

    A drift begins with the first window over the threshold and ends with the last of ``CLEAR_WINDOWS`` in a row that
    are not. That is a run rule with hysteresis, as on Shewhart's control charts (W. A. Shewhart, "Economic Control of
    Quality of Manufactured Product", 1931). It needs no model of how large a drift will be, as a CUSUM chart does.
    """

    def __init__(self) -> None:
        self._since: float | None = None
        self._clear = 0

    @property
    def since(self) -> float | None:
        """The ``when`` of the first window of the present drift; None while there is none."""
        return self._since

    def update(self, score: float, threshold: float, when: float) -> None:
        """Take in one window's score; ``when`` is its time, in whatever unit ``since`` is wanted.

        Raises:
            ValueError: a number is not finite.
        """
        if not all(map(math.isfinite, (score, threshold, when))):
            raise ValueError(f"score, threshold and time must be finite, not {score}, {threshold}, {when}")
        if score > threshold:
            self._clear = 0
            if self._since is None:
                self._since = when
            return
        self._clear += 1
        if self._clear >= CLEAR_WINDOWS:
            self._since = None

"""One engine of two: every core for a run that is alone, one share of the cores each once there are several."""

import math
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from service.inference.engine import InferenceEngine, Precision


class ByLoadEngine:
    """Shares the cores out by what is running, so that neither one caller waits nor many lose to hand-overs.

    A run spread over all cores answers one caller soonest. Side by side such runs get in each other's way, and as many
    narrow ones as fill the cores get more done. The moment between two runs, in which the next picture is decoded,
    does not make the load less: within the time of a narrow run after the cores were full, runs stay narrow.
    """

    def __init__(
        self,
        alone: InferenceEngine,
        shared: InferenceEngine,
        runs_at_once: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Choose between two engines of the same graph, runtime, provider and precision.

        Args:
            alone: its runs take every core.
            shared: ``runs_at_once`` of its runs do.
            clock: seconds.
        """
        self._alone, self._shared, self._runs_at_once, self._clock = alone, shared, runs_at_once, clock
        self._lock = threading.Lock()
        self._running = 0
        self._full_at = -math.inf  # the latest moment at which the cores were full
        self._narrow_run_s = 0.0

    @property
    def provider(self) -> str:
        """See ``InferenceEngine.provider``."""
        return self._alone.provider

    @property
    def runtime(self) -> str:
        """See ``InferenceEngine.runtime``."""
        return self._alone.runtime

    @property
    def precision(self) -> Precision:
        """See ``InferenceEngine.precision``."""
        return self._alone.precision

    @property
    def threads(self) -> int:
        """Of a run that is alone."""
        return self._alone.threads

    @property
    def layouts(self) -> Sequence[InferenceEngine]:
        """The one for a run that is alone, then the one for several."""
        return self._alone, self._shared

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See ``InferenceEngine.run``."""
        narrow, begun = self._begin()
        try:
            return (self._shared if narrow else self._alone).run(images)
        finally:
            self._end(self._clock() - begun if narrow else None)

    def _begin(self) -> tuple[bool, float]:
        """Whether this run is to be a narrow one, and when it began."""
        with self._lock:
            now = self._clock()
            self._running += 1
            if self._running >= self._runs_at_once:
                self._full_at = now
                return True, now
            return now - self._full_at < self._narrow_run_s, now

    def _end(self, narrow_run_s: float | None) -> None:
        with self._lock:
            if self._running >= self._runs_at_once:
                self._full_at = self._clock()
            self._running -= 1
            if narrow_run_s is not None:
                self._narrow_run_s = narrow_run_s

"""One engine of two: every core for a run that is alone, a share of the cores each once enough is going on."""

import threading
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from service.inference.engine import InferenceEngine
from service.inference.engine_around import EngineAround


class ByLoadEngine(EngineAround):
    """Shares the cores out by load, so that neither one caller waits nor many lose to hand-overs.

    A run spread over all cores answers one caller soonest. Side by side such runs get in each other's way, and as many
    narrow ones as fill the cores get more done. Runs are wide until there is that much to do.
    """

    def __init__(self, alone: InferenceEngine, shared: InferenceEngine, fill: int) -> None:
        """Choose between two engines of the same graph, runtime, provider and precision.

        Args:
            alone: its runs take every core. What the whole says of itself is what this one does.
            shared: ``fill`` of its runs do.
        """
        super().__init__(alone)
        self._shared, self._fill = shared, fill
        self._lock = threading.Lock()
        self._runs = 0
        self._jobs: Callable[[], int] = lambda: 0

    def follow(self, jobs: Callable[[], int]) -> None:
        """Go by how many jobs are in work, too: one whose picture is still being decoded will want to run."""
        self._jobs = jobs

    @property
    def layouts(self) -> Sequence[InferenceEngine]:
        """The one for a run that is alone, then the one for several."""
        return self._engine, self._shared

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See ``InferenceEngine.run``."""
        with self._lock:
            self._runs += 1
            wanting = self._runs
        try:
            narrow = max(wanting, self._jobs()) >= self._fill
            return (self._shared if narrow else self._engine).run(images)
        finally:
            with self._lock:
                self._runs -= 1

    def release_memory(self) -> None:
        """See ``InferenceEngine.release_memory``."""
        for engine in self.layouts:
            engine.release_memory()

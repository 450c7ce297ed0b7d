"""One engine's runs shared by callers that would wait for each other anyway."""

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.errors import EngineError, fault_in_words
from service.inference.engine import InferenceEngine
from service.inference.engine_around import EngineAround


@dataclass(eq=False)
class _Call:
    """A caller's picture, and what became of it."""

    images: NDArray[np.uint8]
    rows: NDArray[np.float32] | None = None
    error: BaseException | None = None

    @property
    def is_over(self) -> bool:
        return self.rows is not None or self.error is not None


def batch_sizes(most: int) -> list[int]:
    """How many pictures runs hold that hold up to ``most``: powers of two and the most, ascending."""
    return [*(1 << power for power in range(most.bit_length()) if 1 << power < most), most]


class BatchingEngine(EngineAround):
    """Runs one batch at a time, of the pictures that came while the one before it ran.

    Nobody waits for a batch to fill: a picture that finds the engine idle is run at once and alone, so whoever is
    alone is answered as soon as without batches. Sizes are powers of two, and the largest: for each other one CUDA
    would choose its kernels anew in the middle of service.
    """

    def __init__(self, engine: InferenceEngine, most: int) -> None:
        """Share the runs of ``engine``.

        Args:
            most: pictures in one run, at least 2. It takes as many callers at once to come to it.
        """
        super().__init__(engine)
        self._most, self._sizes = most, batch_sizes(most)
        self._changed = threading.Condition()
        self._waiting: deque[_Call] = deque()
        self._running = False

    @property
    def max_batch_size(self) -> int:
        """Most pictures in one run."""
        return self._most

    @property
    def layouts(self) -> Sequence[InferenceEngine]:
        """The engine with one picture, then with batches of each size."""
        return [self._engine, *(_Repeating(self._engine, size) for size in self._sizes[1:])]

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See ``InferenceEngine.run``. Only pictures that come one by one, and of one size, share a run."""
        call = _Call(images)
        with self._changed:
            self._waiting.append(call)
        while True:
            with self._changed:
                self._changed.wait_for(lambda: call.is_over or not self._running)
                if call.is_over:
                    break
                self._running = True
                batch = self._take()
            # Its own picture may come later: it does for the oldest what somebody has to do.
            self._answer(batch)
        if call.error is not None:
            # One object raised in several threads would collect the traces of all.
            raise EngineError(fault_in_words(call.error)) from call.error
        assert call.rows is not None
        return call.rows

    def _take(self) -> list[_Call]:
        """The oldest and those after it that fit beside it, as many as a size has."""
        shape = self._waiting[0].images.shape
        alike = [call for call in self._waiting if call.images.shape == shape]
        most = max(size for size in self._sizes if size <= len(alike)) if shape[0] == 1 else 1
        batch = alike[:most]
        for call in batch:
            self._waiting.remove(call)
        return batch

    def _answer(self, batch: list[_Call]) -> None:
        try:
            if len(batch) == 1:
                batch[0].rows = self._engine.run(batch[0].images)
            else:
                rows = self._engine.run(np.concatenate([call.images for call in batch]))
                for place, call in enumerate(batch):
                    call.rows = rows[place : place + 1]
        except BaseException as error:
            for call in batch:  # whatever ends this thread must not leave the others waiting
                call.error = error
            if not isinstance(error, Exception):
                raise
        finally:
            with self._changed:
                self._running = False
                self._changed.notify_all()


class _Repeating(EngineAround):
    """An engine in batches of one size, each the same picture again and again."""

    def __init__(self, engine: InferenceEngine, size: int) -> None:
        super().__init__(engine)
        self._size = size

    @property
    def layouts(self) -> Sequence[InferenceEngine]:
        """This engine."""
        return (self,)

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Rows (1, N, 6) of one picture (1, H, W, 3) at the end of a batch."""
        return self._engine.run(np.repeat(images, self._size, axis=0))[-1:]

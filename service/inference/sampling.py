"""Lets somebody look at a share of the pictures that the detector sees, on a thread of its own, bounded in CPU."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.preprocessing.letterbox import Letterbox

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CpuBudget:
    """How much of the processor sampling may take.

    Attributes:
        share: of every core, above 0 to 1.
        cores: that this process may use.
    """

    share: float
    cores: int

    def rest_s(self, worked_s: float) -> float:
        """Seconds to rest after one thread worked for so many by the clock, so that both together keep the budget.

        By the clock, which is never less than the CPU time: where others crowd the machine, work takes longer, and so
        does the rest. CPU time alone would let sampling take a larger part of what little is left to this process.
        """
        return max(0.0, worked_s / (self.share * self.cores) - worked_s)


class PictureSampler:
    """A mailbox for one picture and the thread that empties it.

    The thread has the priority of all others and keeps to its budget by resting. With the least priority it stood still
    for minutes while requests filled the cores, at times with the interpreter's lock in its hands.

    While the thread works or rests the mailbox is shut and offering costs one look at a flag. It keeps a reference to
    the letterboxed picture, which nobody changes afterwards.
    """

    def __init__(self, look: Callable[[Letterbox, NDArray[np.uint8], float], None], budget: CpuBudget) -> None:
        """Start the thread.

        Args:
            look: called there with a picture as it was offered and the time, seconds since 1970.
        """
        self._look, self._budget = look, budget
        self._changed = threading.Condition()
        self._open, self._closed = False, False
        self._processor_s = 0.0
        self._slot: tuple[Letterbox, NDArray[np.uint8], float] | None = None
        self._thread = threading.Thread(target=self._work, name="yolofold-drift", daemon=True)
        self._thread.start()

    @property
    def open(self) -> bool:
        """Whether the next picture offered is taken."""
        return self._open

    @property
    def processor_s(self) -> float:
        """Processor time that looking has taken so far, seconds; that of the picture in work is not yet in it."""
        return self._processor_s

    def offer(self, plan: Letterbox, pixels: NDArray[np.uint8]) -> None:
        """Offer the letterboxed picture (H, W, 3) uint8 BGR of ``plan``; it is taken if the mailbox is open."""
        if not self._open:
            return
        with self._changed:
            if self._open:
                self._open, self._slot = False, (plan, pixels, time.time())
                self._changed.notify()

    def close(self, timeout_s: float = 5.0) -> None:
        """End the thread after the picture it is at."""
        with self._changed:
            self._closed, self._open = True, False
            self._changed.notify_all()
        self._thread.join(timeout_s)

    def _work(self) -> None:
        while (taken := self._next()) is not None:
            began_s = time.monotonic()
            plan, pixels, when = taken
            del taken
            try:
                self._look(plan, pixels, when)
            except Exception:
                # Watching must never end serving; whoever asks sees that the number of pictures stands still.
                log.exception("A picture could not be measured for drift")
            del pixels
            self._processor_s = time.thread_time()
            rest_s = self._budget.rest_s(time.monotonic() - began_s)
            with self._changed:
                self._changed.wait_for(lambda: self._closed, rest_s)

    def _next(self) -> tuple[Letterbox, NDArray[np.uint8], float] | None:
        with self._changed:
            self._open = not self._closed
            self._changed.wait_for(lambda: self._slot is not None or self._closed)
            taken, self._slot = self._slot, None
            return None if self._closed else taken

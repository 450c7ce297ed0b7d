"""Memory that pictures being decoded share, so that several large ones are decoded one after the other."""

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager


class DecodeBudget:
    """Admits work by the bytes it takes, in order of arrival. Safe to use from several threads.

    Work that alone is over the limit is admitted while nothing else runs. Nobody may ask for more while holding some:
    that is what makes waiting safe.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit, self._held = limit_bytes, 0
        self._changed = threading.Condition()
        self._queue: deque[object] = deque()

    @property
    def held_bytes(self) -> int:
        """Bytes of all admitted work."""
        return self._held

    @property
    def waiting(self) -> int:
        """How many wait to be admitted."""
        return len(self._queue)

    @contextmanager
    def hold(self, count: int) -> Iterator[float]:
        """Wait for ``count`` bytes and hold them until the block ends; gives the seconds waited."""
        asked, ticket = time.perf_counter(), object()
        with self._changed:
            self._queue.append(ticket)
            try:
                # Only the first in the queue may go: a large picture is not overtaken for ever by small ones.
                self._changed.wait_for(lambda: self._queue[0] is ticket and self._fits(count))
                self._held += count
            finally:
                self._queue.remove(ticket)
                self._changed.notify_all()
        try:
            yield time.perf_counter() - asked
        finally:
            with self._changed:
                self._held -= count
                self._changed.notify_all()

    def _fits(self, count: int) -> bool:
        return self._held == 0 or self._held + count <= self._limit

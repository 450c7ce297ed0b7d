"""How late the event loop comes to what is due: the time that every request waits behind the work of others."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from prometheus_client import CollectorRegistry, Histogram

INTERVAL_S = 0.05
#: The loop's timers count whole milliseconds, so that an idle one is late by up to one.
BUCKETS_S = (0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.25, 1.0)


class LoopLag:
    """The lag of one application's event loop, in the registry given."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Nothing is measured before ``watched``."""
        self._seconds = Histogram(
            "yolofold_event_loop_lag_seconds",
            f"Seconds by which the event loop was late, looked at every {INTERVAL_S * 1e3:.0f} ms.",
            buckets=BUCKETS_S,
            registry=registry,
        )

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Measure the running loop until the block ends."""
        watch = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            watch.cancel()
            with suppress(asyncio.CancelledError):
                await watch

    async def _watch(self) -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(INTERVAL_S)
            # A timer rounded down comes early.
            self._seconds.observe(max(0.0, time.perf_counter() - began - INTERVAL_S))

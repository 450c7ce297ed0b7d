"""Lets the pictures of large requests into the pool a few at a time, so that small requests get in between."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from service.errors import DeadlineExceeded, Overloaded
from service.inference.pool import Finished, WorkerPool

T = TypeVar("T")


@dataclass(eq=False)
class _Batch:
    jobs: int
    begun: int = 0


class BulkTurns:
    """As many turns as the pool has workers, shared by all batches. To be used from one event loop.

    Each job in the pool, running or waiting, has a turn. So a single request finds at most that many jobs of
    batches before it, however large and many those are, while a batch that is alone keeps every worker busy. Turns are
    given in the order of asking, and no batch asks for the next before it has given one back: batches take turns, too.
    """

    def __init__(self, pool: WorkerPool, most_batches: int) -> None:
        """More than ``most_batches`` at once are refused."""
        self._pool, self._most_batches = pool, most_batches
        self._turns = asyncio.Semaphore(pool.workers)
        self._batches: set[_Batch] = set()

    def require_room(self) -> None:
        """Check whether a batch begun now would be taken.

        Raises:
            Overloaded: too many are being worked on.
        """
        if len(self._batches) >= self._most_batches:
            left = sum(batch.jobs - batch.begun for batch in self._batches)
            detail = f"{len(self._batches)} batches are being worked on already."
            raise Overloaded(detail, self._pool.retry_after_s(left))

    async def run(self, jobs: int, do: Callable[[int], Awaitable[None]]) -> None:
        """Call ``do`` with 0, 1, ... ``jobs`` - 1, each as soon as one before it has ended; it may ``submit`` one job.

        Raises:
            Overloaded: too many batches are being worked on.
            ExceptionGroup: ``do`` raised; the others were cancelled.
        """
        self.require_room()
        batch = _Batch(jobs)

        async def lane() -> None:
            while batch.begun < jobs:
                batch.begun += 1
                await do(batch.begun - 1)

        self._batches.add(batch)
        try:
            async with asyncio.TaskGroup() as lanes:
                for _ in range(min(jobs, self._pool.workers)):
                    lanes.create_task(lane())
        finally:
            self._batches.discard(batch)

    async def submit(
        self, work: Callable[[], T], deadline: float, when_over: Callable[[], None]
    ) -> tuple[float, Finished[T]]:
        """Wait for a turn, have the pool run ``work`` and wait for it.

        The turn ends with the job, which may go on after its caller is cancelled or too late: see
        ``WorkerPool.submit``.

        Args:
            deadline: latest moment to wait for, on ``time.monotonic``'s clock, seconds.
            when_over: called once, on the event loop, when ``work`` has ended or will never begin.

        Returns:
            When the turn came, on ``time.perf_counter``'s clock, seconds, and what the pool returned.

        Raises:
            DeadlineExceeded: the turn did not come or there is no result by the deadline.
            Overloaded: the pool is closed.
        """
        try:
            await self._take_turn(deadline)
        except BaseException:
            when_over()
            raise

        def end_turn() -> None:
            self._turns.release()
            when_over()

        began = time.perf_counter()
        return began, await self._pool.submit(work, deadline, bulk=True, when_over=end_turn)

    async def _take_turn(self, deadline: float) -> None:
        # A free turn is taken without looking at the clock, hence this.
        late = DeadlineExceeded("The request was not answered within its time-out.")
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise late
        try:
            async with asyncio.timeout(left_s):
                await self._turns.acquire()
        except TimeoutError as error:
            raise late from error

"""Turns of batches in the pool, with workers held by events rather than by timing."""

import asyncio
import time
from collections.abc import Iterator

import pytest

from service.errors import DeadlineExceeded, Overloaded
from service.inference.bulk import BulkTurns
from service.inference.pool import WorkerPool
from tests.inference.test_pool import Gate, soon, until

WORKERS = 2


@pytest.fixture
def pool() -> Iterator[WorkerPool]:
    pool = WorkerPool(WORKERS, 3)
    yield pool
    pool.close()


class Order:
    """Notes which job ran when, all of them behind ``WORKERS`` that hold the workers."""

    def __init__(self, pool: WorkerPool, bulk: BulkTurns) -> None:
        self._pool, self._bulk = pool, bulk
        self.seen: list[str] = []
        self.gates = [Gate() for _ in range(WORKERS)]

    async def hold_workers(self) -> list[asyncio.Task]:
        held = [asyncio.create_task(self._pool.submit(gate, soon())) for gate in self.gates]
        for gate in self.gates:
            await gate.wait_started()
        return held

    def open(self) -> None:
        for gate in self.gates:
            gate.open()

    def batch(self, name: str, jobs: int) -> asyncio.Task:
        async def do(index: int) -> None:
            async with self._bulk.turn(soon()):
                await self._pool.submit(lambda: self.seen.append(f"{name}{index}"), soon(), bulk=True)

        return asyncio.create_task(self._bulk.run(jobs, do))

    def single(self, name: str) -> asyncio.Task:
        return asyncio.create_task(self._pool.submit(lambda: self.seen.append(name), soon()))


def test_singles_wait_for_one_round_of_turns_at_most_however_many_batches_there_are(pool: WorkerPool) -> None:
    async def scenario() -> None:
        order = Order(pool, BulkTurns(pool, 8))
        held = await order.hold_workers()
        batches = [order.batch(name, 20) for name in "abc"]
        await until(lambda: pool.waiting == WORKERS)
        singles = [order.single(name) for name in "xyz"]
        await until(lambda: pool.waiting == WORKERS + 3)
        order.open()
        await asyncio.gather(*held, *batches, *singles)
        # Behind the two turns, and two threads may note one job later than it was begun.
        assert max(order.seen.index(name) for name in "xyz") <= WORKERS + 3 + WORKERS - 1
        for name in "abc":
            assert {seen for seen in order.seen if seen.startswith(name)} == {f"{name}{i}" for i in range(20)}

    asyncio.run(scenario())


def test_batches_take_turns(pool: WorkerPool) -> None:
    async def scenario() -> None:
        order = Order(pool, BulkTurns(pool, 8))
        held = await order.hold_workers()
        long = order.batch("a", 60)
        await until(lambda: pool.waiting == WORKERS)
        short = order.batch("b", 4)
        order.open()
        await asyncio.gather(*held, short, long)
        assert order.seen.index("b3") < order.seen.index("a40")

    asyncio.run(scenario())


def test_a_batch_takes_no_place_in_the_queue_and_needs_none(pool: WorkerPool) -> None:
    async def scenario() -> None:
        order = Order(pool, BulkTurns(pool, 8))
        held = await order.hold_workers()
        batch = order.batch("a", 5)
        await until(lambda: pool.waiting == WORKERS)
        singles = [order.single(name) for name in "xyz"]  # all the places there are
        await until(lambda: pool.waiting == WORKERS + 3)
        with pytest.raises(Overloaded):
            await order.single("w")
        order.open()
        await asyncio.gather(*held, batch, *singles)
        assert len(order.seen) == 5 + 3

        order = Order(pool, BulkTurns(pool, 8))
        held = await order.hold_workers()
        singles = [order.single(name) for name in "xyz"]
        await until(lambda: pool.waiting == 3)
        batch = order.batch("a", 5)
        await until(lambda: pool.waiting == 3 + WORKERS)
        order.open()
        await asyncio.gather(*held, batch, *singles)
        assert len(order.seen) == 5 + 3

    asyncio.run(scenario())


def test_too_many_batches_are_refused_until_one_has_ended(pool: WorkerPool) -> None:
    async def scenario() -> None:
        bulk = BulkTurns(pool, 2)
        order = Order(pool, bulk)
        held = await order.hold_workers()
        batches = [order.batch(name, 3) for name in "ab"]
        await until(lambda: pool.waiting == WORKERS)
        pool._mean_s = 5.0
        with pytest.raises(Overloaded, match="2 batches") as caught:
            bulk.require_room()
        # Of six jobs each batch has begun one per worker; the others, at 5 s each and two at a time.
        assert caught.value.retry_after_s == 5 * (6 - 2 * WORKERS) / WORKERS
        with pytest.raises(Overloaded, match="2 batches"):
            await order.batch("c", 1)
        order.open()
        await asyncio.gather(*held, *batches)
        bulk.require_room()

    asyncio.run(scenario())


def test_a_turn_that_does_not_come_in_time(pool: WorkerPool) -> None:
    async def scenario() -> None:
        bulk = BulkTurns(pool, 8)
        async with bulk.turn(soon()), bulk.turn(soon()):
            with pytest.raises(DeadlineExceeded):
                async with bulk.turn(time.monotonic() + 0.01):
                    raise AssertionError("there were two turns only")
        with pytest.raises(DeadlineExceeded):
            async with bulk.turn(time.monotonic() - 1):
                raise AssertionError("it is too late for a free turn, too")
        async with bulk.turn(soon()), bulk.turn(soon()):
            pass

    asyncio.run(scenario())


def test_a_cancelled_batch_leaves_the_queue_and_gives_its_turns_back(pool: WorkerPool) -> None:
    async def scenario() -> None:
        bulk = BulkTurns(pool, 1)
        order = Order(pool, bulk)
        held = await order.hold_workers()
        left = order.batch("a", 20)
        await until(lambda: pool.waiting == WORKERS)
        left.cancel()
        await asyncio.gather(left, return_exceptions=True)
        assert pool.waiting == 0
        batch = order.batch("b", 3)
        await until(lambda: pool.waiting == WORKERS)
        order.open()
        await asyncio.gather(*held, batch)
        assert sorted(order.seen) == ["b0", "b1", "b2"]

    asyncio.run(scenario())


def test_a_failing_job_ends_its_batch(pool: WorkerPool) -> None:
    async def scenario() -> None:
        bulk, begun = BulkTurns(pool, 1), []

        async def do(index: int) -> None:
            begun.append(index)
            async with bulk.turn(soon()):
                if index == 3:
                    raise ValueError("broken")
                await asyncio.sleep(0)

        with pytest.raises(ExceptionGroup) as caught:
            await bulk.run(50, do)
        assert str(caught.value.exceptions[0]) == "broken"
        assert len(begun) < 10
        bulk.require_room()

    asyncio.run(scenario())

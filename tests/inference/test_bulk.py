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


def ignore() -> None:
    """Nobody asks when a job is over."""


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
            await self._bulk.submit(lambda: self.seen.append(f"{name}{index}"), soon(), ignore)

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
        bulk, over = BulkTurns(pool, 8), []
        gates = [Gate() for _ in range(WORKERS)]
        held = [asyncio.create_task(bulk.submit(gate, soon(), ignore)) for gate in gates]
        for gate in gates:
            await gate.wait_started()
        with pytest.raises(DeadlineExceeded):  # there are no more turns than workers
            await bulk.submit(pytest.fail, time.monotonic() + 0.01, lambda: over.append("no turn"))
        for gate in gates:
            gate.open()
        await asyncio.gather(*held)
        with pytest.raises(DeadlineExceeded):
            await bulk.submit(pytest.fail, time.monotonic() - 1, lambda: over.append("a turn, but too late"))
        assert over == ["no turn", "a turn, but too late"]
        for _ in range(WORKERS + 1):
            _, found = await bulk.submit(lambda: "done", soon(), ignore)
            assert found.value == "done"

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


def test_a_begun_job_keeps_its_turn_though_its_batch_was_cancelled(pool: WorkerPool) -> None:
    async def scenario() -> None:
        bulk, over = BulkTurns(pool, 8), []
        gates = [Gate() for _ in range(WORKERS)]

        async def do(index: int) -> None:
            await bulk.submit(gates[index], soon(), lambda: over.append(index))

        left = asyncio.create_task(bulk.run(WORKERS, do))
        for gate in gates:
            await gate.wait_started()
        left.cancel()
        await asyncio.gather(left, return_exceptions=True)
        after = asyncio.create_task(bulk.submit(lambda: list(over), soon(), ignore))
        for _ in range(20):
            await asyncio.sleep(0)
        # It has no turn, so it is not even in the queue.
        assert (over, pool.waiting, pool.running) == ([], 0, WORKERS)
        gates[0].open()
        _, found = await after
        assert found.value == over == [0]
        gates[1].open()
        await until(lambda: over == [0, 1])

    asyncio.run(scenario())


def test_what_a_closed_pool_refuses_is_over(pool: WorkerPool) -> None:
    async def scenario() -> None:
        bulk, over = BulkTurns(pool, 8), []
        pool.close()
        for index in range(WORKERS + 1):  # each gives its turn back
            with pytest.raises(Overloaded):
                await bulk.submit(pytest.fail, soon(), lambda index=index: over.append(index))
        await until(lambda: over == list(range(WORKERS + 1)))

    asyncio.run(scenario())


def test_a_failing_job_ends_its_batch(pool: WorkerPool) -> None:
    async def scenario() -> None:
        bulk, begun = BulkTurns(pool, 1), []

        def work(index: int) -> None:
            if index == 3:
                raise ValueError("broken")

        async def do(index: int) -> None:
            begun.append(index)
            await bulk.submit(lambda: work(index), soon(), ignore)

        with pytest.raises(ExceptionGroup) as caught:
            await bulk.run(50, do)
        assert str(caught.value.exceptions[0]) == "broken"
        assert len(begun) < 10
        bulk.require_room()

    asyncio.run(scenario())

"""The pool's promises, with workers held by events rather than by timing."""

import asyncio
import threading
import time
from collections.abc import Iterator

import pytest

from service.errors import DeadlineExceeded, NobodyWaits, Overloaded
from service.inference.pool import WorkerPool


def soon() -> float:
    """A deadline no test gets near."""
    return time.monotonic() + 60


class Gate:
    """A job that reports its start and ends only when told to."""

    def __init__(self) -> None:
        self.started, self._open = threading.Event(), threading.Event()

    def __call__(self) -> str:
        self.started.set()
        assert self._open.wait(30)
        return "through"

    def open(self) -> None:
        self._open.set()

    async def wait_started(self) -> None:
        assert await asyncio.to_thread(self.started.wait, 30)


@pytest.fixture
def pool() -> Iterator[WorkerPool]:
    pool = WorkerPool(1, 2)
    yield pool
    pool.close()


async def until(condition) -> None:
    """Let the event loop and the workers go on until something has become true."""
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0)


def test_the_worker_that_has_just_ended_is_called_first() -> None:
    pool = WorkerPool(4, 2)

    async def scenario() -> list[str]:
        names = []
        for _ in range(8):
            await until(lambda: len(pool._idle) == 4)
            names.append((await pool.submit(lambda: threading.current_thread().name, soon())).value)
        return names

    names = asyncio.run(scenario())
    pool.close()
    assert len(set(names)) == 1


def test_values_and_errors_come_back(pool: WorkerPool) -> None:
    async def scenario() -> None:
        finished = await pool.submit(lambda: threading.current_thread().name, soon())
        assert finished.value.startswith("yolofold-worker")
        assert 0 <= finished.waited_s < 30
        for error in (ValueError("wrong"), TimeoutError("the work's own")):
            with pytest.raises(type(error), match=str(error)):
                await pool.submit(lambda error=error: (_ for _ in ()).throw(error), soon())
        assert (await pool.submit(lambda: 5, soon())).value == 5

    asyncio.run(scenario())


def test_the_queue_is_bounded_exactly_and_recovers(pool: WorkerPool) -> None:
    async def scenario() -> None:
        gate = Gate()
        running = asyncio.create_task(pool.submit(gate, soon()))
        await gate.wait_started()
        pool.require_room()
        waiting = [asyncio.create_task(pool.submit(lambda i=i: i, soon())) for i in range(2)]
        await until(lambda: pool.waiting == 2)
        with pytest.raises(Overloaded) as caught:
            await pool.submit(lambda: 9, soon())
        assert caught.value.retry_after_s >= 1
        with pytest.raises(Overloaded):
            pool.require_room()
        gate.open()
        assert [f.value for f in await asyncio.gather(running, *waiting)] == ["through", 0, 1]
        assert (await pool.submit(lambda: 9, soon())).value == 9

    asyncio.run(scenario())


def test_idle_workers_do_not_use_up_the_queue() -> None:
    """Three jobs at once fit two idle workers and one place, even before a worker has woken."""
    pool = WorkerPool(2, 1)

    async def scenario() -> None:
        gates = [Gate() for _ in range(3)]
        jobs = [asyncio.create_task(pool.submit(gate, soon())) for gate in gates]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await pool.submit(lambda: None, soon())
        for gate in gates:
            gate.open()
        await asyncio.gather(*jobs)

    asyncio.run(scenario())
    pool.close()


def test_a_request_of_several_jobs_is_refused_before_the_first_or_not_at_all(pool: WorkerPool) -> None:
    async def scenario() -> None:
        gate = Gate()
        with pool.keep_place() as place:
            first = asyncio.create_task(place.submit(gate, soon()))
            await gate.wait_started()
            others = [asyncio.create_task(pool.submit(lambda: "other", soon())) for _ in range(2)]
            await until(lambda: pool.waiting == 2)
            with pytest.raises(Overloaded), pool.keep_place():
                raise AssertionError("there was no room")
            gate.open()
            assert (await first).value == "through"
            await asyncio.gather(*others)
            # Between two of its jobs the place is kept: others fill all the rest, and its next job is taken.
            held = Gate()
            others = [asyncio.create_task(pool.submit(held, soon())) for _ in range(2)]
            await held.wait_started()
            with pytest.raises(Overloaded):
                await pool.submit(lambda: None, soon())
            second = asyncio.create_task(place.submit(lambda: "second", soon()))
            await until(lambda: pool.waiting == 2)
            with pytest.raises(Overloaded):
                pool.require_room()
            held.open()
            assert (await second).value == "second"
            await asyncio.gather(*others)
        others = [asyncio.create_task(pool.submit(lambda: None, soon())) for _ in range(3)]
        await asyncio.gather(*others)

    asyncio.run(scenario())


def test_a_place_given_up_while_its_job_runs_is_free_when_the_job_ends() -> None:
    pool = WorkerPool(1, 1)

    async def scenario() -> None:
        gate = Gate()
        with pool.keep_place() as place:
            job = asyncio.create_task(place.submit(gate, soon()))
            await gate.wait_started()
            job.cancel()
            await asyncio.gather(job, return_exceptions=True)
        waiting = asyncio.create_task(pool.submit(lambda: "next", soon()))
        await until(lambda: pool.waiting == 1)
        with pytest.raises(Overloaded):
            pool.require_room()
        gate.open()
        assert (await waiting).value == "next"
        with pytest.raises(Overloaded, match="shutting down"), pool.keep_place() as place:
            pool.close()
            await place.submit(lambda: None, soon())

    asyncio.run(scenario())


def test_retry_after_follows_the_backlog(pool: WorkerPool) -> None:
    async def scenario() -> None:
        gate = Gate()
        jobs = [asyncio.create_task(pool.submit(gate, soon())) for _ in range(3)]
        await gate.wait_started()
        await until(lambda: pool.waiting == 2)
        pool._mean_s = 7.0
        with pytest.raises(Overloaded) as caught:
            pool.require_room()
        assert caught.value.retry_after_s == 21
        pool._mean_s = 1e6
        with pytest.raises(Overloaded) as caught:
            pool.require_room()
        assert caught.value.retry_after_s == 60
        gate.open()
        await asyncio.gather(*jobs)

    asyncio.run(scenario())


def test_a_job_past_its_deadline_is_never_begun(pool: WorkerPool) -> None:
    async def scenario() -> None:
        gate, begun = Gate(), threading.Event()
        running = asyncio.create_task(pool.submit(gate, soon()))
        await gate.wait_started()
        with pytest.raises(DeadlineExceeded):
            await pool.submit(begun.set, time.monotonic() + 0.01)
        assert pool.waiting == 0
        gate.open()
        await running
        await pool.submit(lambda: None, soon())
        assert not begun.is_set()

    asyncio.run(scenario())


def test_a_running_job_past_its_deadline_is_given_up_and_its_worker_goes_on(pool: WorkerPool) -> None:
    async def scenario() -> None:
        gate = Gate()
        with pytest.raises(DeadlineExceeded):
            await pool.submit(gate, time.monotonic() + 0.05)
        gate.open()
        assert (await pool.submit(lambda: 3, soon())).value == 3

    asyncio.run(scenario())


@pytest.mark.parametrize("leaves", ["deadline", "cancelled"])
def test_a_running_job_learns_that_nobody_waits(pool: WorkerPool, leaves: str) -> None:
    gate, wanted = Gate(), list[bool]()

    def work() -> None:
        for _ in range(2):
            try:
                pool.require_wanted()
                wanted.append(True)
            except NobodyWaits:
                wanted.append(False)
            if len(wanted) == 1:
                gate()

    async def scenario() -> None:
        pool.require_wanted()  # outside a job there is nobody to ask about
        caller = asyncio.ensure_future(pool.submit(work, time.monotonic() + (3 if leaves == "deadline" else 60)))
        await gate.wait_started()
        if leaves == "cancelled":
            caller.cancel()
        with pytest.raises(DeadlineExceeded if leaves == "deadline" else asyncio.CancelledError):
            await caller
        gate.open()
        await until(lambda: len(wanted) == 2)
        assert wanted == [True, False]
        await pool.submit(pool.require_wanted, soon())  # the next job of the same thread is wanted

    asyncio.run(scenario())


def test_a_cancelled_caller_frees_its_place_and_its_job_is_dropped(pool: WorkerPool) -> None:
    async def scenario() -> None:
        gate, begun = Gate(), threading.Event()
        running = asyncio.create_task(pool.submit(gate, soon()))
        await gate.wait_started()
        waiting = [asyncio.create_task(pool.submit(begun.set, soon())) for _ in range(2)]
        await until(lambda: pool.waiting == 2)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert pool.waiting == 0
        pool.require_room()
        gate.open()
        await running
        await pool.submit(lambda: None, soon())
        assert not begun.is_set()

    asyncio.run(scenario())


class Ends:
    """Counts the calls of ``when_over``, all on the thread that made this one."""

    def __init__(self) -> None:
        self.count, self._thread = 0, threading.get_ident()

    def __call__(self) -> None:
        assert threading.get_ident() == self._thread
        self.count += 1


def test_the_end_of_a_job_is_told_before_its_value(pool: WorkerPool) -> None:
    async def scenario() -> None:
        over = Ends()
        for count in range(1, 50):
            await pool.submit(lambda: None, soon(), when_over=over)
            assert over.count == count
        with pytest.raises(ZeroDivisionError):
            await pool.submit(lambda: 1 // 0, soon(), when_over=over)
        assert over.count == 50

    asyncio.run(scenario())


@pytest.mark.parametrize("leaves", ["cancelled", "too late"])
def test_a_begun_job_is_over_when_it_ends_though_its_caller_has_gone(pool: WorkerPool, leaves: str) -> None:
    async def scenario() -> None:
        gate, over = Gate(), Ends()
        deadline = soon() if leaves == "cancelled" else time.monotonic() + 0.01
        caller = asyncio.create_task(pool.submit(gate, deadline, when_over=over))
        await asyncio.sleep(0)  # it is in the queue
        assert gate.started.wait(30)  # on the loop itself, which so cannot notice the deadline before
        if leaves == "cancelled":
            caller.cancel()
        with pytest.raises(asyncio.CancelledError if leaves == "cancelled" else DeadlineExceeded):
            await caller
        for _ in range(20):
            await asyncio.sleep(0)
        assert (over.count, pool.running) == (0, 1)
        gate.open()
        await until(lambda: over.count == 1)

    asyncio.run(scenario())


def test_a_job_that_is_never_begun_is_over_at_once(pool: WorkerPool) -> None:
    async def scenario() -> None:
        gate, left, late, refused = Gate(), Ends(), Ends(), Ends()
        running = asyncio.create_task(pool.submit(gate, soon()))
        await gate.wait_started()
        leaving = asyncio.create_task(pool.submit(pytest.fail, soon(), when_over=left))
        await until(lambda: pool.waiting == 1)
        leaving.cancel()
        with pytest.raises(DeadlineExceeded):
            await pool.submit(pytest.fail, time.monotonic() + 0.01, when_over=late)
        waiting = [asyncio.create_task(pool.submit(lambda: None, soon())) for _ in range(2)]
        await until(lambda: pool.waiting == 2)
        with pytest.raises(Overloaded):
            await pool.submit(pytest.fail, soon(), when_over=refused)
        await until(lambda: left.count == late.count == refused.count == 1)
        gate.open()
        await asyncio.gather(running, *waiting)
        assert (left.count, late.count, refused.count) == (1, 1, 1)

    asyncio.run(scenario())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_worker_is_visible_and_its_caller_is_told() -> None:
    pool = WorkerPool(2, 4)
    assert pool.alive

    def leave() -> None:
        raise SystemExit

    async def scenario() -> None:
        with pytest.raises(RuntimeError, match="worker stopped"):
            await pool.submit(leave, soon())
        await until(lambda: not pool.alive)
        assert (await pool.submit(lambda: "the other one", soon())).value == "the other one"

    asyncio.run(scenario())
    pool.close()


def test_a_hanging_worker_is_visible() -> None:
    pool = WorkerPool(1, 1, hung_after_s=0.0)

    async def scenario() -> None:
        gate = Gate()
        with pytest.raises(DeadlineExceeded):
            await pool.submit(gate, time.monotonic() + 0.05)
        assert not pool.alive
        gate.open()
        await until(lambda: pool.alive)

    asyncio.run(scenario())
    pool.close()


def test_closing_refuses_new_work_drops_what_waits_and_lets_running_jobs_end() -> None:
    pool = WorkerPool(1, 4)

    async def scenario() -> None:
        gate = Gate()
        running = asyncio.create_task(pool.submit(gate, soon()))
        await gate.wait_started()
        waiting = asyncio.create_task(pool.submit(lambda: None, soon()))
        await until(lambda: pool.waiting == 1)
        closing = asyncio.create_task(asyncio.to_thread(pool.close))
        with pytest.raises(Overloaded, match="shutting down"):
            await waiting
        assert not pool.alive
        with pytest.raises(Overloaded, match="shutting down"):
            await pool.submit(lambda: None, soon())
        gate.open()
        assert (await running).value == "through"
        await closing

    asyncio.run(scenario())


@pytest.mark.parametrize("workers", [1, 4])
def test_no_more_jobs_run_at_once_than_there_are_workers(workers: int) -> None:
    pool, lock, now, most = WorkerPool(workers, 200), threading.Lock(), 0, 0

    def job() -> int:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        total = sum(range(2000))
        with lock:
            now -= 1
        return total

    async def scenario() -> None:
        done = await asyncio.gather(*(pool.submit(job, soon()) for _ in range(200)))
        assert {f.value for f in done} == {sum(range(2000))}

    asyncio.run(scenario())
    assert 1 <= most <= workers
    pool.close()

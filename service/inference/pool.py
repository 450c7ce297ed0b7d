"""A fixed number of worker threads behind a bounded queue. Work nobody waits for is never begun."""

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from service.errors import DeadlineExceeded, NobodyWaits, Overloaded

T = TypeVar("T")

_MAX_RETRY_AFTER_S = 60
#: Weight of the newest job in the running mean of job durations.
_MEAN_WEIGHT = 0.2


@dataclass(frozen=True)
class Finished(Generic[T]):
    """A job's value and how long it waited for a worker, in seconds."""

    value: T
    waited_s: float


@dataclass(eq=False)
class _Job:
    work: Callable[[], Any]
    deadline: float
    submitted: float
    is_bulk: bool = False
    place: "Place | None" = None
    is_wanted: bool = True
    future: Future[Finished[Any]] = field(default_factory=Future)


class Place:
    """One place in the pool, kept for jobs that follow one after the other; see :meth:`WorkerPool.keep_place`."""

    def __init__(self, pool: "WorkerPool") -> None:
        self._pool = pool

    async def submit(self, work: Callable[[], T], deadline: float) -> Finished[T]:
        """The same as :meth:`WorkerPool.submit`, at the end of the queue, but never refused because it is full."""
        return await self._pool._run(_Job(work, deadline, time.monotonic(), place=self))


class WorkerPool:
    """Runs blocking functions on threads for callers on an event loop.

    Decoding happens inside a job, so at most ``workers`` decoded pictures exist at any moment.
    """

    def __init__(self, workers: int, queue_size: int, hung_after_s: float = 60.0) -> None:
        """Start the threads.

        Args:
            workers: jobs run at once.
            queue_size: jobs that may wait while every worker is busy.
            hung_after_s: a job running this long past its deadline means the pool is not alive, seconds.
        """
        self._queue_size, self._hung_after_s = queue_size, hung_after_s
        self._lock = threading.Lock()
        #: Of the threads that wait for a job, the one that has waited shortest last.
        self._idle: list[threading.Condition] = []
        self._waiting: deque[_Job] = deque()
        self._running: set[_Job] = set()
        self._own = threading.local()
        self._places: set[Place] = set()
        self._mean_s = 0.0
        self._begun = 0
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"yolofold-worker-{i}", daemon=True) for i in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def workers(self) -> int:
        """Number of worker threads."""
        return len(self._threads)

    @property
    def waiting(self) -> int:
        """Jobs that no worker has begun."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Jobs being worked on."""
        return len(self._running)

    @property
    def begun(self) -> int:
        """Jobs that a worker has begun since the start."""
        return self._begun

    @property
    def alive(self) -> bool:
        """Every worker thread lives, none hangs, and the pool is open."""
        if self._closed or not all(thread.is_alive() for thread in self._threads):
            return False
        with self._lock:
            latest = time.monotonic() - self._hung_after_s
            return all(job.deadline >= latest for job in self._running)

    def require_room(self) -> None:
        """Check whether a job submitted now would be taken.

        Raises:
            Overloaded: every worker is busy and the queue is full, or the pool is closed.
        """
        with self._lock:
            self._require_room()

    def retry_after_s(self, jobs: int) -> int:
        """Whole seconds in which so many jobs should be worked off, by how long the last ones took."""
        return min(max(1, math.ceil(jobs * self._mean_s / self.workers)), _MAX_RETRY_AFTER_S)

    async def submit(
        self,
        work: Callable[[], T],
        deadline: float,
        *,
        bulk: bool = False,
        when_over: Callable[[], None] | None = None,
    ) -> Finished[T]:
        """Run ``work`` on a worker thread and wait for it.

        If the caller is cancelled or the deadline passes while the job waits, it is dropped without being
        run; once begun it runs to its end, or to where it calls ``require_wanted``, and its value is thrown away.

        Args:
            deadline: latest moment to wait for, on ``time.monotonic``'s clock, seconds.
            bulk: the caller holds one of ``BulkTurns``, whose number is bounded: the job waits in the same queue, but
                on a place of its own, which no full queue takes from it and which it takes from nobody.
            when_over: called once, on the caller's event loop, when ``work`` has ended or will never begin: before a
                value is returned, perhaps after something is raised.

        Raises:
            Overloaded: the queue is full; carries when to try again.
            DeadlineExceeded: no result by the deadline.
        """
        job = _Job(work, deadline, time.monotonic(), is_bulk=bulk)
        if when_over is not None:
            loop = asyncio.get_running_loop()

            def tell(_: Future[Finished[Any]]) -> None:
                with suppress(RuntimeError):  # the loop is closed: nobody asks any more
                    loop.call_soon_threadsafe(when_over)

            job.future.add_done_callback(tell)
        return await self._run(job)

    def require_wanted(self) -> None:
        """For a job, before it does something expensive: check whether its caller still waits.

        Raises:
            NobodyWaits: it does not.
        """
        job: _Job | None = getattr(self._own, "job", None)
        if job is not None and not job.is_wanted:
            raise NobodyWaits

    @contextmanager
    def keep_place(self) -> Iterator[Place]:
        """A place for a request of several jobs, so that it is refused before the first of them or not at all.

        It counts as one job until the block ends, also between two of its jobs. Only one of them may be submitted
        at a time.

        Raises:
            Overloaded: the queue is full; carries when to try again.
        """
        place = Place(self)
        with self._lock:
            self._require_room()
            self._places.add(place)
        try:
            yield place
        finally:
            with self._lock:
                self._places.discard(place)

    async def _run(self, job: _Job) -> Finished[Any]:
        try:
            self._enqueue(job)
        except Overloaded:
            job.future.cancel()
            raise
        try:
            async with asyncio.timeout(job.deadline - time.monotonic()) as limit:
                return await asyncio.wrap_future(job.future)
        except TimeoutError as error:
            if not limit.expired():
                raise  # the work itself raised it
            raise DeadlineExceeded("The request was not answered within its time-out.") from error
        finally:
            self._forget(job)

    def _enqueue(self, job: _Job) -> None:
        with self._lock:
            if job.is_bulk or job.place in self._places:
                self._require_open()
            else:
                self._require_room()
            self._waiting.append(job)
            if self._idle:
                self._idle.pop().notify()

    def close(self, timeout_s: float = 5.0) -> None:
        """Refuse new work, drop what waits and give running jobs ``timeout_s`` seconds to end."""
        with self._lock:
            self._closed = True
            dropped = list(self._waiting)
            self._waiting.clear()
            while self._idle:
                self._idle.pop().notify()
        for job in dropped:
            if job.future.set_running_or_notify_cancel():
                job.future.set_exception(Overloaded("The service is shutting down."))
        until = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def _require_open(self) -> None:
        if self._closed:
            raise Overloaded("The service is shutting down.")

    def _require_room(self) -> None:
        self._require_open()
        bulk = sum(job.is_bulk for job in self._waiting)
        alone = sum(not job.is_bulk and job.place is None for job in self._waiting)
        # A place waits as long as none of its jobs runs.
        waiting = alone + len(self._places - {job.place for job in self._running})
        idle = self.workers - len(self._running)
        if waiting >= self._queue_size + max(0, idle - bulk):
            raise Overloaded(
                f"All {self.workers} workers are busy and {waiting} requests wait already.",
                self.retry_after_s(len(self._waiting) + len(self._running)),
            )

    def _forget(self, job: _Job) -> None:
        job.is_wanted = False
        with self._lock:
            if job in self._waiting:
                self._waiting.remove(job)

    def _next_job(self, called: threading.Condition) -> _Job | None:
        with self._lock:
            while True:
                while not self._waiting and not self._closed:
                    # The last to go is the first to be called: what it worked with may still be in the caches.
                    self._idle.append(called)
                    called.wait()
                if not self._waiting:
                    return None
                job = self._waiting.popleft()
                # False when the caller has gone.
                if job.future.set_running_or_notify_cancel():
                    self._running.add(job)
                    self._begun += 1
                    return job

    def _work(self) -> None:
        called = threading.Condition(self._lock)
        while (job := self._next_job(called)) is not None:
            started = time.monotonic()
            self._own.job = job
            try:
                value = job.work()
            except NobodyWaits as error:
                self._finish(job, None)
                job.future.set_exception(error)
            except Exception as error:
                self._finish(job, started)
                job.future.set_exception(error)
            except BaseException as error:
                # An order to exit ends this thread, which `alive` reports; the caller must not wait for ever.
                self._finish(job, started)
                job.future.set_exception(RuntimeError(f"The worker stopped: {error!r}"))
                raise
            else:
                self._finish(job, started)
                job.future.set_result(Finished(value, started - job.submitted))
            del job, self._own.job  # the last job's picture must not live until the next one arrives

    def _finish(self, job: _Job, started: float | None) -> None:
        """``started`` is None where the job ended early and says nothing about how long jobs take."""
        with self._lock:
            self._running.discard(job)
            if started is None:
                return
            took = time.monotonic() - started
            self._mean_s = took if self._mean_s == 0 else self._mean_s + _MEAN_WEIGHT * (took - self._mean_s)

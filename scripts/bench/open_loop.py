"""Latency at a given load: requests are due at fixed times, whether or not earlier ones have been answered.

A latency counts from the time at which the request was due, so that neither a sender that was late nor a connection
that was not free hides what a caller would have waited ("coordinated omission": Tene, "How NOT to measure latency").
"""

import asyncio
import contextlib
import math
import time
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from scripts.bench.closed_loop import LoadFailed
from scripts.bench.upload import CONTENT_TYPE, Address

#: Connections held open at most. A request that is due when all are busy waits, and its latency counts meanwhile.
MOST_CONNECTIONS = 64
#: The same where refusals are tallied: more than the server lets wait, so that each request that it should refuse gets
#: to it, and fewer than the files that a process may usually hold open.
MOST_TALLIED_CONNECTIONS = 512
#: Opened before the first request: several for each process of a server on a few cores.
_OPENED = 16
#: Servers close a connection that is idle for longer than some seconds (uvicorn: 5).
_IDLE_S = 2.0
MOST_REQUESTS = 100_000
#: How long after the last request's time an answer is waited for.
PATIENCE_S = 30.0

_Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]
#: Sends the request of this number, which is due at this time of ``time.perf_counter``, and awaits its answer.
_Send = Callable[[int, float], Coroutine[Any, Any, None]]


@dataclass(frozen=True)
class OpenLoop:
    """What came of one series of requests.

    Attributes:
        rate_per_s: requests due per second.
        latencies_ms: of each request, in the order in which they were due; infinite if ``PATIENCE_S`` was not enough.
        send_lag_ms: largest delay of the sender itself between a request's time and its coming to it. It is part of
            the latencies.
    """

    rate_per_s: float
    latencies_ms: list[float]
    send_lag_ms: float


@dataclass(frozen=True)
class Answer:
    """What came of one request.

    Attributes:
        status: 0 if the connection broke or was refused, or if no answer came in ``PATIENCE_S``.
        latency_ms: from the time the request was due to that end; infinite where patience ended first.
    """

    status: int
    latency_ms: float

    @property
    def good(self) -> bool:
        """2xx."""
        return 200 <= self.status <= 299


@dataclass(frozen=True)
class Tally:
    """What came of a series of requests whose refusal is no failure.

    Attributes:
        rate_per_s: requests due per second.
        answers: to each request, in the order in which they were due.
        send_lag_ms: as in ``OpenLoop``.
    """

    rate_per_s: float
    answers: list[Answer]
    send_lag_ms: float


def run_open_loop(address: Address, body: bytes, rate_per_s: float, seconds: float) -> OpenLoop:
    """Send a form again and again at an even pace, and wait for the answers.

    Raises:
        LoadFailed: an answer was not 2xx, or no HTTP with a length, or a connection broke.
        ValueError: the load has no or more than ``MOST_REQUESTS`` requests.
    """
    requests = _requests(rate_per_s, seconds)
    connections = _Connections(address, _request(address, body), MOST_CONNECTIONS)
    # At a low rate, so many would be idle for so long that servers close them.
    opened = min(_OPENED, math.ceil(rate_per_s * _IDLE_S))
    return asyncio.run(_send_all_or_fail(connections, rate_per_s, requests, opened))


def run_tallied(address: Address, body: bytes, rate_per_s: float, seconds: float) -> Tally:
    """As ``run_open_loop``, but with connections enough for an overload, and whatever is answered counts.

    Raises:
        ValueError: the load has no or more than ``MOST_REQUESTS`` requests.
    """
    connections = _Connections(address, _request(address, body), MOST_TALLIED_CONNECTIONS)
    return asyncio.run(_send_and_tally(connections, rate_per_s, _requests(rate_per_s, seconds)))


def _requests(rate_per_s: float, seconds: float) -> int:
    requests = round(rate_per_s * seconds)
    if not 0 < requests <= MOST_REQUESTS:
        raise ValueError(f"expected 1 to {MOST_REQUESTS} requests, got {requests}")
    return requests


def due_times(rate_per_s: float, requests: int) -> list[float]:
    """Seconds after the start at which each request is due."""
    return [number / rate_per_s for number in range(requests)]


async def _send_all_or_fail(connections: "_Connections", rate_per_s: float, requests: int, opened: int) -> OpenLoop:
    latencies = [math.inf] * requests

    async def one(number: int, due: float) -> None:
        status = await connections.exchange()
        if not 200 <= status <= 299:
            raise LoadFailed(f"a request was answered with status {status}")
        latencies[number] = (time.perf_counter() - due) * 1000

    try:
        await connections.open(opened)
        lag_ms = await _send_paced(one, rate_per_s, requests)
    except OSError as error:
        raise LoadFailed(f"a request failed: {error!r}") from error
    except ExceptionGroup as errors:
        raise _first_failure(errors) from errors
    finally:
        connections.close()
    return OpenLoop(rate_per_s, latencies, lag_ms)


async def _send_and_tally(connections: "_Connections", rate_per_s: float, requests: int) -> Tally:
    answers = [Answer(0, math.inf)] * requests

    async def one(number: int, due: float) -> None:
        try:
            status = await connections.exchange()
        except (OSError, EOFError, LoadFailed):
            status = 0
        answers[number] = Answer(status, (time.perf_counter() - due) * 1000)

    try:
        lag_ms = await _send_paced(one, rate_per_s, requests)
    finally:
        connections.close()
    return Tally(rate_per_s, answers, lag_ms)


async def _send_paced(one: _Send, rate_per_s: float, requests: int) -> float:
    """Begin ``one`` for each request when it is due, and wait until all have ended or patience has.

    Returns:
        The largest delay of the sender itself, in milliseconds.
    """
    lags = [0.0] * requests
    start = time.perf_counter() + 0.05

    async def all_of_them(group: asyncio.TaskGroup) -> None:
        for number, after_s in enumerate(due_times(rate_per_s, requests)):
            due = start + after_s
            await _sleep_until(due, time.perf_counter)
            lags[number] = (time.perf_counter() - due) * 1000
            group.create_task(one(number, due))

    with contextlib.suppress(TimeoutError):  # an overloaded server; what it has not answered stays without
        async with asyncio.timeout(requests / rate_per_s + PATIENCE_S):
            async with asyncio.TaskGroup() as group:
                await all_of_them(group)
    return max(lags)


async def _sleep_until(moment: float, clock: Callable[[], float]) -> None:
    while (left := moment - clock()) > 0:
        await asyncio.sleep(left)


def _first_failure(errors: ExceptionGroup[Exception]) -> LoadFailed:
    error = errors.exceptions[0]
    return error if isinstance(error, LoadFailed) else LoadFailed(f"a request failed: {error!r}")


def _request(address: Address, body: bytes) -> bytes:
    head = (
        f"POST {address.target} HTTP/1.1\r\n"
        f"Host: {address.host}:{address.port}\r\n"
        f"Content-Type: {CONTENT_TYPE}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class _Connections:
    """Connections that are kept open and used in turn, the one that has been idle longest first.

    So the processes of a server that has several, among which connections are shared out when they are opened, get
    requests alike. A new one is opened where none is free.
    """

    def __init__(self, address: Address, request: bytes, most: int) -> None:
        self._address, self._request = address, request
        self._idle: deque[_Connection] = deque()
        self._all: list[asyncio.StreamWriter] = []
        self._limit = asyncio.Semaphore(most)

    async def open(self, count: int) -> None:
        """Open so many, before there is anything to send."""
        for _ in range(count):
            self._idle.append(await self._open_one())

    async def exchange(self) -> int:
        """Send the request once and read its answer; the status."""
        async with self._limit:
            reader, writer = self._take_idle() or await self._open_one()
            writer.write(self._request)
            await writer.drain()
            status, stays_open = await _read_answer(reader)
            if stays_open:
                self._idle.append((reader, writer))
            else:
                writer.close()
            return status

    def _take_idle(self) -> _Connection | None:
        while self._idle:
            reader, writer = self._idle.popleft()
            if not reader.at_eof():
                return reader, writer
            writer.close()  # the server did, after some idle time
        return None

    async def _open_one(self) -> _Connection:
        reader, writer = await asyncio.open_connection(self._address.host, self._address.port)
        self._all.append(writer)
        return reader, writer

    def close(self) -> None:
        """Close them all."""
        for writer in self._all:
            writer.close()


async def _read_answer(reader: asyncio.StreamReader) -> tuple[int, bool]:
    """Read one answer to its end: its status, and whether the connection stays open.

    Raises:
        LoadFailed: no HTTP/1.1 with a length.
    """
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    status_line, *lines = head.strip().split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    status = status_line.split(" ")[1:2]
    if not status or not status[0].isdecimal():
        raise LoadFailed(f"a request was answered {status_line!r}")
    if headers.get("transfer-encoding", "").lower() == "chunked":
        while size := int(await reader.readuntil(b"\r\n"), 16):
            await reader.readexactly(size + 2)
        await reader.readuntil(b"\r\n")
    elif "content-length" in headers:
        await reader.readexactly(int(headers["content-length"]))
    else:
        raise LoadFailed("an answer says neither its length nor that it comes in chunks")
    return int(status[0]), headers.get("connection", "").lower() != "close"

"""Latency at a given load: requests are due at fixed times, whether or not earlier ones have been answered.

A latency counts from the time at which the request was due, so that neither a sender that was late nor a connection
that was not free hides what a caller would have waited ("coordinated omission": Tene, "How NOT to measure latency").
"""

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from scripts.bench.closed_loop import LoadFailed
from scripts.bench.upload import CONTENT_TYPE, Address

#: Connections held open at most. A request that is due when all are busy waits, and its latency counts meanwhile.
MOST_CONNECTIONS = 64
MOST_REQUESTS = 100_000
#: How long after the last request's time an answer is waited for.
PATIENCE_S = 30.0


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


def run_open_loop(address: Address, body: bytes, rate_per_s: float, seconds: float) -> OpenLoop:
    """Send a form again and again at an even pace, and wait for the answers.

    Raises:
        LoadFailed: an answer was not 2xx, or no HTTP with a length, or a connection broke.
        ValueError: the load has no or more than ``MOST_REQUESTS`` requests.
    """
    requests = round(rate_per_s * seconds)
    if not 0 < requests <= MOST_REQUESTS:
        raise ValueError(f"expected 1 to {MOST_REQUESTS} requests, got {requests}")
    return asyncio.run(_send_paced(address, body, rate_per_s, requests))


def due_times(rate_per_s: float, requests: int) -> list[float]:
    """Seconds after the start at which each request is due."""
    return [number / rate_per_s for number in range(requests)]


async def _send_paced(address: Address, body: bytes, rate_per_s: float, requests: int) -> OpenLoop:
    connections = _Connections(address, _request(address, body))
    latencies, lags = [math.inf] * requests, [0.0] * requests
    start = time.perf_counter() + 0.05

    async def one(number: int, due: float) -> None:
        await connections.exchange()
        latencies[number] = (time.perf_counter() - due) * 1000

    async def all_of_them(group: asyncio.TaskGroup) -> None:
        for number, after_s in enumerate(due_times(rate_per_s, requests)):
            due = start + after_s
            await _sleep_until(due, time.perf_counter)
            lags[number] = (time.perf_counter() - due) * 1000
            group.create_task(one(number, due))

    try:
        async with asyncio.timeout(requests / rate_per_s + PATIENCE_S):
            async with asyncio.TaskGroup() as group:
                await all_of_them(group)
    except TimeoutError:
        pass  # an overloaded server; what it has not answered stays infinite
    except ExceptionGroup as errors:
        raise _first_failure(errors) from errors
    finally:
        connections.close()
    return OpenLoop(rate_per_s, latencies, max(lags))


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
    """Connections that are kept open; the one freed last is used next, and a new one opened where none is free."""

    def __init__(self, address: Address, request: bytes) -> None:
        self._address, self._request = address, request
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._all: list[asyncio.StreamWriter] = []
        self._limit = asyncio.Semaphore(MOST_CONNECTIONS)

    async def exchange(self) -> None:
        """Send the request once and read its answer."""
        async with self._limit:
            while self._free and self._free[-1][0].at_eof():  # closed by the server after some idle time
                self._free.pop()[1].close()
            if self._free:
                reader, writer = self._free.pop()
            else:
                reader, writer = await asyncio.open_connection(self._address.host, self._address.port)
                self._all.append(writer)
            writer.write(self._request)
            await writer.drain()
            if await _read_answer(reader):
                self._free.append((reader, writer))
            else:
                writer.close()

    def close(self) -> None:
        """Close them all."""
        for writer in self._all:
            writer.close()


async def _read_answer(reader: asyncio.StreamReader) -> bool:
    """Read one answer to its end; whether the connection stays open.

    Raises:
        LoadFailed: not 2xx, or no HTTP/1.1 with a length.
    """
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    status_line, *lines = head.strip().split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    status = status_line.split(" ")[1:2]
    if not status or not status[0].startswith("2"):
        raise LoadFailed(f"a request was answered {status_line!r}")
    if headers.get("transfer-encoding", "").lower() == "chunked":
        while size := int(await reader.readuntil(b"\r\n"), 16):
            await reader.readexactly(size + 2)
        await reader.readuntil(b"\r\n")
    elif "content-length" in headers:
        await reader.readexactly(int(headers["content-length"]))
    else:
        raise LoadFailed("an answer says neither its length nor that it comes in chunks")
    return headers.get("connection", "").lower() != "close"

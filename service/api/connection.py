"""uvicorn's HTTP/1.1 connection with a limit on the time and the bytes until a request's head is complete.

uvicorn itself waits for ever for a head: clients that open sockets and say nothing, or a byte a minute, would
keep a file descriptor each until none is left for others. Bodies have their own deadline, in ``body``.
"""

import asyncio
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service.api import problems

#: As much as uvicorn's other HTTP implementation, h11, takes.
MAX_HEAD_BYTES = 65_536


class GuardedConnection(HttpToolsProtocol):
    """One client's connection. Between requests uvicorn's keep-alive timer watches it, and this one otherwise."""

    head_timeout_s: ClassVar[float]

    _head_timer: asyncio.TimerHandle | None = None
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start waiting for the first request."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timer along with the client."""
        self._end_head()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse; afterwards the connection is either serving a request, idle, or in the middle of a head."""
        super().data_received(data)
        if self.transport.is_closing() or self._serving() or self.timeout_keep_alive_task is not None:
            return
        self._head_bytes += len(data)
        if self._head_bytes > MAX_HEAD_BYTES:
            detail = f"Request line and headers may have {MAX_HEAD_BYTES} bytes."
            self._refuse(problems.HEAD_TOO_LARGE, detail, limit=MAX_HEAD_BYTES)
        elif self._head_timer is None:
            self._await_head()

    def on_headers_complete(self) -> None:
        """The head has arrived: from here on the request's own deadline counts."""
        self._end_head()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what the parser could not read."""
        self._end_head()
        self._refuse(problems.MALFORMED_REQUEST, "The bytes received are no HTTP/1.1 request.")

    def _serving(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self.head_timeout_s, self._on_timeout)

    def _end_head(self) -> None:
        self._head_bytes = 0
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _on_timeout(self) -> None:
        self._head_timer = None
        if self.transport.is_closing():
            return
        if self._head_bytes:
            detail = f"The request's head was not complete after {self.head_timeout_s:g} s."
            self._refuse(problems.HEAD_TIMEOUT, detail)
        else:
            self.transport.close()  # nobody asked for anything

    def _refuse(self, kind: problems.Kind, detail: str, **members: Any) -> None:
        body = problems.problem_document(kind, detail, "", **members)
        head = (
            STATUS_LINE[kind.status],
            f"content-type: {problems.MEDIA_TYPE}\r\n".encode(),
            b"content-length: %d\r\ncache-control: no-store\r\nconnection: close\r\n\r\n" % len(body),
        )
        self.transport.write(b"".join((*head, body)))
        self.transport.close()


def guarded_connection(head_timeout_s: float) -> type[GuardedConnection]:
    """The connection class with its limit set, in seconds, as uvicorn wants it: it makes the instances itself."""
    return type("GuardedConnection", (GuardedConnection,), {"head_timeout_s": head_timeout_s})

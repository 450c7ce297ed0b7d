"""uvicorn's HTTP/1.1 connection with limits on what a client may keep it waiting for, and for how much.

uvicorn itself waits for ever for a head, and for an answer to be taken: clients that open sockets and say nothing, or a
byte a minute, or never read, would keep a file descriptor each until none is left for others. It also parses all that
has arrived, however much is still to be answered. Bodies have their own deadline, in ``body``.
"""

import asyncio
from collections import deque
from typing import Any, ClassVar

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from service.api import problems
from service.api.write_watch import WriteWatch

#: As much as uvicorn's other HTTP implementation, h11, takes. Trailers may have as much.
MAX_HEAD_BYTES = 65_536
#: The most that is parsed at once, hence about what is parsed ahead of the answers, and how exact the limit above is
#: where requests follow each other closely.
PIECE_BYTES = 4096
#: How long what a refused client still sends is read and dropped.
_LINGER_S = 3.0


class _OneAhead(FlowControl):
    """Reads nothing while a request waits for the answer to another, whatever the one being served would like."""

    def __init__(self, transport: asyncio.Transport, waiting: deque[Any]) -> None:
        super().__init__(transport)
        self._waiting = waiting

    def resume_reading(self) -> None:
        if not self._waiting:
            super().resume_reading()


class GuardedConnection(HttpToolsProtocol):
    """One client's connection.

    Between requests uvicorn's keep-alive timer watches it, while a head arrives the one kept here, while a request is
    served the request's own deadline, and while an answer waits to be taken a ``WriteWatch``.
    """

    head_timeout_s: ClassVar[float]
    write_stall_s: ClassVar[float]

    _writes: WriteWatch
    _timer: asyncio.TimerHandle | None = None
    _in_head = False
    _body_left = 0  # bytes, of a body whose length the head gave
    _uncounted_bytes = 0  # received since the last complete head or piece of a body, hence part of a head or trailers
    _unparsed = memoryview(b"")
    _head_without_upgrade = b""
    _running: RequestResponseCycle | None = None  # uvicorn's own ``cycle`` is the latest one, which may be waiting
    _refusal = b""
    _deaf = False  # what is received still is only read because closing over unread bytes would reset

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start waiting for the first request."""
        super().connection_made(transport)
        self.flow = _OneAhead(transport, self.pipeline)
        self._writes = WriteWatch(self.loop, transport, self.write_stall_s)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timers along with the client, and tell the request being served."""
        self._end_head()
        self._writes.end()
        if self._running is not None:
            self._abandon(self._running)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse, unless the connection is about to end."""
        if not self._deaf:
            self._unparsed = memoryview(bytes(self._unparsed) + data) if self._unparsed else memoryview(data)
            self._parse()

    def pause_writing(self) -> None:
        """The client does not keep up with its answer."""
        super().pause_writing()
        self._writes.begin()

    # What the parser reports

    def on_message_begin(self) -> None:
        """The first byte of a head, which a blank line is not (RFC 9112, 2.2)."""
        self._in_head = True
        if not self._serving():
            self._watch_head()
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; trailers are of no use here and would look like headers."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head has arrived: from here on the request's own deadline counts."""
        if self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT":
            self._head_without_upgrade = self._compose_head_without_upgrade()
            return
        self._end_head()
        super().on_headers_complete()
        self._in_head = False
        self._body_left = next((int(value) for name, value in self.headers if name == b"content-length"), 0)

    def on_body(self, body: bytes) -> None:
        """Part of a body."""
        self._uncounted_bytes = 0
        self._body_left = max(0, self._body_left - len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request has arrived."""
        if not self._head_without_upgrade:
            self._uncounted_bytes = self._body_left = 0
            super().on_message_complete()

    # What uvicorn reports

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        """Turn to what has waited for the answer: a refusal, bytes not yet parsed, or another request, by uvicorn."""
        answered = self._running
        super().on_response_complete()
        self._writes.begin()
        if self.transport.is_closing():
            return
        if self._refusal:
            self._refuse_in_turn()
        elif answered is not None and answered.more_body:
            # Too much or too slow to be drained (``exchange``), and what still comes is no request.
            self._hang_up()
        else:
            self._parse()
            self.flow.resume_reading()
            if self._in_head and not self._serving():
                self._watch_head()

    # Parsing

    def _parse(self) -> None:
        """Parse up to a request that has to wait for the answer to another."""
        while self._unparsed and not self.pipeline and not self.transport.is_closing():
            # A body has nothing to be parsed ahead, and uvicorn copies what has arrived of it with every piece.
            size = self._body_left or PIECE_BYTES
            piece, self._unparsed = self._unparsed[:size], self._unparsed[size:]
            self._uncounted_bytes += len(piece)
            try:
                self._feed(piece)
            except httptools.HttpParserError:
                self.logger.warning("Invalid HTTP request received.")
                self._refuse(problems.MALFORMED_REQUEST, "The bytes received are no HTTP/1.1 request.")
            else:
                self._check_head_size()

    def _feed(self, piece: memoryview) -> None:
        while piece:
            try:
                self.parser.feed_data(piece)
                return
            except httptools.HttpParserUpgrade as stop:
                piece = piece[stop.args[0] :]
                self._decline_upgrade()

    def _decline_upgrade(self) -> None:
        """Serve as HTTP/1.1 what asks for another protocol as well (RFC 9110, 7.8).

        The parser takes the head for the last of HTTP and forgets that a body follows, so a new one gets the head
        without that wish.
        """
        head, self._head_without_upgrade = self._head_without_upgrade, b""
        if head:
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
            self.parser.feed_data(head)

    def _compose_head_without_upgrade(self) -> bytes:
        request_line = b"%b %b HTTP/%b\r\n" % (
            self.parser.get_method(),
            self.url,
            self.parser.get_http_version().encode("ascii"),
        )
        fields = (b"%b: %b\r\n" % field for field in self.headers if field[0] != b"upgrade")
        return b"".join((request_line, *fields, b"\r\n"))

    # Limits

    def _serving(self) -> bool:
        running = self._running
        return running is not None and not running.response_complete and not running.disconnected

    def _check_head_size(self) -> None:
        if self._uncounted_bytes > MAX_HEAD_BYTES:
            detail = f"Request line and headers, or trailers, may have {MAX_HEAD_BYTES} bytes."
            self._refuse(problems.HEAD_TOO_LARGE, detail, limit=MAX_HEAD_BYTES)

    def _await_head(self) -> None:
        self._timer = self.loop.call_later(self.head_timeout_s, self._on_head_timeout)

    def _watch_head(self) -> None:
        self._unset_keepalive_if_required()
        if self._timer is None:
            self._await_head()

    def _end_head(self) -> None:
        self._uncounted_bytes = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_head_timeout(self) -> None:
        self._timer = None
        if self.transport.is_closing():
            return
        if self._in_head:
            detail = f"The request's head was not complete after {self.head_timeout_s:g} s."
            self._refuse(problems.HEAD_TIMEOUT, detail)
        else:
            self.transport.close()  # nobody asked for anything

    # Refusals

    def _refuse(self, kind: problems.Kind, detail: str, **members: Any) -> None:
        """Refuse the message being received, and with it all that may follow, once those before it are answered."""
        body = problems.problem_document(kind, detail, "", **members)
        head = (
            STATUS_LINE[kind.status],
            f"content-type: {problems.MEDIA_TYPE}\r\n".encode(),
            b"content-length: %d\r\ncache-control: no-store\r\nconnection: close\r\n\r\n" % len(body),
        )
        self._refusal = b"".join((*head, body))
        self._stop_listening()
        if not self._in_head and self.cycle is not None and self.cycle.more_body:
            self._withdraw(self.cycle)
        self._refuse_in_turn()

    def _withdraw(self, cycle: RequestResponseCycle) -> None:
        """Give up a request that has begun: its body cannot be read."""
        if cycle is self._running:
            self._abandon(cycle)
        else:
            self.pipeline.popleft()

    def _abandon(self, cycle: RequestResponseCycle) -> None:
        cycle.disconnected, cycle.waiting_for_100_continue = True, False
        cycle.message_event.set()

    def _refuse_in_turn(self) -> None:
        running = self._running
        if self._serving():
            self.flow.resume_reading()
            return
        if running is None or running.response_complete or not running.response_started:
            self.transport.write(self._refusal)
        self._hang_up()

    def _stop_listening(self) -> None:
        self._deaf, self._unparsed = True, memoryview(b"")
        self._end_head()
        self._unset_keepalive_if_required()

    def _hang_up(self) -> None:
        """Close, but first for writing only: a reset could overtake the answer (RFC 9112, 9.6)."""
        self._stop_listening()
        self.flow.resume_reading()
        self.transport.write_eof()
        self._timer = self.loop.call_later(_LINGER_S, self.transport.close)
        self._writes.begin()


def guarded_connection(head_timeout_s: float, write_stall_s: float) -> type[GuardedConnection]:
    """The connection class with its limits set, in seconds, as uvicorn wants it: it makes the instances itself.

    Args:
        head_timeout_s: from the first byte of a request, or from the connection's beginning, to the end of its head.
        write_stall_s: for which a client may take nothing of what is sent to it.
    """
    limits = {"head_timeout_s": head_timeout_s, "write_stall_s": write_stall_s}
    return type("GuardedConnection", (GuardedConnection,), limits)

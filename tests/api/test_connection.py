"""Connections that never become a request, on a real socket."""

import socket
import time
from collections.abc import Iterator

import pytest

from service.api.connection import MAX_HEAD_BYTES
from service.bundle.store import Bundle
from tests.api import raw_http
from tests.api.raw_http import connect, read_to_end, split_answers
from tests.api.serving import Serving, serving, wait_until

HEAD_TIMEOUT_S = 1.0


@pytest.fixture(scope="module")
def server(bundle: Bundle) -> Iterator[Serving]:
    with serving(bundle, request_timeout_s=HEAD_TIMEOUT_S) as running:
        yield running


def read_answer(client: socket.socket) -> bytes:
    """One answer of the health probe, on a connection that stays open."""
    received = b""
    while not received.endswith(b"}"):
        received += client.recv(65_536)
    return received


def assert_refused(received: bytes, status: int, slug: str) -> dict[str, object]:
    (answer,) = split_answers(received)
    assert received.endswith(answer.body)
    return raw_http.assert_refused(answer, status, slug)


def test_a_silent_connection_is_closed(server: Serving) -> None:
    with connect(server) as client:
        assert read_to_end(client) == b""


@pytest.mark.parametrize("sent", [b"GET", b"GET /healthz HTTP/1.1\r\nHost: here\r\nX-Slow: "])
def test_half_a_head_is_refused(server: Serving, sent: bytes) -> None:
    with connect(server) as client:
        client.sendall(sent)
        assert_refused(read_to_end(client), 408, "head-timeout")


def test_a_trickle_does_not_put_the_limit_off(server: Serving) -> None:
    started = time.monotonic()
    with connect(server) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nX-Slow: ")
        client.settimeout(HEAD_TIMEOUT_S / 10)
        while True:
            try:
                answer = client.recv(65_536)
                break
            except TimeoutError:
                assert time.monotonic() - started < 30
                client.sendall(b"x")
        assert_refused(answer, 408, "head-timeout")


def test_a_second_head_on_a_kept_connection_is_limited_too(server: Serving) -> None:
    with connect(server) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: here\r\n\r\n")
        assert read_answer(client).startswith(b"HTTP/1.1 200")
        client.sendall(b"GET /healthz HT")
        assert_refused(read_to_end(client), 408, "head-timeout")


def test_a_blank_line_between_requests_keeps_no_connection_open(server: Serving) -> None:
    """It ends uvicorn's keep-alive wait without beginning a request."""
    with connect(server) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: here\r\n\r\n")
        assert read_answer(client).startswith(b"HTTP/1.1 200")
        client.sendall(b"\r\n")
        read_to_end(client)


def test_a_blank_line_between_requests_is_no_request(server: Serving) -> None:
    with connect(server) as client:
        client.sendall(raw_http.HEALTH)
        read_answer(client)
        client.sendall(b"\r\n")
        client.settimeout(2 * HEAD_TIMEOUT_S)
        with pytest.raises(TimeoutError):
            client.recv(65_536)
        client.settimeout(30)
        client.sendall(b"\r\n" + raw_http.HEALTH)
        assert read_answer(client).startswith(b"HTTP/1.1 200")


def test_an_endless_head_is_refused(server: Serving) -> None:
    with connect(server) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\n")
        answer = b""
        try:
            for number in range(10 * MAX_HEAD_BYTES // 1000):
                client.sendall(b"X-%05d: " % number + b"x" * 990 + b"\r\n")
            answer = read_to_end(client)
        except ConnectionError:  # the server may have hung up while this side was still sending
            pass
    assert answer == b"" or assert_refused(answer, 431, "head-too-large")["limit"] == MAX_HEAD_BYTES


def test_a_head_just_too_large_is_told_so(server: Serving) -> None:
    with connect(server) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nX-Long: ")
        client.sendall(b"x" * MAX_HEAD_BYTES)
        assert assert_refused(read_to_end(client), 431, "head-too-large")["limit"] == MAX_HEAD_BYTES


def test_what_is_no_http_is_a_problem_document(server: Serving) -> None:
    with connect(server) as client:
        client.sendall(b"\x16\x03\x01\x02\x00 hello\r\n\r\n")
        assert_refused(read_to_end(client), 400, "malformed-request")


def test_pipelined_requests_are_all_answered(server: Serving) -> None:
    request = b"GET /healthz HTTP/1.1\r\nHost: here\r\n\r\n"
    last = b"GET /healthz HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n"
    with connect(server) as client:
        client.sendall(request * 4 + last[:20])
        client.sendall(last[20:])
        assert read_to_end(client).count(b"HTTP/1.1 200") == 5


def test_hundreds_of_idle_sockets_leave_nothing_behind(server: Serving) -> None:
    sockets = [connect(server) for _ in range(300)]
    for number, client in enumerate(sockets):
        client.sendall((b"", b"G", b"GET / HTTP/1.1\r\n")[number % 3])
    assert server.client.get("/healthz").status_code == 200
    for client in sockets:
        read_to_end(client)
        client.close()
    wait_until(lambda: server.client.get("/healthz").status_code == 200)

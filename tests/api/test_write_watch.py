"""Clients that do not take their answers, and clients that take them slowly."""

import select
import socket
import time
from collections.abc import Iterator

import pytest

from service.bundle.store import Bundle
from tests.api.raw_http import connect, read_to_end, split_answers
from tests.api.serving import Serving, serving

STALL_S = 1.0
SCRIPT = "/static/vendor/swagger-ui/swagger-ui-bundle.js"
#: What is asked for, and how often: more than the 4 MB that Linux's kernel may hold of it (``net.ipv4.tcp_wmem``).
ANSWERS = {"in one piece": ("/openapi.json", 120), "in pieces": (SCRIPT, 8)}


@pytest.fixture(scope="module")
def server(bundle: Bundle) -> Iterator[Serving]:
    with serving(bundle, request_timeout_s=STALL_S) as running:
        yield running


def requests(path: str, count: int) -> bytes:
    request = b"GET %b HTTP/1.1\r\nHost: here\r\n\r\n" % path.encode()
    last = request.replace(b"Host", b"Connection: close\r\nHost")
    return request * (count - 1) + last


@pytest.mark.parametrize(("path", "count"), ANSWERS.values(), ids=ANSWERS)
def test_a_client_that_never_reads_is_cut_off(server: Serving, path: str, count: int) -> None:
    with connect(server, receive_buffer_bytes=8192) as client:
        client.sendall(requests(path, count))
        watched = select.poll()
        watched.register(client, 0)  # errors alone
        assert watched.poll(60_000), "it keeps its answers"
        with pytest.raises(ConnectionResetError):
            read_to_end(client)


@pytest.mark.parametrize(("path", "count"), ANSWERS.values(), ids=ANSWERS)
def test_a_slow_reader_gets_it_all(server: Serving, path: str, count: int) -> None:
    expected = server.client.get(path).content
    with connect(server, receive_buffer_bytes=8192) as client:
        client.sendall(requests(path, count))
        started, received = time.monotonic(), b""
        while time.monotonic() - started < 4 * STALL_S:
            received += client.recv(4096)
            select.select([], [], [], STALL_S / 8)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1_000_000)  # the rest may come fast
        received += read_to_end(client)
    answers = split_answers(received)
    assert len(answers) == count
    assert all(answer.body == expected for answer in answers)

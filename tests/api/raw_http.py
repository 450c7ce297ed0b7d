"""HTTP/1.1 as bytes on a socket, for what no HTTP client would send."""

import socket
from typing import NamedTuple

import httpx
import orjson

from tests.api.serving import Serving

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: here\r\n\r\n"
GARBAGE = b"\x16\x03\x01\x02\x00 hello\r\n\r\n"


class Answer(NamedTuple):
    """One answer; the names of its headers are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


def connect(server: Serving, receive_buffer_bytes: int | None = None) -> socket.socket:
    """A connection to the server; a small receive buffer makes it feel early that nobody reads."""
    url = httpx.URL(server.url)
    assert url.port is not None
    client = socket.socket()
    client.settimeout(30)
    if receive_buffer_bytes is not None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
    client.connect((url.host, url.port))
    return client


def read_to_end(client: socket.socket) -> bytes:
    """All that comes until the server has nothing more to say."""
    received = b""
    while chunk := client.recv(65_536):
        received += chunk
    return received


def read_answers(client: socket.socket, count: int) -> list[Answer]:
    """The next ``count`` answers, interim ones included, on a connection that may stay open."""
    received = b""
    while len(answers := split_answers(received)) < count:
        chunk = client.recv(65_536)
        assert chunk, f"{len(answers)} answers, then the end"
        received += chunk
    return answers


def split_answers(received: bytes) -> list[Answer]:
    """The complete answers at the beginning of what was received."""
    answers: list[Answer] = []
    while b"\r\n\r\n" in received:
        head, _, rest = received.partition(b"\r\n\r\n")
        first, *fields = head.decode("ascii").split("\r\n")
        protocol, status, _ = first.split(" ", 2)
        assert protocol == "HTTP/1.1"
        headers = {name.lower(): value for name, _, value in (field.partition(": ") for field in fields)}
        length = int(headers.get("content-length", 0))
        if len(rest) < length:
            break
        answers.append(Answer(int(status), headers, rest[:length]))
        received = rest[length:]
    return answers


def assert_refused(answer: Answer, status: int, slug: str) -> dict[str, object]:
    """A problem document written by the connection itself, which then ends."""
    assert answer.status == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.headers["connection"], answer.headers["cache-control"]) == ("close", "no-store")
    document: dict[str, object] = orjson.loads(answer.body)
    assert (document["type"], document["status"]) == (f"urn:yolofold:{slug}", status)
    return document

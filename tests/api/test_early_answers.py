"""Answers given before the body has come, and what becomes of the connection."""

from collections.abc import Iterator

import pytest

from service.bundle.store import Bundle
from tests.api.raw_http import HEALTH, connect, read_answers, split_answers
from tests.api.serving import Serving, serving

LIMIT_BYTES = 100_000
HEAD = b"POST /detect HTTP/1.1\r\nHost: here\r\nContent-Type: image/jpeg\r\n"
TOO_LONG = b"Content-Length: 100000000\r\n\r\n"


@pytest.fixture(scope="module")
def server(bundle: Bundle) -> Iterator[Serving]:
    with serving(bundle, request_timeout_s=1.0, max_upload_bytes=LIMIT_BYTES) as running:
        yield running


def test_the_rest_of_a_slow_body_is_taken_for_nothing_else(server: Serving) -> None:
    with connect(server) as client:
        client.sendall(HEAD + TOO_LONG)
        client.settimeout(0.1)
        received = b""
        while True:
            client.sendall(b"x" * 1000)
            try:
                chunk = client.recv(65_536)
            except TimeoutError:
                continue
            received += chunk
            if not chunk:
                break
    assert [answer.status for answer in split_answers(received)] == [413]


def test_the_answer_to_a_body_too_large_to_be_drained_is_seen_by_a_client_that_sends_it_all(server: Serving) -> None:
    with connect(server) as client:
        client.sendall(HEAD + TOO_LONG)
        for _ in range(100):
            client.sendall(bytes(1_000_000))
        assert read_answers(client, 1)[0].status == 413


def test_a_body_that_was_drained_leaves_the_connection_usable(server: Serving) -> None:
    with connect(server) as client:
        client.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % (2 * LIMIT_BYTES) + bytes(2 * LIMIT_BYTES) + HEALTH)
        assert [answer.status for answer in read_answers(client, 2)] == [413, 200]


def test_a_client_refused_permission_to_send_is_told_that_the_connection_ends(server: Serving) -> None:
    """It may send the body or another request: the server could not tell one from the other."""
    with connect(server) as client:
        client.sendall(HEAD + b"Expect: 100-continue\r\n" + TOO_LONG)
        (answer,) = read_answers(client, 1)
        assert (answer.status, answer.headers["connection"]) == (413, "close")
        client.sendall(HEALTH)
        assert client.recv(65_536) == b""

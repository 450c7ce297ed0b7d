"""What follows a request on its connection waits for the answer, whatever it is."""

import gc
import select
from collections.abc import Iterator

import pytest
from PIL import Image
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from service.api.connection import MAX_HEAD_BYTES, PIECE_BYTES
from service.bundle.store import Bundle
from tests.api.raw_http import (
    GARBAGE,
    HEALTH,
    Answer,
    assert_refused,
    connect,
    read_answers,
    read_to_end,
    split_answers,
)
from tests.api.serving import Serving, serving, wait_until
from tests.inference.pictures import encode, scene

JPEG = encode(Image.fromarray(scene(300, 200)), "JPEG")
HEAD = b"POST /detect HTTP/1.1\r\nHost: here\r\nContent-Type: image/jpeg\r\n"
DETECT = HEAD + b"Content-Length: %d\r\n\r\n" % len(JPEG) + JPEG
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
BROKEN_CHUNK = b"3\r\nabcXYZ\r\n"
WHOLE_BODY = b"%x\r\n%b\r\n0\r\n" % (len(JPEG), JPEG)
FIELDS = b"".join(b"X-%05d: " % number + b"x" * 990 + b"\r\n" for number in range(2 * MAX_HEAD_BYTES // 1000))

#: Linux's largest buffers of a sender and a receiver (``net.ipv4.tcp_wmem`` and ``tcp_rmem``) and one read's worth.
MOST_IN_KERNEL_BYTES = 4_194_304 + 6_291_456 + 262_144


@pytest.fixture(scope="module")
def server(bundle: Bundle) -> Iterator[Serving]:
    with serving(bundle) as running:
        yield running


def exchange(server: Serving, *pieces: bytes) -> list[Answer]:
    """All answers until the server closes, each of them complete."""
    with connect(server) as client:
        for piece in pieces:
            client.sendall(piece)
        received = read_to_end(client)
    answers = split_answers(received)
    assert received.endswith(answers[-1].body)
    return answers


@pytest.mark.parametrize("valid", [[], [HEALTH], [HEALTH] * 3, [DETECT], [DETECT, HEALTH]], ids=len)
@pytest.mark.parametrize("broken", [GARBAGE, CHUNKED + BROKEN_CHUNK], ids=["head", "body"])
def test_requests_before_an_unreadable_one_are_answered_first(
    server: Serving, valid: list[bytes], broken: bytes
) -> None:
    for pieces in ([b"".join(valid) + broken], [*valid, broken]):
        *answers, last = exchange(server, *pieces)
        assert [answer.status for answer in answers] == [200] * len(valid)
        assert_refused(last, 400, "malformed-request")


def test_nothing_behind_an_unreadable_request_is_served(server: Serving) -> None:
    *answers, last = exchange(server, HEALTH + GARBAGE + HEALTH, HEALTH)
    assert len(answers) == 1
    assert_refused(last, 400, "malformed-request")


def test_what_follows_the_last_request_is_no_matter(server: Serving) -> None:
    last = HEALTH.replace(b"Host", b"Connection: close\r\nHost")
    assert [answer.status for answer in exchange(server, HEALTH + last + GARBAGE)] == [200, 200]


def test_a_refused_request_frees_its_upload(server: Serving) -> None:
    assert_refused(exchange(server, CHUNKED + BROKEN_CHUNK)[0], 400, "malformed-request")
    wait_until(lambda: server.service.uploads.held_bytes == 0)


def test_a_client_still_sending_sees_its_refusal(server: Serving) -> None:
    assert_refused(exchange(server, GARBAGE + bytes(8_000_000))[0], 400, "malformed-request")
    assert_refused(exchange(server, HEALTH + b"GET / HTTP/1.1\r\n" + FIELDS * 50)[1], 431, "head-too-large")


# --- heads and trailers that come while a request is served --------------------------------------------------


def test_an_endless_head_behind_a_request_is_refused_after_its_answer(server: Serving) -> None:
    with connect(server) as client:
        with server.busy_workers():
            client.sendall(DETECT)
            wait_until(lambda: server.service.pool.waiting == 1)
            client.sendall(b"GET /healthz HTTP/1.1\r\nX-Long: " + b"x" * 10 * MAX_HEAD_BYTES)
        first, second = split_answers(read_to_end(client))
    assert first.status == 200
    assert_refused(second, 431, "head-too-large")


def test_half_a_head_behind_a_request_has_its_time_limit(bundle: Bundle) -> None:
    with serving(bundle, request_timeout_s=1.0, workers=1) as server, connect(server) as client:
        with server.busy_workers():
            client.sendall(DETECT + b"GET /healthz HT")
            wait_until(lambda: server.service.pool.waiting == 1)
            wait_until(lambda: server.service.pool.waiting == 0)
        first, second = split_answers(read_to_end(client))
    assert first.status == 504
    assert_refused(second, 408, "head-timeout")


def test_few_requests_are_parsed_before_their_turn(server: Serving) -> None:
    """Each of them is some kilobytes of objects, from a client that has sent 38 bytes."""
    count = 1500
    with connect(server) as client:
        with server.busy_workers():
            client.sendall(DETECT)
            wait_until(lambda: server.service.pool.waiting == 1)
            client.sendall(HEALTH * count)
            assert server.client.get("/healthz").status_code == 200  # the loop has come round
            gc.collect()
            parsed = sum(isinstance(thing, RequestResponseCycle) for thing in gc.get_objects())
        answers = read_answers(client, 1 + count)
    assert parsed <= PIECE_BYTES // len(HEALTH) + 10
    assert {answer.status for answer in answers} == {200}


def test_a_client_that_sends_on_is_not_read_ahead_of_its_answers(server: Serving) -> None:
    """Only the kernel's buffers fill up; a server that read whenever it may would take all the client has."""
    count, sent, received = 200, 0, b""
    flood = HEALTH * 2000
    with connect(server) as client:
        client.setblocking(False)
        while received.count(b"HTTP/1.1 200") < count:
            readable, writable, _ = select.select([client], [client], [], 30)
            if readable:
                received += client.recv(65_536)
            if writable:
                sent += client.send(flood[sent % len(HEALTH) :])
            assert sent < MOST_IN_KERNEL_BYTES


def test_trailers_are_no_headers(server: Serving) -> None:
    with connect(server) as client:
        client.sendall(CHUNKED + WHOLE_BODY + b"Accept: image/png\r\nX-Small: 1\r\n\r\n" + HEALTH)
        detected, health = read_answers(client, 2)
    assert (detected.status, detected.headers["content-type"]) == (200, "application/json")
    assert health.status == 200


@pytest.mark.parametrize("trailers", [FIELDS, b"X-Long: " + b"x" * 2 * MAX_HEAD_BYTES], ids=["many", "long"])
def test_endless_trailers_are_refused(server: Serving, trailers: bytes) -> None:
    (answer,) = exchange(server, CHUNKED + WHOLE_BODY, trailers)
    assert assert_refused(answer, 431, "head-too-large")["limit"] == MAX_HEAD_BYTES


def test_an_endless_chunk_extension_is_refused(server: Serving) -> None:
    (answer,) = exchange(server, CHUNKED + b"3;", b"x" * 2 * MAX_HEAD_BYTES)
    assert_refused(answer, 431, "head-too-large")

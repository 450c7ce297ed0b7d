"""Requests that offer to go on in another protocol are served in the one they came in."""

from collections.abc import Iterator

import orjson
import pytest
from PIL import Image

from service.bundle.store import Bundle
from tests.api.raw_http import HEALTH, connect, read_answers
from tests.api.serving import Serving, serving
from tests.inference.pictures import encode, scene

JPEG = encode(Image.fromarray(scene(300, 200)), "JPEG")
#: What Java's HttpClient and ``curl --http2`` add to a request.
H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB\r\n"
HEAD = b"POST /detect?conf=0.01 HTTP/1.1\r\nHost: here\r\nContent-Type: image/jpeg\r\n"
LENGTH = b"Content-Length: %d\r\n\r\n" % len(JPEG)
CHUNKS = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (JPEG[:10], JPEG[10:5000], JPEG[5000:]) if part)
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKS + b"0\r\n\r\n"


@pytest.fixture(scope="module")
def server(bundle: Bundle) -> Iterator[Serving]:
    with serving(bundle) as running:
        yield running


@pytest.fixture(scope="module")
def plain(server: Serving) -> dict[str, object]:
    """What a request without the offer is answered, but for the times."""
    answer = server.client.post("/detect?conf=0.01", content=JPEG, headers={"content-type": "image/jpeg"}).json()
    return {key: value for key, value in answer.items() if key != "timing_ms"}


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


@pytest.mark.parametrize("framed", [LENGTH + JPEG, CHUNKED], ids=["length", "chunked"])
@pytest.mark.parametrize("size", [10**6, 701], ids=["at once", "in pieces"])
def test_h2c_is_declined_and_the_body_kept(server: Serving, plain: dict[str, object], framed: bytes, size: int) -> None:
    request = HEAD + H2C + framed
    with connect(server) as client:
        for piece in pieces(request + request + HEALTH, size):
            client.sendall(piece)
        first, second, health = read_answers(client, 3)
    for answer in (first, second):
        assert answer.status == 200, answer.body
        assert orjson.loads(answer.body).items() >= plain.items()
    assert (health.status, health.body) == (200, b'{"status":"alive"}')


def test_h2c_with_a_request_for_permission(server: Serving) -> None:
    with connect(server) as client:
        client.sendall(HEAD + H2C + b"Expect: 100-continue\r\n" + LENGTH)
        assert read_answers(client, 1)[0].status == 100
        client.sendall(JPEG + HEALTH)
        assert [answer.status for answer in read_answers(client, 2)] == [200, 200]


def test_a_websocket_handshake_is_answered_as_the_request_that_it_also_is(server: Serving) -> None:
    fields = (
        b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAA\r\n\r\n"
    )
    with connect(server) as client:
        for path in (b"/healthz", b"/nothing"):
            client.sendall(b"GET " + path + b" HTTP/1.1\r\nHost: here\r\n" + fields)
        assert [answer.status for answer in read_answers(client, 2)] == [200, 404]


def test_many_offers_in_one_packet(server: Serving) -> None:
    request = b"GET /healthz HTTP/1.1\r\nHost: here\r\n" + H2C + b"\r\n"
    with connect(server) as client:
        client.sendall(request * 200)
        assert {answer.status for answer in read_answers(client, 200)} == {200}


@pytest.mark.parametrize(("target", "status"), [(b"here:443", 400), (b"/detect", 405)])
def test_connect_is_refused(server: Serving, target: bytes, status: int) -> None:
    with connect(server) as client:
        client.sendall(b"CONNECT " + target + b" HTTP/1.1\r\nHost: here\r\n\r\n")
        assert read_answers(client, 1)[0].status == status

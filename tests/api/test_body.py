"""How the bytes of one image come in, whatever pieces they arrive in, and that none is held longer than it must be."""

import asyncio
import io
import random
import socket
import time
import tracemalloc
from collections.abc import AsyncIterator, Iterable, Iterator
from itertools import pairwise

import pytest
from PIL import Image
from starlette.requests import ClientDisconnect, Request

from service.api.body import UploadBudget, read_image_file
from service.api.form import FormReader, content_of, files_of, parse_form
from service.api.problems import RequestRefused
from service.bundle.store import Bundle
from tests.api.serving import Serving, serving, wait_until
from tests.inference.pictures import encode, scene

JPEG = encode(Image.fromarray(scene(300, 200)), "JPEG")
BOUNDARY = "boundary"
FORM_HEAD = b'--boundary\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n'
FORM_TAIL = b"\r\n--boundary--\r\n"
TYPES = {"raw": "image/jpeg", "form": f"multipart/form-data; boundary={BOUNDARY}"}
LIMIT_BYTES = 30_000_000


def cut(data: bytes, places: list[int]) -> list[bytes]:
    return [data[start:end] for start, end in pairwise([0, *sorted(places), len(data)])]


def request_of(kind: str, pieces: Iterable[bytes], *, leaves: bool = False) -> Request:
    """A request whose body arrives in these pieces, as uvicorn hands them over."""

    async def messages() -> AsyncIterator[dict]:
        for piece in pieces:
            yield {"type": "http.request", "body": piece, "more_body": True}
        yield {"type": "http.disconnect"} if leaves else {"type": "http.request", "body": b"", "more_body": False}

    arriving = messages()
    scope = {"type": "http", "method": "POST", "headers": [(b"content-type", TYPES[kind].encode())]}
    return Request(scope, lambda: anext(arriving))


def read(kind: str, pieces: Iterable[bytes], *, leaves: bool = False) -> bytes:
    budget, found, arrived = UploadBudget(LIMIT_BYTES), [], 0

    def arriving() -> Iterator[bytes]:
        nonlocal arrived
        for piece in pieces:
            arrived += len(piece)
            yield piece

    async def reading() -> None:  # returns nothing, because asyncio.run writes out what is returned
        with budget.open() as share:
            request = request_of(kind, arriving(), leaves=leaves)
            deadline = time.monotonic() + 60
            found.append(await read_image_file(request, share, max_bytes=LIMIT_BYTES, deadline=deadline))
            assert share.bytes == arrived

    try:
        asyncio.run(reading())
    finally:
        assert budget.held_bytes == 0
    return found.pop()


def body_of(kind: str, file: bytes) -> bytes:
    return FORM_HEAD + file + FORM_TAIL if kind == "form" else file


@pytest.mark.parametrize("kind", TYPES)
def test_a_body_may_be_cut_anywhere(kind: str) -> None:
    file = b"\r\n--boundar\r\n\r\n--bound" + bytes(range(256)) + b"\r\n--boundary\x00\r\n"
    body = body_of(kind, file)
    for place in range(len(body) + 1):
        assert read(kind, cut(body, [place])) == file
    assert read(kind, [body[index : index + 1] for index in range(len(body))]) == file
    choose = random.Random(3)
    for _ in range(200):
        assert read(kind, cut(body, choose.choices(range(len(body)), k=choose.randint(2, 9)))) == file


def test_a_raw_body_in_one_piece_is_not_copied() -> None:
    assert read("raw", [JPEG]) is JPEG


def test_a_file_of_a_form_is_its_own_buffer() -> None:
    request = request_of("form", cut(body_of("form", JPEG), [50, 700, 900]))

    async def twice() -> tuple[bytes, bytes]:
        form = await parse_form(FormReader(request.headers, request.stream(), 1, RequestRefused))
        (upload,) = files_of(form, ("file",))
        found = content_of(upload), content_of(upload)
        await form.close()
        return found

    first, second = asyncio.run(twice())
    assert first is second
    assert first == JPEG


@pytest.mark.parametrize("kind", TYPES)
def test_a_file_is_held_once_while_it_arrives(kind: str) -> None:
    count, size = 80, 250_000

    def pieces() -> Iterator[bytes]:
        yield FORM_HEAD if kind == "form" else b""
        yield from (bytes([index]) * size for index in range(count))
        yield FORM_TAIL if kind == "form" else b""

    tracemalloc.start()
    try:
        assert len(read(kind, pieces())) == count * size
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # Up to an eighth is allocated ahead, but not touched before it is needed.
    assert peak < 1.25 * count * size


def test_a_form_of_no_bytes_is_empty_even_without_a_boundary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TYPES, "unbounded", "multipart/form-data")
    for pieces, slug in (([], "empty-body"), ([b"", b""], "empty-body"), ([b"x"], "malformed-body")):
        with pytest.raises(RequestRefused) as caught:
            read("unbounded", pieces)
        assert caught.value.kind.slug == slug


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("length", [0, 1, 200])
def test_a_client_that_leaves_takes_its_bytes_along(kind: str, length: int) -> None:
    with pytest.raises(ClientDisconnect):
        read(kind, [body_of(kind, JPEG)[:length]], leaves=True)


@pytest.fixture(scope="module")
def server(bundle: Bundle) -> Iterator[Serving]:
    with serving(bundle, workers=1, threads=1, request_timeout_s=3) as running:
        yield running


def connect(server: Serving, length: int) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=30)
    head = f"POST /detect HTTP/1.1\r\nHost: x\r\nContent-Type: {TYPES['form']}\r\nContent-Length: {length}\r\n\r\n"
    connection.sendall(head.encode())
    return connection


def test_a_form_counts_while_it_arrives_until_its_client_leaves(server: Serving) -> None:
    body = body_of("form", JPEG)
    with connect(server, len(body)) as connection:
        for start, end in ((0, 100), (100, 700), (700, len(body) - 1)):
            connection.sendall(body[start:end])
            wait_until(lambda end=end: server.service.uploads.held_bytes == end)
    wait_until(lambda: server.service.uploads.held_bytes == 0)


def test_a_form_that_does_not_end_in_time_is_refused(server: Serving) -> None:
    body = body_of("form", JPEG)
    with connect(server, len(body)) as connection:
        connection.sendall(body[:-1])
        assert connection.recv(65536).startswith(b"HTTP/1.1 408 ")
    assert server.service.uploads.held_bytes == 0


def test_a_form_that_is_malformed_is_answered_before_its_end(server: Serving) -> None:
    with connect(server, 20_000_000) as connection:
        connection.sendall(b"no form" + bytes(1000))
        answer = io.BytesIO()
        while b"malformed-body" not in answer.getvalue() and (part := connection.recv(65536)):
            answer.write(part)
    assert answer.getvalue().startswith(b"HTTP/1.1 400 ")
    wait_until(lambda: server.service.uploads.held_bytes == 0)

"""Every error class has an answer, and none of them tells more than it should."""

import asyncio
import json
import logging
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from fastapi import FastAPI, Request

from service import errors
from service.api import problems
from service.api.problems import RequestRefused, install_problem_handlers, kind_of

SECRET = "/home/operator/secret.onnx"


def all_errors(root: type[Exception] = errors.YolofoldError) -> Iterator[type[Exception]]:
    yield root
    for child in root.__subclasses__():
        yield from all_errors(child)


EXPECTED = {
    errors.UnsupportedImage: 415,
    errors.BrokenImage: 422,
    errors.BrokenTensor: 422,
    errors.ImageTooLarge: 413,
    errors.LayerNotFound: 404,
    errors.MeasurementRunning: 409,
    errors.Overloaded: 503,
    errors.DeadlineExceeded: 504,
}


def make(cls: type[Exception]) -> Exception:
    further = {errors.LayerNotFound: (["model.0.bn"],), errors.ImageTooLarge: (77,)}
    return cls(SECRET, *further.get(cls, ()))


def answer(error: Exception) -> tuple[int, dict[bytes, bytes], dict]:
    """What the application answers when a route raises ``error``; plain ASGI, without a socket."""
    app = FastAPI()
    app.state.settings = SimpleNamespace(max_pixels=77)
    install_problem_handlers(app)

    @app.get("/route")
    async def route(request: Request) -> None:
        raise error

    sent: list[dict] = []

    async def call() -> None:
        scope = {
            "type": "http",
            "method": "GET",
            "path": "/route",
            "query_string": b"",
            "headers": [],
            "raw_path": b"",
        }
        scope |= {
            "http_version": "1.1",
            "scheme": "http",
            "server": ("test", 80),
            "client": ("test", 1),
            "root_path": "",
        }

        async def receive() -> dict:
            return {"type": "http.request", "body": b""}

        async def send(message: dict) -> None:
            sent.append(message)

        await app(scope, receive, send)

    try:
        asyncio.run(call())
    except Exception as raised:
        assert raised is error
    start = next(m for m in sent if m["type"] == "http.response.start")
    body = b"".join(m.get("body", b"") for m in sent if m["type"] == "http.response.body")
    return start["status"], dict(start["headers"]), json.loads(body)


@pytest.mark.parametrize("cls", list(all_errors()), ids=lambda cls: cls.__name__)
def test_every_domain_error_is_answered(cls: type[errors.YolofoldError], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        status, headers, document = answer(make(cls))
    assert headers[b"content-type"] == b"application/problem+json"
    assert status == document["status"] == EXPECTED.get(cls, 500)
    assert document["type"] == f"urn:yolofold:{kind_of(make(cls)).slug}"
    assert document["instance"] == "/route"
    if status == 500:
        assert SECRET not in json.dumps(document)
        assert SECRET in caplog.text
    else:
        assert SECRET in document["detail"]


def test_the_members_that_help_a_client() -> None:
    status, headers, document = answer(errors.Overloaded("full", 17))
    assert (status, headers[b"retry-after"], document["retry_after"]) == (503, b"17", 17)
    assert answer(errors.ImageTooLarge("big", 77))[2]["limit"] == 77
    document = answer(errors.LayerNotFound("x", ["model.0.bn"]))[2]
    assert (document["field"], document["near"]) == ("layer", ["model.0.bn"])


def test_a_defect_leaks_nothing() -> None:
    status, _, document = answer(ZeroDivisionError(SECRET))
    assert status == 500
    assert document["type"] == "urn:yolofold:internal-error"
    assert SECRET not in json.dumps(document)


def test_a_refusal_carries_its_headers_and_members() -> None:
    refusal = RequestRefused(problems.UPLOAD_TOO_LARGE, "why", headers={"X-Hint": "h"}, limit=5)
    status, headers, document = answer(refusal)
    assert (status, headers[b"x-hint"], document["limit"], document["detail"]) == (413, b"h", 5, "why")


def test_slugs_are_unique() -> None:
    kinds = [value for value in vars(problems).values() if isinstance(value, problems.Kind)]
    assert len({kind.slug for kind in kinds}) == len(kinds)

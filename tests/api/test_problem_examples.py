"""The problem documents of the API's description are whole, and what a request can bring about is answered so."""

import io
import re
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image

from service.api.body import BATCH_FIELDS
from service.api.problems import Problem
from service.api.server import server_config
from service.bundle.store import Bundle
from service.settings import load_settings
from tests.api.raw_http import connect, read_answers
from tests.api.serving import Serving, assert_problem, serving_config
from tests.inference.pictures import encode, scene

#: What no single request brings about. Their members are in the tests of the modules that they come from.
NOT_PROVOKED = {
    "body-timeout",
    "bundle-unusable",
    "deadline-exceeded",
    "inference-failed",
    "internal-error",
    "overloaded",
}
JPEG = {"content-type": "image/jpeg"}
FORM = {"content-type": "multipart/form-data; boundary=b"}
PART = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n'
PICTURE = encode(Image.fromarray(scene(300, 200)), "JPEG")
BATCH = "/detect/batch"


class Described:
    """One example: the operation it belongs to, its kind's slug and the document."""

    def __init__(self, method: str, path: str, status: str, slug: str, example: dict[str, Any]) -> None:
        self.method, self.path, self.status, self.slug = method, path, status, slug
        self.summary, self.document = example["summary"], example["value"]


@pytest.fixture(scope="module")
def app(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FastAPI, Serving]]:
    settings = load_settings({}, bundle_dir=tmp_path_factory.mktemp("kept"))
    config = server_config(settings, bundle)
    with serving_config(config) as running:
        yield config.app, running


@pytest.fixture(scope="module")
def server(app: tuple[FastAPI, Serving]) -> Serving:
    return app[1]


@pytest.fixture(scope="module")
def described(server: Serving) -> list[Described]:
    paths = server.client.get("/openapi.json").json()["paths"]
    return [
        Described(method, path, status, slug, example)
        for path, operations in paths.items()
        for method, operation in operations.items()
        for status, response in operation["responses"].items()
        for slug, example in response["content"].get("application/problem+json", {}).get("examples", {}).items()
    ]


def test_each_is_a_whole_document_of_its_operation(described: list[Described]) -> None:
    assert len({one.slug for one in described}) > 20
    for one in described:
        problem = Problem.model_validate(one.document, strict=True)
        assert problem.type == f"urn:yolofold:{one.slug}" and problem.title == one.summary
        assert (str(problem.status), problem.instance) == (one.status, one.path)
        assert not problem.model_extra, "a member that the schema does not describe"
        assert (problem.retry_after is not None) == (problem.status == 503)
        assert problem.detail.endswith((".", "?"))


def test_every_operation_may_fail(described: list[Described]) -> None:
    paths = {(one.method, one.path) for one in described if one.slug == "internal-error"}
    assert len(paths) == 17


# --- against real answers ----------------------------------------------------------------------------------


def send(server: Serving, one: Described, content: bytes = b"", headers: dict[str, str] = JPEG, **more: Any) -> Any:
    """A request to the operation of an example, of the one picture where it takes a form of several."""
    if one.path == BATCH and headers == JPEG and content:
        content, headers = PART + content + b"\r\n--b--\r\n", FORM
    return server.client.request(one.method, one.path, content=content, headers=headers, **more)


def send_nothing(server: Serving, one: Described) -> httpx.Response:
    return send(server, one, b"--b--\r\n", FORM) if one.path == BATCH else send(server, one)


def send_cut_off_form(server: Serving, one: Described) -> httpx.Response:
    return send(server, one, PART + PICTURE, FORM)


def announce_too_much(server: Serving, one: Described) -> httpx.Response:
    """More than the limit is announced and none of it is sent."""
    kind = FORM if one.path == BATCH else JPEG
    head = f"POST {one.path} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind['content-type']}\r\n"
    with connect(server) as client:
        client.sendall(f"{head}Content-Length: {one.document['limit'] + 1}\r\n\r\n".encode())
        (answer,) = read_answers(client, 1)
    request = httpx.Request("POST", server.url + one.path)
    return httpx.Response(answer.status, headers=answer.headers, content=answer.body, request=request)


def send_too_many_pixels(server: Serving, one: Described) -> httpx.Response:
    width, height = map(int, re.findall(r"(\d+) x (\d+)", one.document["detail"])[0])
    return send(server, one, encode(Image.new("1", (width, height)), "PNG"))


def send_too_many_files(server: Serving, one: Described) -> httpx.Response:
    return server.client.post(one.path, files=[(BATCH_FIELDS[0], b"x")] * (one.document["limit"] + 1))


def send_long_integers(server: Serving, one: Described) -> httpx.Response:
    stream = io.BytesIO()
    np.save(stream, np.zeros((3, 64, 64), np.int64))
    return send(server, one, stream.getvalue(), {"content-type": "application/octet-stream"})


def give_the_value(server: Serving, one: Described) -> httpx.Response:
    """The value that the example tells of; none or two where that is what is wrong."""
    field, detail = one.document["field"], one.document["detail"]
    given = re.search(r"'([^']*)' was given", detail)
    values = [given[1]] if given else ["a", "a"] if "once" in detail else []
    return send(server, one, params=[(field, value) for value in values])


def give_unknown_parameter(server: Serving, one: Described) -> httpx.Response:
    return send(server, one, params={one.document["field"]: "1"})


def ask_for_layer(server: Serving, one: Described) -> httpx.Response:
    return send(server, one, params={"layer": re.search(r"'(.+)'", one.document["detail"])[1]})


def start_twice(server: Serving, one: Described) -> httpx.Response:
    try:
        assert server.client.post(one.path).status_code == 202
        return send(server, one)
    finally:
        server.client.delete(one.path)


PROVOKING: dict[str, Callable[[Serving, Described], httpx.Response]] = {
    "empty-body": send_nothing,
    "malformed-body": send_cut_off_form,
    "upload-too-large": announce_too_much,
    "image-too-large": send_too_many_pixels,
    "too-many-images": send_too_many_files,
    "unsupported-media-type": lambda server, one: send(server, one, b"{}", {"content-type": "application/json"}),
    "unsupported-image": lambda server, one: send(server, one, b"%PDF-1.7"),
    "broken-image": lambda server, one: send(server, one, PICTURE[: len(PICTURE) // 2]),
    "broken-tensor": send_long_integers,
    "invalid-parameter": give_the_value,
    "unknown-parameter": give_unknown_parameter,
    "not-acceptable": lambda server, one: send(server, one, headers=JPEG | {"accept": "text/html"}),
    "layer-not-found": ask_for_layer,
    "no-measurement": lambda server, one: send(server, one),
    "measurement-running": start_twice,
}


@pytest.mark.parametrize("slug", PROVOKING)
def test_it_is_what_is_answered(server: Serving, described: list[Described], slug: str) -> None:
    operations = [one for one in described if one.slug == slug]
    assert operations
    for one in operations:
        answered = assert_problem(PROVOKING[slug](server, one), int(one.status), slug)
        assert answered == one.document


def test_a_bundle_that_is_not_kept(server: Serving, described: list[Described]) -> None:
    """Which are kept differs from machine to machine."""
    (one,) = (one for one in described if one.slug == "bundle-not-found")
    answered = assert_problem(send(server, one, params={"other": "yolo26n"}), 404, one.slug)
    assert answered | {"detail": ""} == one.document | {"detail": ""}
    kept = r"(?<=Kept here: ).*"
    assert re.sub(kept, "", answered["detail"]) == re.sub(kept, "", one.document["detail"])


def test_before_it_is_ready(app: tuple[FastAPI, Serving], described: list[Described]) -> None:
    application, server = app
    service, application.state.service = application.state.service, None
    try:
        for one in (one for one in described if one.slug == "not-ready" and one.path != "/readyz"):
            assert assert_problem(send(server, one, PICTURE), 503, "not-ready") == one.document
    finally:
        application.state.service = service


def test_every_kind_is_tested_or_known_not_to_be(described: list[Described]) -> None:
    others = {"bundle-not-found", "not-ready"}
    assert {one.slug for one in described} == PROVOKING.keys() | NOT_PROVOKED | others

"""``POST /detect`` over a real socket: every way to send, every way to fail."""

import io
import itertools
import json
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest
from PIL import Image

from service.bundle.store import Bundle
from service.inference.detector import Detector, Selection
from service.inference.onnxruntime_engine import OnnxRuntimeEngine
from tests.api.serving import Serving, assert_problem, serving, wait_until
from tests.inference.pictures import encode, scene

LIMIT_BYTES, LIMIT_PIXELS = 4_000_000, 4_000_000
JPEG = encode(Image.fromarray(scene(300, 200)), "JPEG")
PICTURE = {"content-type": "image/jpeg"}


@pytest.fixture(scope="module")
def server(bundle: Bundle) -> Iterator[Serving]:
    limits = {
        "max_upload_bytes": LIMIT_BYTES,
        "max_pixels": LIMIT_PIXELS,
        "workers": 2,
        "queue_size": 2,
        "threads": 2,
    }
    with serving(bundle, **limits) as running:
        yield running


@pytest.fixture(scope="module")
def found_picture(samples: list[Path]) -> bytes:
    """A picture in which the model finds something."""
    return next(p for p in samples if p.stem != "negative").read_bytes()


def post(
    server: Serving, content: bytes = JPEG, headers: dict[str, str] | None = None, query: str = ""
) -> httpx.Response:
    return server.client.post(f"/detect{query}", content=content, headers=PICTURE if headers is None else headers)


# --- success -----------------------------------------------------------------------------------------------


def test_the_answer_is_what_the_detector_finds(server: Serving, bundle: Bundle, samples: list[Path]) -> None:
    detector = Detector(bundle, OnnxRuntimeEngine(bundle.deployed_graph, "cpu", 2), 10**8)
    model = bundle.manifest.model
    for path in samples:
        data = path.read_bytes()
        expected = detector.detect(data, Selection(model.default_confidence, 300))
        response = post(server, data)
        assert response.status_code == 200, response.text
        answer = response.json()
        assert list(answer) == ["model", "image", "detections", "timing_ms"]
        assert answer["model"] == {"name": model.name, "version": model.version, "task": "detect"}
        assert answer["image"] == {"width": expected.width, "height": expected.height}
        assert len(answer["detections"]) == len(expected.detections)
        for index, detection in enumerate(answer["detections"]):
            assert list(detection) == ["name", "class", "confidence", "box"]
            assert detection["name"] == model.classes[detection["class"]]
            assert detection["class"] == expected.detections.class_id[index]
            assert detection["confidence"] == pytest.approx(float(expected.detections.confidence[index]), abs=1e-6)
            assert list(detection["box"]) == ["x1", "y1", "x2", "y2"]
            assert list(detection["box"].values()) == pytest.approx(expected.detections.xyxy[index].tolist(), abs=1e-3)
        timing = answer["timing_ms"]
        assert list(timing) == ["decode", "queue", "inference", "postprocess", "total"]
        assert all(ms >= 0 for ms in timing.values())
        assert (
            timing["total"] >= timing["decode"] + timing["queue"] + timing["inference"] + timing["postprocess"] - 0.01
        )


def test_reduced_decoding_is_chosen_by_its_setting(server: Serving, bundle: Bundle, samples: list[Path]) -> None:
    (data,) = (path.read_bytes() for path in samples if path.name == "parcel.jpg")  # twice as wide as the input
    reduced = Detector(bundle, OnnxRuntimeEngine(bundle.deployed_graph, "cpu", 2), LIMIT_PIXELS, reduced=True)
    expected = reduced.detect(data, Selection(bundle.manifest.model.default_confidence, 300)).detections
    with serving(bundle, reduced_decode=True, workers=1, threads=2) as other:
        answer = post(other, data).json()
    given = [list(found["box"].values()) for found in answer["detections"]]
    np.testing.assert_allclose(given, expected.xyxy, atol=1e-3)
    assert answer["image"] == {"width": 1280, "height": 960}
    assert answer["detections"] != post(server, data).json()["detections"]


def test_every_way_to_send_gives_the_same_answer(server: Serving) -> None:
    ways = [
        post(server),
        post(server, headers={"content-type": "IMAGE/PNG; x=y"}),
        post(server, headers={"content-type": "application/octet-stream"}),
        post(server, headers=PICTURE | {"content-encoding": "identity"}),
        server.client.post("/detect", content=iter([JPEG[:100], JPEG[100:]]), headers=PICTURE),
        server.client.post("/detect", files={"file": ("a.jpg", JPEG)}),
        server.client.post("/detect", files={"image": ("ä b.bin", JPEG, "text/plain")}),
    ]
    answers = [way.json() for way in ways]
    assert {way.status_code for way in ways} == {200}
    assert all(a["detections"] == answers[0]["detections"] and a["image"] == answers[0]["image"] for a in answers)
    assert ways[0].headers["cache-control"] == "no-store"


def test_conf_max_det_and_classes_select(server: Serving, bundle: Bundle, found_picture: bytes) -> None:
    everything = post(server, found_picture, query="?conf=0").json()["detections"]
    assert len(everything) == len([d for d in everything if d["confidence"] > 0]) > 3
    assert everything == sorted(everything, key=lambda d: -d["confidence"])
    threshold = everything[2]["confidence"]
    above = post(server, found_picture, query=f"?conf={threshold + 1e-6}").json()["detections"]
    assert above == [d for d in everything if d["confidence"] > threshold + 1e-6]
    assert post(server, found_picture, query="?conf=1").json()["detections"] == []
    assert post(server, found_picture, query="?conf=0&max_det=2").json()["detections"] == everything[:2]
    name, other = everything[0]["name"], everything[0]["class"]
    wanted = [d for d in everything if d["name"] == name]
    for value in (name, str(other)):
        response = server.client.post(
            "/detect", params={"conf": 0, "classes": value}, content=found_picture, headers=PICTURE
        )
        assert response.json()["detections"] == wanted
    all_classes = {"conf": 0, "classes": bundle.manifest.model.classes}
    response = server.client.post("/detect", params=all_classes, content=found_picture, headers=PICTURE)
    assert response.json()["detections"] == everything


def test_boxes_refer_to_the_upright_picture(server: Serving, found_picture: bytes) -> None:
    upright = Image.open(io.BytesIO(found_picture)).convert("RGB")
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    plain = post(server, encode(upright, "PNG"), query="?conf=0").json()
    rotated = post(server, encode(turned, "PNG", 6), query="?conf=0").json()
    assert plain["detections"]
    assert (rotated["image"], rotated["detections"]) == (plain["image"], plain["detections"])


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        (None, "application/json"),
        ("*/*", "application/json"),
        ("application/json", "application/json"),
        ("image/jpeg", "image/jpeg"),
        ("image/png", "image/png"),
        ("image/*", "image/jpeg"),
        ("image/png, */*;q=0.1", "image/png"),
        ("image/jpeg;q=0.2, image/png;q=0.8", "image/png"),
        ("text/html, application/json;q=0.9, image/*;q=0.1", "application/json"),
        ("image/jpeg;q=0, image/*", "image/png"),
    ],
)
def test_the_accept_header_chooses_the_representation(server: Serving, accept: str | None, media_type: str) -> None:
    request = server.client.build_request("POST", "/detect?conf=0", content=JPEG, headers=PICTURE)
    del request.headers["accept"]
    if accept is not None:
        request.headers["accept"] = accept
    response = server.client.send(request)
    assert response.status_code == 200
    assert response.headers["content-type"] == media_type
    if media_type.startswith("image/"):
        drawn = cv2.imdecode(np.frombuffer(response.content, np.uint8), cv2.IMREAD_COLOR)
        assert drawn.shape == (200, 300, 3)


def test_without_boxes_the_drawn_picture_is_the_picture(server: Serving) -> None:
    response = post(server, headers=PICTURE | {"accept": "image/png"}, query="?conf=1")
    drawn = cv2.imdecode(np.frombuffer(response.content, np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(drawn, cv2.imdecode(np.frombuffer(JPEG, np.uint8), cv2.IMREAD_COLOR))


# --- failure -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "slug", "field", "says"),
    [
        ("?conf=-0.1", "invalid-parameter", "conf", "conf must be a number from 0 to 1; '-0.1' was given"),
        ("?conf=1.01", "invalid-parameter", "conf", "conf must be a number from 0 to 1; '1.01' was given"),
        ("?conf=nan", "invalid-parameter", "conf", "from 0 to 1; 'nan' was"),
        ("?conf=inf", "invalid-parameter", "conf", "from 0 to 1; 'inf' was"),
        ("?conf=high", "invalid-parameter", "conf", "number"),
        ("?conf=", "invalid-parameter", "conf", "number"),
        ("?conf=0.1&conf=0.2", "invalid-parameter", "conf", "once"),
        ("?max_det=0", "invalid-parameter", "max_det", "a whole number from 1 to 300; '0' was"),
        ("?max_det=301", "invalid-parameter", "max_det", "a whole number from 1 to 300; '301' was"),
        ("?max_det=1.5", "invalid-parameter", "max_det", "a whole number from 1 to 300; '1.5' was"),
        ("?classes=zeppelin", "invalid-parameter", "classes", "no class 'zeppelin'"),
        ("?classes=0&classes=100000", "invalid-parameter", "classes", "no class '100000'"),
        ("?classes=-1", "invalid-parameter", "classes", "no class '-1'"),
        ("?classes=", "invalid-parameter", "classes", "no class ''"),
        ("?classes=" + "9" * 5000, "invalid-parameter", "classes", "no class '999"),
        ("?confidence=0.5", "unknown-parameter", "confidence", "Did you mean 'conf'"),
        ("?class=0", "unknown-parameter", "class", "Did you mean 'classes'"),
        ("?zzz=1", "unknown-parameter", "zzz", "Known are: conf, max_det, classes"),
    ],
)
def test_parameters(server: Serving, query: str, slug: str, field: str, says: str) -> None:
    assert says in assert_problem(post(server, query=query), 422, slug, field=field)["detail"]


def test_an_unknown_class_names_the_valid_ones(server: Serving, bundle: Bundle) -> None:
    name = bundle.manifest.model.classes[0]
    detail = assert_problem(post(server, query=f"?classes={name}x"), 422, "invalid-parameter")["detail"]
    assert f"Did you mean {name!r}" in detail
    assert ", ".join(bundle.manifest.model.classes) in detail


@pytest.mark.parametrize(
    "content_type", [None, "", "image", "text/plain", "application/json", "application/x-www-form-urlencoded"]
)
def test_media_types(server: Serving, content_type: str | None) -> None:
    response = post(server, headers={} if content_type is None else {"content-type": content_type})
    assert_problem(response, 415, "unsupported-media-type")
    assert response.headers["accept-post"] == "image/*, application/octet-stream, multipart/form-data"


def test_compressed_bodies(server: Serving) -> None:
    response = post(server, headers=PICTURE | {"content-encoding": "gzip"})
    assert "gzip" in assert_problem(response, 415, "unsupported-media-type")["detail"]


def test_nothing_acceptable(server: Serving) -> None:
    for accept in ("text/html", "image/webp", "*/*;q=0", "application/json;q=x"):
        assert_problem(post(server, headers=PICTURE | {"accept": accept}), 406, "not-acceptable")


def test_empty_bodies(server: Serving) -> None:
    assert_problem(post(server, b""), 400, "empty-body")
    assert_problem(post(server, b"", {"content-type": "multipart/form-data; boundary=b"}), 400, "empty-body")
    assert_problem(server.client.post("/detect", files={"file": ("a.jpg", b"")}), 400, "empty-body")
    form = {"content-type": "multipart/form-data; boundary=b"}
    assert_problem(post(server, b"--b--\r\n", form), 400, "empty-body", field="file")


@pytest.mark.parametrize(
    ("data", "status", "slug"),
    [
        (b"hello", 415, "unsupported-image"),
        (encode(Image.fromarray(scene()), "TIFF"), 415, "unsupported-image"),
        (encode(Image.fromarray(scene()), "AVIF"), 415, "unsupported-image"),
        (JPEG[:-20], 422, "broken-image"),
        (JPEG[:200], 422, "broken-image"),
        (encode(Image.new("1", (2001, 2000)), "PNG"), 413, "image-too-large"),
    ],
)
def test_images(server: Serving, data: bytes, status: int, slug: str) -> None:
    document = assert_problem(post(server, data), status, slug)
    if slug == "image-too-large":
        assert document["limit"] == LIMIT_PIXELS
        assert "2001 x 2000" in document["detail"]
    assert_problem(server.client.post("/detect", files={"file": ("a.jpg", data)}), status, slug)
    assert_problem(post(server, data, PICTURE | {"accept": "image/png"}), status, slug)


def test_the_upload_limit_is_exact_however_the_body_is_sent(server: Serving) -> None:
    fits, too_long = JPEG.ljust(LIMIT_BYTES, b"\0"), JPEG.ljust(LIMIT_BYTES + 1, b"\0")

    def pieces(data: bytes) -> Iterator[bytes]:
        for start in range(0, len(data), 65536):
            yield data[start : start + 65536]

    for data, accepted in ((fits, True), (too_long, False)):
        for response in (
            post(server, data),
            server.client.post("/detect", content=pieces(data), headers=PICTURE),
            server.client.post("/detect", files={"file": ("a.jpg", data)}),
        ):
            if accepted:
                assert response.status_code == 200, response.text
            else:
                assert_problem(response, 413, "upload-too-large", limit=LIMIT_BYTES)
    assert server.service.uploads.held_bytes == 0


def raw_exchange(server: Serving, request: bytes) -> bytes:
    """Send bytes and read the answer until the server closes or has sent its head."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(request)
        answer = b""
        while b"\r\n\r\n" not in answer and (part := connection.recv(65536)):
            answer += part
        return answer


def test_a_declared_length_over_the_limit_is_refused_before_the_body(server: Serving) -> None:
    head = b"POST /detect HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: 99999999999\r\n\r\n"
    assert raw_exchange(server, head).startswith(b"HTTP/1.1 413 ")


def test_an_endless_chunked_body_is_cut_off(server: Serving) -> None:
    head = b"POST /detect HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"10000\r\n" + bytes(0x10000) + b"\r\n"
    assert raw_exchange(server, head + chunk * (LIMIT_BYTES // 0x10000 + 1)).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    ("path", "content_type", "status", "slug"),
    [
        ("/detect", "image/jpeg", 413, "upload-too-large"),
        ("/detect", "text/plain", 415, "unsupported-media-type"),
        ("/detect?conf=2", "image/jpeg", 422, "invalid-parameter"),
        ("/detect?what=2", "image/jpeg", 422, "unknown-parameter"),
        ("/model", "image/jpeg", 405, "method-not-allowed"),
        ("/nothing", "image/jpeg", 404, "not-found"),
    ],
)
@pytest.mark.parametrize("is_chunked", [False, True], ids=["length", "chunked"])
def test_a_client_that_sends_everything_before_it_reads_sees_the_refusal(
    server: Serving, path: str, content_type: str, status: int, slug: str, is_chunked: bool
) -> None:
    """urllib closes after each request, and over unread bytes a closed connection is reset."""
    piece, count = bytes(1_000_000), 30
    headers = {"Content-Type": content_type} | ({} if is_chunked else {"Content-Length": str(count * len(piece))})
    body = itertools.repeat(piece, count)
    request = urllib.request.Request(server.url + path, data=body, headers=headers, method="POST")
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=60)
    assert caught.value.code == status
    assert json.loads(caught.value.read())["type"] == f"urn:yolofold:{slug}"
    assert server.service.uploads.held_bytes == 0


def test_a_full_queue_is_seen_by_a_client_that_sends_everything_first(server: Serving) -> None:
    request = urllib.request.Request(server.url + "/detect", data=bytes(4_000_000), headers=PICTURE, method="POST")
    with server.busy_workers():
        waiting = [in_background(lambda: post(server)) for _ in range(2)]
        wait_until(lambda: server.service.pool.waiting == 2)
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request, timeout=60)
        assert caught.value.code == 503
    for thread, _ in waiting:
        thread.join()


def test_a_client_that_asks_before_it_sends_is_refused_without_being_invited(server: Serving) -> None:
    head = b"POST /detect HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nExpect: 100-continue\r\n"
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(head + b"Connection: close\r\nContent-Length: 30000000\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert answer.endswith(b"}")


MULTIPART = {
    "two files": [("file", ("a", JPEG)), ("file", ("b", JPEG))],
    "one in each field": [("file", ("a", JPEG)), ("image", ("b", JPEG))],
    "three files": [("file", (name, JPEG)) for name in "abc"],
}


@pytest.mark.parametrize("files", MULTIPART.values(), ids=MULTIPART)
def test_exactly_one_file(server: Serving, files: list) -> None:
    assert_problem(server.client.post("/detect", files=files), 400, "malformed-body")


def test_form_fields(server: Serving) -> None:
    response = server.client.post("/detect", files={"picture": ("a", JPEG)})
    assert_problem(response, 422, "unknown-parameter", field="picture")
    response = server.client.post("/detect", files={"file": ("a", JPEG)}, data={"conf": "0.5"})
    assert "query" in assert_problem(response, 422, "unknown-parameter", field="conf")["detail"]
    response = server.client.post("/detect", files={"file": (None, "text")})
    assert_problem(response, 400, "malformed-body", field="file")


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", b"--b\r\n\r\n--b--"),
        ("multipart/form-data; boundary=b", b"--b\r\n"),
        ("multipart/form-data; boundary=b", b"this is not multipart"),
        ("multipart/form-data; boundary=b", b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n"),
        ("multipart/form-data; boundary=" + "b" * 500, b"--b\r\n"),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nxx',
        ),
    ],
)
def test_malformed_multipart(server: Serving, content_type: str, body: bytes) -> None:
    response = post(server, body, {"content-type": content_type})
    assert_problem(response, 400, "malformed-body")


def test_a_form_that_lost_its_end_is_called_truncated(server: Serving) -> None:
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    whole = head + JPEG + b"\r\n--b--"
    form = {"content-type": "multipart/form-data; boundary=b"}
    assert post(server, whole, form).status_code == post(server, whole + b"\r\n", form).status_code == 200
    start, end = len(head), len(whole)
    for length in (1, 3, 20, start - 1, start, start + 100, end - 7, end - 6, end - 4, end - 3, end - 2, end - 1):
        document = assert_problem(post(server, whole[:length], form), 400, "malformed-body")
        assert "truncated" in document["detail"], length
    assert server.service.uploads.held_bytes == 0


# --- load --------------------------------------------------------------------------------------------------


def in_background(call) -> tuple[threading.Thread, list]:
    results: list = []
    thread = threading.Thread(target=lambda: results.append(call()))
    thread.start()
    return thread, results


def test_a_full_queue_answers_503_and_serves_again_afterwards(server: Serving) -> None:
    pool = server.service.pool
    with server.busy_workers():
        waiting = [in_background(lambda: post(server)) for _ in range(2)]
        wait_until(lambda: pool.waiting == 2)
        assert_problem(post(server), 503, "overloaded")
        assert_problem(post(server, headers=PICTURE | {"accept": "image/png"}), 503, "overloaded")
        # The event loop is free all the while.
        assert server.client.get("/healthz").status_code == 200
        assert server.client.get("/readyz").status_code == 200
        assert server.client.get("/model").status_code == 200
    for thread, results in waiting:
        thread.join()
        assert results[0].status_code == 200
    assert post(server).status_code == 200


def test_a_client_that_leaves_frees_its_place_and_its_picture_is_never_decoded(server: Serving) -> None:
    pool = server.service.pool
    head = b"POST /detect HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(JPEG)
    host, port = server.url.removeprefix("http://").split(":")
    with server.busy_workers():
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(head + JPEG)
            wait_until(lambda: pool.waiting == 1)
            assert server.service.uploads.held_bytes == len(JPEG)
        wait_until(lambda: pool.waiting == 0)
        wait_until(lambda: server.service.uploads.held_bytes == 0)
    assert post(server).status_code == 200


def test_a_client_that_leaves_in_the_middle_of_its_body_frees_its_bytes(server: Serving) -> None:
    head = b"POST /detect HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(JPEG)
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head + JPEG[:100])
        wait_until(lambda: server.service.uploads.held_bytes == 100)
    wait_until(lambda: server.service.uploads.held_bytes == 0)


@pytest.mark.parametrize(
    ("path", "wanted"), [("/detect", "application/json"), ("/detect", "image/png"), ("/model/drift/image", "*/*")]
)
@pytest.mark.parametrize("as_form", [False, True], ids=["raw", "form"])
def test_a_picture_that_is_being_looked_at_is_held_though_its_client_has_left(
    server: Serving, path: str, wanted: str, as_form: bool
) -> None:
    request = httpx.Request("POST", server.url, **({"files": {"file": JPEG}} if as_form else {"content": JPEG}))
    kind, body = request.headers.get("content-type", "image/jpeg"), request.read()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nAccept: {wanted}\r\n"
    host, port = server.url.removeprefix("http://").split(":")
    left = f'yolofold_requests_total{{method="POST",route="{path}",status="499"}}'

    def departures() -> float:
        lines = server.client.get("/metrics").text.splitlines()
        return next((float(line.split()[-1]) for line in lines if line.startswith(left)), 0.0)

    before, budget = departures(), server.service.detector.budget
    with budget.hold(10**12):  # so that the job, once begun, waits for memory
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            wait_until(lambda: budget.waiting == 1)
            assert server.service.uploads.held_bytes == len(body)
        wait_until(lambda: departures() == before + 1)
        assert server.service.uploads.held_bytes == len(JPEG)
        assert budget.waiting == 1
    wait_until(lambda: server.service.uploads.held_bytes == 0)
    assert post(server).status_code == 200
    assert server.service.uploads.held_bytes == 0


@pytest.mark.parametrize("accept", ["application/json", "image/png"])
def test_a_picture_whose_client_has_left_is_not_looked_at(
    server: Serving, monkeypatch: pytest.MonkeyPatch, accept: str
) -> None:
    runs = list[int]()
    run = OnnxRuntimeEngine.run

    def count(engine: OnnxRuntimeEngine, images: np.ndarray) -> np.ndarray:
        runs.append(len(images))
        return run(engine, images)

    monkeypatch.setattr(OnnxRuntimeEngine, "run", count)
    assert post(server, headers=PICTURE | {"accept": accept}).status_code == 200
    assert runs.pop() == 1 and not runs
    head = f"POST /detect HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nAccept: {accept}\r\n"
    host, port = server.url.removeprefix("http://").split(":")
    pool, budget = server.service.pool, server.service.detector.budget
    with budget.hold(10**12):  # so that the job, once begun, waits for memory
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(head.encode() + b"Content-Length: %d\r\n\r\n" % len(JPEG) + JPEG)
            wait_until(lambda: budget.waiting == 1)
        wait_until(lambda: not any(job.is_wanted for job in list(pool._running)))
    wait_until(lambda: pool.running == 0)
    assert runs == []
    assert post(server).status_code == 200


@pytest.mark.parametrize("accept", ["application/json", "image/png"])
def test_what_a_broken_picture_held_is_given_back(server: Serving, accept: str) -> None:
    assert_problem(post(server, JPEG[:-20], PICTURE | {"accept": accept}), 422, "broken-image")
    assert server.service.uploads.held_bytes == 0


def test_time_outs(bundle: Bundle) -> None:
    with serving(bundle, request_timeout_s=0.2, workers=1) as server:
        with server.busy_workers():
            assert_problem(post(server), 504, "deadline-exceeded")
        head = b"POST /detect HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: 9\r\n\r\nxx"
        assert raw_exchange(server, head).startswith(b"HTTP/1.1 408 ")
        assert server.service.uploads.held_bytes == 0


def test_uploads_of_all_requests_together_are_bounded(bundle: Bundle) -> None:
    with serving(bundle, max_upload_bytes=len(JPEG), workers=1, queue_size=50) as server:
        with server.busy_workers():
            waiting = [in_background(lambda: post(server)) for _ in range(8)]
            wait_until(lambda: server.service.pool.waiting == 8)
            assert server.service.uploads.held_bytes == 8 * len(JPEG)
            assert "hold" in assert_problem(post(server), 503, "overloaded")["detail"]
        for thread, results in waiting:
            thread.join()
            assert results[0].status_code == 200


def test_many_clients_at_once_all_get_their_own_answer(bundle: Bundle) -> None:
    sizes = [(40 + i, 60 + 2 * i) for i in range(24)]
    with serving(bundle, workers=3) as server:
        calls = [
            in_background(
                lambda s=s: post(server, encode(Image.fromarray(scene(*s)), "PNG"), {"content-type": "image/png"})
            )
            for s in sizes
        ]
        for (width, height), (thread, results) in zip(sizes, calls, strict=True):
            thread.join()
            assert results[0].json()["image"] == {"width": width, "height": height}

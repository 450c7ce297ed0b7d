"""``POST /detect/batch`` over a real socket: the same boxes, one problem per bad picture, and room for others."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from service.api.batch import BATCH_UPLOADS
from service.api.counters import STAGES
from service.api.examples import FOLDER
from service.bundle.store import Bundle
from tests.api.serving import Serving, assert_problem, serving, wait_until
from tests.api.test_metrics import scrape, value
from tests.inference.pictures import encode, scene

MAX_IMAGES, LIMIT_BYTES, LIMIT_PIXELS, WORKERS = 32, 1_000_000, 4_000_000, 2
JPEG = encode(Image.fromarray(scene(300, 200)), "JPEG")
BOUNDARY = "b"
EXAMPLE = json.loads((FOLDER / "detect_batch.json").read_text())
FORM = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}


@pytest.fixture(scope="module")
def server(bundle: Bundle) -> Iterator[Serving]:
    limits = {"max_upload_bytes": LIMIT_BYTES, "max_pixels": LIMIT_PIXELS, "max_batch_images": MAX_IMAGES}
    with serving(bundle, **limits, workers=WORKERS, queue_size=4, threads=1) as running:
        yield running


def form(files: Sequence[bytes], field: str = "file") -> bytes:
    """A form as it goes over the wire; its files are called 0.jpg, 1.jpg, ..."""
    head = '--{}\r\nContent-Disposition: form-data; name="{}"; filename="{}.jpg"\r\n\r\n'
    parts = [head.format(BOUNDARY, field, i).encode() + data + b"\r\n" for i, data in enumerate(files)]
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def post(server: Serving, files: Sequence[bytes], **options: Any) -> httpx.Response:
    return server.client.post("/detect/batch", content=form(files), headers=FORM, **options)


def single(server: Serving, data: bytes, **options: Any) -> httpx.Response:
    return server.client.post("/detect", content=data, headers={"content-type": "image/jpeg"}, **options)


def in_background(call: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(call()))
    thread.start()
    return thread, results


# --- answers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("params", [{}, {"conf": "0", "max_det": "7", "classes": "1"}], ids=["plain", "selected"])
def test_each_picture_has_the_answer_it_has_alone(server: Serving, samples: list[Path], params: dict) -> None:
    files = [*(path.read_bytes() for path in samples), encode(Image.fromarray(scene(80, 130)), "PNG", 6), JPEG]
    alone = [single(server, data, params=params).json() for data in files]
    before = scrape(server)
    response = post(server, files, params=params)
    assert response.status_code == 200, response.text
    assert response.headers["cache-control"] == "no-store"
    answer = response.json()
    assert list(answer) == ["results", "totals", "timing_ms"]
    for index, (result, expected) in enumerate(zip(answer["results"], alone, strict=True)):
        assert list(result) == ["index", "file", *expected]
        assert (result["index"], result["file"]) == (index, f"{index}.jpg")
        for part in ("model", "image", "detections"):
            assert result[part] == expected[part]
        timing = result["timing_ms"]
        assert list(timing) == [*STAGES, "total"]
        assert timing["total"] >= sum(timing[step] for step in STAGES) - 0.01
    found = sum(len(result["detections"]) for result in alone)
    assert found
    assert answer["totals"] == {"images": len(files), "failed": 0, "detections": found}
    for step in STAGES:
        summed = sum(result["timing_ms"][step] for result in answer["results"])
        assert answer["timing_ms"][step] == pytest.approx(summed, abs=0.001 * len(files))
    assert answer["timing_ms"]["total"] >= max(result["timing_ms"]["total"] for result in answer["results"]) - 0.01
    after = scrape(server)

    def moved(name: str, **labels: str) -> float:
        return value(after, name, **labels) - value(before, name, **labels)

    assert moved("yolofold_batch_images_total", status="200") == len(files)
    assert moved("yolofold_requests_total", route="/detect/batch", method="POST", status="200") == 1
    assert moved("yolofold_stage_seconds_count", stage="inference") == len(files)
    classes = {detection["name"] for result in alone for detection in result["detections"]}
    assert sum(moved("yolofold_detections_total", **{"class": name}) for name in classes) == found


def test_bad_pictures_have_the_problem_they_have_alone_and_cost_the_others_nothing(server: Serving) -> None:
    bad = {
        "broken-image": JPEG[:-20],
        "unsupported-image": b"hello",
        "image-too-large": encode(Image.new("1", (2001, 2000)), "PNG"),
        "upload-too-large": JPEG.ljust(LIMIT_BYTES + 1, b"\0"),
        "empty-body": b"",
    }
    good = JPEG.ljust(LIMIT_BYTES, b"\0")
    before = scrape(server)
    files = [good, *bad.values(), JPEG]
    answer = post(server, files).json()
    assert answer["totals"] == {"images": len(files), "failed": len(bad), "detections": 0}
    expected = single(server, good).json()["detections"]
    assert answer["results"][0]["detections"] == answer["results"][-1]["detections"] == expected
    for index, (slug, data) in enumerate(bad.items(), 1):
        result, alone = answer["results"][index], single(server, data).json()
        assert (result.pop("index"), result.pop("file")) == (index, f"{index}.jpg")
        assert result.pop("instance") == "/detect/batch"
        assert result["type"] == f"urn:yolofold:{slug}"
        if slug == "empty-body":  # whose words are about the request
            assert result["detail"] == "The file is empty."
        else:
            assert alone.pop("instance") == "/detect"
            assert result == alone
    after = scrape(server)
    for status, count in (("200", 2), ("422", 1), ("415", 1), ("413", 2), ("400", 1)):
        name = "yolofold_batch_images_total"
        assert value(after, name, status=status) - value(before, name, status=status) == count
    assert server.service.uploads.held_bytes == server.service.batch_uploads.held_bytes == 0


def test_only_bad_pictures_are_an_answer_too(server: Serving) -> None:
    answer = post(server, [b"x", JPEG[:200]])
    assert answer.status_code == 200
    assert [result["status"] for result in answer.json()["results"]] == [415, 422]


def test_a_defect_that_one_picture_meets_costs_the_others_nothing(
    server: Serving, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    detect, odd = server.service.detector.detect, JPEG + b"odd"

    def look(data: bytes, selection: Any) -> Any:
        if data == odd:
            raise MemoryError("no room in there")
        return detect(data, selection)

    monkeypatch.setattr(server.service.detector, "detect", look)
    answer = post(server, [JPEG, odd, JPEG])
    assert answer.status_code == 200
    first, second, third = answer.json()["results"]
    assert first["detections"] == third["detections"]
    assert (second["index"], second["type"], second["status"]) == (1, "urn:yolofold:internal-error", 500)
    assert "no room" not in answer.text and answer.json()["totals"]["failed"] == 1
    assert "Traceback" in caplog.text and "MemoryError: no room in there" in caplog.text
    common = post(server, [odd, odd])
    assert (common.status_code, common.json()["type"]) == (500, "urn:yolofold:internal-error")
    assert common.headers["connection"] == "close"  # as it then is; not told, a client would lose its next request
    assert server.service.uploads.held_bytes == 0


def test_both_fields_and_any_file_name(server: Serving) -> None:
    names = ["ä b.bin", "x" * 300, "", "semi;colon.jpg"]
    files = [("files" if i % 2 else "file", (name, JPEG)) for i, name in enumerate(names)]
    results = server.client.post("/detect/batch", files=files[:2] + files[3:]).json()["results"]
    assert [result["file"] for result in results] == ["ä b.bin", "x" * 255, "semi;colon.jpg"]
    halves = form([JPEG]).replace(b"0.jpg", "\ud800".encode("utf-7"))
    answer = server.client.post(
        "/detect/batch", content=halves, headers={"content-type": FORM["content-type"] + "; charset=utf-7"}
    )
    assert answer.status_code == 200, answer.text
    assert "detections" in answer.json()["results"][0]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("filename*=UTF-8''%C3%A4%20b.jpg", "ä b.jpg"),
        ("filename*=iso-8859-1'de'%E4.jpg", "ä.jpg"),
        ("filename*=utf-8''%22%5C%3B.jpg", '"\\;.jpg'),
        ("filename*=utf-8''%FF.jpg", "\ufffd.jpg"),
        ("filename=\"plain.jpg\"; filename*=UTF-8''%C3%A4.jpg", "plain.jpg"),
    ],
)
def test_a_file_may_be_named_as_rfc_5987_writes_it(server: Serving, name: str, shown: str) -> None:
    body = form([JPEG]).replace(b'filename="0.jpg"', name.encode())
    (result,) = server.client.post("/detect/batch", content=body, headers=FORM).json()["results"]
    assert result["file"] == shown and result["detections"] == single(server, JPEG).json()["detections"]
    assert server.client.post("/detect", content=body, headers=FORM).status_code == 200


def test_a_part_whose_name_cannot_be_read_is_text(server: Serving) -> None:
    for name in ("filename*=utf-7''a.jpg", "filename*=a.jpg", "filename*0=a.jpg"):
        body = form([JPEG]).replace(b'filename="0.jpg"', name.encode())
        response = server.client.post("/detect/batch", content=body, headers=FORM)
        assert_problem(response, 400, "malformed-body", field="file")


def test_the_documented_example_has_the_shape_of_a_real_answer(server: Serving, samples: list[Path]) -> None:
    (picture,) = (path.read_bytes() for path in samples if path.name == EXAMPLE["results"][0]["file"])
    given = post(server, [picture, picture[: len(picture) // 2]]).json()
    assert shape(given | {"results": []}) == shape(EXAMPLE | {"results": []})
    found, shown = given["results"][0], EXAMPLE["results"][0]
    # How many there are depends on the weights.
    assert shape(found | {"detections": found["detections"][:1]}) == shape(
        shown | {"detections": shown["detections"][:1]}
    )
    assert given["results"][1] == EXAMPLE["results"][1] | {"file": "1.jpg"}


def shape(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    return [shape(inner) for inner in value] if isinstance(value, list) else type(value)


# --- refusals ----------------------------------------------------------------------------------------------


def test_the_number_of_pictures_is_limited_exactly(bundle: Bundle) -> None:
    with serving(bundle, max_batch_images=3, workers=1, threads=1) as server:
        assert len(post(server, [b"x"] * 3).json()["results"]) == 3
        for count in (4, 5, 50):
            assert_problem(post(server, [b"x"] * count), 413, "too-many-images", field="file", limit=3)
        # The body is not waited for: its end never comes.
        answer = raw_exchange(server, form([b"x"] * 6)[:-10], promised=10**6)
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b"too-many-images" in answer
        assert server.service.uploads.held_bytes == 0


def test_the_size_of_the_body_is_limited_exactly(server: Serving) -> None:
    limit = BATCH_UPLOADS * LIMIT_BYTES
    room = limit - len(form([b""] * 5))
    sizes = [LIMIT_BYTES] * 3 + [room - 3 * LIMIT_BYTES - 1, 1]
    whole = form([JPEG.ljust(size, b"\0") if size > 1 else b"x" for size in sizes])
    assert len(whole) == limit
    fits = server.client.post("/detect/batch", content=whole, headers=FORM)
    assert [result.get("status", 200) for result in fits.json()["results"]] == [200] * 4 + [415]
    for body in (whole + b"\n", iter([whole, b"\n"])):
        response = server.client.post("/detect/batch", content=body, headers=FORM)
        assert_problem(response, 413, "upload-too-large", limit=limit)
    assert raw_exchange(server, b"", promised=limit + 1).startswith(b"HTTP/1.1 413 ")
    assert server.service.uploads.held_bytes == 0


def raw_exchange(server: Serving, body: bytes, promised: int) -> bytes:
    """The beginning of an answer to a request whose body is not sent to its end."""
    head = f"POST /detect/batch HTTP/1.1\r\nHost: x\r\nContent-Type: {FORM['content-type']}\r\n"
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(head.encode() + b"Content-Length: %d\r\n\r\n" % promised + body)
        answer = b""
        while b"}" not in answer and (part := connection.recv(65536)):
            answer += part
        return answer


def test_forms_that_are_none(server: Serving) -> None:
    url = "/detect/batch"
    response = server.client.post(url, content=JPEG, headers={"content-type": "image/jpeg"})
    assert_problem(response, 415, "unsupported-media-type")
    assert response.headers["accept-post"] == "multipart/form-data"
    assert_problem(server.client.post(url, content=JPEG), 415, "unsupported-media-type")
    assert_problem(post(server, []), 400, "empty-body", field="file")
    assert_problem(server.client.post(url, content=b"", headers=FORM), 400, "malformed-body")
    response = server.client.post(url, files=[("file", ("a", JPEG)), ("picture", ("b", JPEG))])
    assert_problem(response, 422, "unknown-parameter", field="picture")
    # A field there is not is named even beside as many files as there may be.
    response = server.client.post(url, files=[("file", ("a", b"x"))] * MAX_IMAGES, data={"conf": "0.5"})
    assert "query" in assert_problem(response, 422, "unknown-parameter", field="conf")["detail"]
    response = server.client.post(url, files={"file": (None, "text")})
    assert_problem(response, 400, "malformed-body", field="file")
    whole = form([JPEG, JPEG])
    for length in (3, 100, len(whole) // 2, len(whole) - 4):
        response = server.client.post(url, content=whole[:length], headers=FORM)
        assert "truncated" in assert_problem(response, 400, "malformed-body")["detail"]
    assert server.service.uploads.held_bytes == 0


def test_parameters_and_representations(server: Serving) -> None:
    for name, bad in (("conf", "2"), ("max_det", "0"), ("classes", "zeppelin")):
        assert_problem(post(server, [JPEG], params={name: bad}), 422, "invalid-parameter", field=name)
    assert_problem(post(server, [JPEG], params={"class": "0"}), 422, "unknown-parameter", field="class")
    response = server.client.post("/detect/batch", content=form([JPEG]), headers=FORM | {"accept": "image/png"})
    assert_problem(response, 406, "not-acceptable")


# --- load --------------------------------------------------------------------------------------------------


def test_a_single_picture_is_answered_before_a_large_batch_that_came_first(server: Serving) -> None:
    pool, order = server.service.pool, []
    with server.busy_workers():
        bulk, results = in_background(lambda: (post(server, [JPEG] * MAX_IMAGES), order.append("batch"))[0])
        wait_until(lambda: pool.waiting == WORKERS)
        one, answers = in_background(lambda: (single(server, JPEG), order.append("single"))[0])
        # The batch's bound: it has no more in the queue, however many it has.
        wait_until(lambda: pool.waiting == WORKERS + 1)
        begun = pool.begun
    one.join()
    begun = pool.begun - begun
    bulk.join()
    assert order == ["single", "batch"]
    assert answers[0].status_code == results[0].status_code == 200
    assert results[0].json()["totals"]["failed"] == 0
    assert begun < MAX_IMAGES + 1


def test_a_full_queue_refuses_a_batch_before_its_upload_but_not_in_the_middle(server: Serving) -> None:
    pool = server.service.pool
    with server.busy_workers():
        batch, results = in_background(lambda: post(server, [JPEG] * 5))
        wait_until(lambda: pool.waiting == WORKERS)
        singles = [in_background(lambda: single(server, JPEG)) for _ in range(4)]
        wait_until(lambda: pool.waiting == WORKERS + 4)
        assert_problem(post(server, [JPEG]), 503, "overloaded")
    for thread, _ in singles:
        thread.join()
    batch.join()
    assert [answers[0].status_code for _, answers in singles] == [200] * 4
    assert results[0].json()["totals"]["failed"] == 0


def test_too_many_batches_are_refused_and_others_then_served(server: Serving) -> None:
    bulk = server.service.bulk
    with server.busy_workers():
        batches = [in_background(lambda: post(server, [JPEG] * 2)) for _ in range(8)]
        wait_until(lambda: len(bulk._batches) == 8)
        assert_problem(post(server, [JPEG]), 503, "overloaded")
        assert server.client.get("/readyz").status_code == 200
    for thread, results in batches:
        thread.join()
        assert results[0].json()["totals"] == {"images": 2, "failed": 0, "detections": 0}


def test_uploads_of_batches_leave_half_the_memory_to_others(bundle: Bundle) -> None:
    picture = JPEG.ljust(len(JPEG) * 2, b"\0")
    with serving(bundle, max_upload_bytes=len(picture), workers=1, threads=1, queue_size=50) as server:
        with server.busy_workers():
            batch, results = in_background(lambda: post(server, [picture] * 3))
            wait_until(lambda: server.service.pool.waiting == 1)
            assert (
                server.service.batch_uploads.held_bytes == server.service.uploads.held_bytes == len(form([picture] * 3))
            )
            assert "hold" in assert_problem(post(server, [picture] * 2), 503, "overloaded")["detail"]
            singles = [in_background(lambda: single(server, picture)) for _ in range(4)]
            wait_until(lambda: server.service.pool.waiting == 5)
        for thread, answers in (*singles, (batch, results)):
            thread.join()
            assert answers[0].status_code == 200
        assert server.service.batch_uploads.held_bytes == server.service.uploads.held_bytes == 0


def test_a_client_that_leaves_takes_its_batch_along(server: Serving) -> None:
    service, body = server.service, form([JPEG] * 10)
    head = f"POST /detect/batch HTTP/1.1\r\nHost: x\r\nContent-Type: {FORM['content-type']}\r\n"
    host, port = server.url.removeprefix("http://").split(":")
    for sent, waiting in ((len(body), WORKERS), (len(body) // 2, 0)):
        with server.busy_workers():
            with socket.create_connection((host, int(port))) as connection:
                connection.sendall(head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body[:sent])
                wait_until(lambda: service.batch_uploads.held_bytes == sent)  # noqa: B023
                wait_until(lambda: service.pool.waiting == waiting)  # noqa: B023
            wait_until(lambda: service.pool.waiting == 0)
            wait_until(lambda: service.uploads.held_bytes == service.batch_uploads.held_bytes == 0)
            begun = service.pool.begun
        assert single(server, JPEG).status_code == 200
        assert service.pool.begun == begun + 1


def test_a_picture_that_is_being_looked_at_is_held_though_its_client_has_left(
    server: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, body = server.service, form([JPEG] * 5)
    begun, release = threading.Semaphore(0), threading.Event()

    def look(*_: object) -> None:
        begun.release()
        assert release.wait(60)

    monkeypatch.setattr(service.detector, "detect", look)
    head = f"POST /detect/batch HTTP/1.1\r\nHost: x\r\nContent-Type: {FORM['content-type']}\r\n"
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        assert all(begun.acquire(timeout=30) for _ in range(WORKERS))
    try:
        wait_until(lambda: service.uploads.held_bytes == service.batch_uploads.held_bytes == WORKERS * len(JPEG))
    finally:
        release.set()
    wait_until(lambda: service.uploads.held_bytes == service.batch_uploads.held_bytes == 0)


def test_time_outs(bundle: Bundle) -> None:
    with serving(bundle, request_timeout_s=0.2, workers=1, threads=1) as server:
        with server.busy_workers():
            assert_problem(post(server, [JPEG] * 3), 504, "deadline-exceeded")
        assert raw_exchange(server, form([JPEG])[:50], promised=100).startswith(b"HTTP/1.1 408 ")
        assert server.service.uploads.held_bytes == 0


def test_what_is_ready_at_the_deadline_is_answered_and_is_not_held_any_longer(bundle: Bundle) -> None:
    with serving(bundle, request_timeout_s=5, workers=1, threads=1) as server:
        pool, uploads, release = server.service.pool, server.service.uploads, threading.Event()

        async def hold() -> None:
            await pool.submit(lambda: release.wait(60), time.monotonic() + 60)

        with server.busy_workers():
            batch, results = in_background(lambda: post(server, [JPEG] * 3))
            wait_until(lambda: pool.waiting == 1)
            # Behind the first picture, before the second.
            holding = threading.Thread(target=lambda: asyncio.run(hold()))
            holding.start()
            wait_until(lambda: pool.waiting == 2)
        wait_until(lambda: uploads.held_bytes == len(form([JPEG] * 3)) - len(JPEG))
        batch.join()
        release.set()
        holding.join()
        answer = results[0].json()
    assert [result.get("type") for result in answer["results"]] == [None, *["urn:yolofold:deadline-exceeded"] * 2]
    assert answer["totals"]["failed"] == 2

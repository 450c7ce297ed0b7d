"""``GET /model/fold`` and ``POST /model/fold/check`` over a real socket."""

import json
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import httpx
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from PIL import Image

from service.api.fold_schemas import FoldAnswer, FoldCheckAnswer
from service.api.server import run_server
from service.bundle.store import Bundle, load_bundle, sha256_file
from service.errors import BundleUncertified, SelfCheckFailed
from service.inference.fold_check import ROUNDS
from service.preprocessing.letterbox import letterbox, plan_letterbox
from service.settings import load_settings
from tests.api.serving import Serving, assert_problem, serving, wait_until
from tests.bundles import change_both_graphs, change_constant, rehash
from tests.inference.pictures import encode, scene

LIMIT_BYTES, LIMIT_PIXELS = 4_000_000, 4_000_000
JPEG = encode(Image.fromarray(scene(300, 200)), "JPEG")
PICTURE = {"content-type": "image/jpeg"}
CHECK = "/model/fold/check"


@pytest.fixture(scope="module")
def server(bundle: Bundle) -> Iterator[Serving]:
    limits = {"max_upload_bytes": LIMIT_BYTES, "max_pixels": LIMIT_PIXELS, "workers": 2, "queue_size": 2, "threads": 2}
    with serving(bundle, **limits) as running:
        yield running


@pytest.fixture(scope="module")
def parcel(samples: list[Path]) -> bytes:
    """A picture in which the model finds several codes."""
    return next(path for path in samples if path.stem == "parcel").read_bytes()


def get_fold(server: Serving, **params: str) -> dict:
    response = server.client.get("/model/fold", params=params)
    assert response.status_code == 200, response.text
    assert response.headers["cache-control"] == "no-store"
    return response.json()


def post(server: Serving, content: bytes = JPEG, headers: dict | None = None, query: str = "") -> httpx.Response:
    return server.client.post(f"{CHECK}{query}", content=content, headers=PICTURE if headers is None else headers)


def check(server: Serving, content: bytes, query: str = "") -> dict:
    response = post(server, content, query=query)
    assert response.status_code == 200, response.text
    return response.json()


# --- the certificate ---------------------------------------------------------------------------------------


def test_the_certificate_is_the_bundles(server: Serving, bundle: Bundle) -> None:
    answer, certificate = get_fold(server), json.loads((bundle.path / "fold.json").read_text())
    assert answer["passed"] is certificate["passed"] is True
    assert [{k: v for k, v in layer.items() if k != "share"} for layer in answer["layers"]] == certificate["layers"]
    shares = {layer["name"]: layer["relative_error"] / layer["tolerance"] for layer in certificate["layers"]}
    assert {layer["name"]: layer["share"] for layer in answer["layers"]} == pytest.approx(shares)
    assert answer["worst_layer"] == max(shares, key=shares.__getitem__)
    whole, proofs = answer["end_to_end"], certificate["end_to_end"]
    assert whole["inputs"] == proofs
    assert whole["tolerance"] == certificate["end_to_end_tolerance"] >= whole["max_relative_difference"]
    assert whole["max_relative_difference"] == max(proof["raw_relative_error"] for proof in proofs)
    assert whole["max_absolute_difference"] == max(proof["raw_max_abs_error"] for proof in proofs)
    assert whole["max_box_difference_px"] == max(proof["max_box_error_px"] for proof in proofs)
    assert whole["max_confidence_difference"] == max(proof["max_confidence_error"] for proof in proofs)
    assert whole["detections"] == whole["matched"] == sum(proof["matched"] for proof in proofs) > 0
    assert whole["extra"] == 0


def test_it_names_the_files_it_is_about(server: Serving, bundle: Bundle, embedded_checkpoint: Path) -> None:
    answer = get_fold(server)
    assert answer["checkpoint"]["sha256"] == sha256_file(embedded_checkpoint)
    for name in ("reference", "deployed"):
        graph = answer["graphs"][name]
        path = bundle.path / graph["file"]
        model = onnx.load(path)
        assert graph == {
            "file": path.name,
            "opset": model.opset_import[0].version,
            "nodes": len(model.graph.node),
            "batch_normalization_nodes": sum(n.op_type == "BatchNormalization" for n in model.graph.node),
            "bytes": path.stat().st_size,
            "sha256": sha256_file(path),
        }
    assert answer["graphs"]["reference"]["batch_normalization_nodes"] == len(answer["layers"])
    assert answer["graphs"]["deployed"]["batch_normalization_nodes"] == 0


def test_what_was_not_folded_and_why(server: Serving, bundle: Bundle) -> None:
    left = get_fold(server)["not_folded"]
    assert len(left) == bundle.batchnorm.totals.dropped + bundle.batchnorm.totals.unfoldable > 0
    assert {entry["status"] for entry in left} == {"dropped"}
    assert all("one2one" in entry["reason"] for entry in left)


def test_the_startup_check_is_shown(server: Serving, bundle: Bundle) -> None:
    found, spec = get_fold(server)["startup_check"], bundle.self_check
    assert found["passed"] is True
    assert (found["input"], found["boxes"], found["matched"]) == (spec.input, spec.rows, spec.rows)
    assert found["highest_confidence"] is None
    assert (found["box_tolerance_px"], found["score_tolerance"]) == (spec.box_tolerance_px, spec.score_tolerance)
    assert 0 <= found["max_box_difference_px"] <= found["box_tolerance_px"]
    assert 0 <= found["max_score_difference"] <= found["score_tolerance"]
    assert found["duration_ms"] > 0
    assert (found["engine"], found["threads"]) == ("CPUExecutionProvider", 2)
    assert (found["runtime"], found["precision"]) == (f"ONNX Runtime {ort.__version__}", "fp32")


@pytest.mark.parametrize("by", ["name", "conv"])
def test_one_layer(server: Serving, by: str) -> None:
    whole = get_fold(server)
    layer = whole["layers"][7]
    answer = get_fold(server, layer=layer[by])
    assert answer["layers"] == [layer] and answer["not_folded"] == []
    assert answer["worst_layer"] == whole["worst_layer"]
    left = whole["not_folded"][0]
    answer = get_fold(server, layer=left["name"])
    assert answer["layers"] == [] and answer["not_folded"] == [left]


def test_failures_of_the_certificate(server: Serving, bundle: Bundle) -> None:
    name = bundle.batchnorm.layers[0].name
    response = server.client.get("/model/fold", params={"layer": f"{name}x"})
    assert name in assert_problem(response, 404, "layer-not-found", field="layer")["near"]
    response = server.client.get("/model/fold", params={"layers": name})
    assert_problem(response, 422, "unknown-parameter", field="layers")
    assert_problem(server.client.get(f"/model/fold?layer={name}&layer={name}"), 422, "invalid-parameter", field="layer")
    assert "GET" in assert_problem(server.client.post("/model/fold"), 405, "method-not-allowed")["detail"]
    assert "POST" in assert_problem(server.client.get(CHECK), 405, "method-not-allowed")["detail"]


# --- both graphs on one's own picture ----------------------------------------------------------------------


def plain_detections(bundle: Bundle, graph: Path, data: bytes, disabled: list[str]) -> np.ndarray:
    """(N, 6) rows above the default confidence, most confident first, in pixels, from a session of our own."""
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    height, width = image.shape[:2]
    plan = plan_letterbox(width, height, bundle.manifest.model.input.height)
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"], disabled_optimizers=disabled)
    rows = session.run(None, {"images": letterbox(image, plan)[None]})[0][0]
    rows = rows[rows[:, 4] > bundle.manifest.model.default_confidence].astype(np.float64)
    rows[:, :4] = (rows[:, :4] - [*plan.offset_xy] * 2) / (plan.resized_wh[0] / width)
    rows[:, :4] = rows[:, :4].clip(0, [width, height] * 2)
    return rows[np.argsort(-rows[:, 4], kind="stable")]


def test_both_graphs_answer_as_in_sessions_of_our_own(server: Serving, bundle: Bundle, parcel: bytes) -> None:
    answer = check(server, parcel)
    assert answer["model"] == get_fold(server)["model"]
    assert answer["image"] == {"width": 1280, "height": 960}
    assert (answer["conf"], answer["runs"]) == (bundle.manifest.model.default_confidence, ROUNDS)
    for name, graph, disabled in (
        ("reference", bundle.reference_graph, ["ConvBNFusion"]),
        ("deployed", bundle.deployed_graph, []),
    ):
        run, rows = answer[name], plain_detections(bundle, graph, parcel, disabled)
        assert run["file"] == graph.name
        assert run["batch_normalization_nodes"] == getattr(bundle.manifest, name).batch_normalization_nodes
        assert [d["class"] for d in run["detections"]] == rows[:, 5].tolist()
        assert [d["confidence"] for d in run["detections"]] == pytest.approx(rows[:, 4], abs=2e-6)
        boxes = [list(d["box"].values()) for d in run["detections"]]
        np.testing.assert_allclose(boxes, rows[:, :4], atol=2e-3)
        assert run["median_ms"] > 0
    assert answer["agrees"] is True
    assert answer["matched"] == len(answer["reference"]["detections"]) == len(answer["deployed"]["detections"]) > 2
    assert answer["only_in_reference"] == answer["only_in_deployed"] == answer["borderline"] == 0
    assert 0 < answer["max_box_difference_px"] < answer["tolerance"]["box_px"]
    assert 0 <= answer["max_confidence_difference"] < answer["tolerance"]["score"]


def test_the_deployed_side_is_what_detect_answers(server: Serving, parcel: bytes) -> None:
    for query in ("", "?conf=0.05", "?conf=1"):
        detected = server.client.post(f"/detect{query}", content=parcel, headers=PICTURE).json()
        answer = check(server, parcel, query)
        assert answer["deployed"]["detections"] == detected["detections"]
        assert answer["agrees"] is True
    assert answer["matched"] == 0 and answer["max_box_difference_px"] == 0


def test_every_way_to_send_gives_the_same_answer(server: Serving) -> None:
    ways = [
        post(server),
        post(server, headers={"content-type": "application/octet-stream"}),
        server.client.post(CHECK, files={"file": ("a.jpg", JPEG)}),
        server.client.post(CHECK, files={"image": ("a.jpg", JPEG)}),
    ]
    assert {way.status_code for way in ways} == {200}
    answers = [way.json() for way in ways]
    assert all(a["reference"]["detections"] == answers[0]["reference"]["detections"] for a in answers)


def test_a_wrong_fold_is_seen(bundle_path: Path, tmp_path: Path, parcel: bytes) -> None:
    """The reference on disk is changed behind the running service's back, which loads it for the check."""
    folder = Path(shutil.copytree(bundle_path, tmp_path / "bundle"))
    with serving(load_bundle(folder), workers=1, threads=1) as server:
        change_constant(folder / "reference.onnx", "network.model.4.cv1.bn.running_var", lambda values: values * 1.1)
        answer = check(server, parcel)
    assert answer["agrees"] is False
    # A sigmoid is nowhere steeper than 1/4: beyond this, no rounding of scores within the tolerance can explain it.
    beyond_rounding = answer["max_confidence_difference"] > answer["tolerance"]["score"] / 4
    assert beyond_rounding or answer["only_in_reference"] + answer["only_in_deployed"]


def one_channel(folder: Path) -> None:
    """A hundred-thousandth off, in one channel of one of 96 layers: no picture would show it."""

    def change(weight: np.ndarray) -> np.ndarray:
        weight[3] *= 1 + 1e-5
        return weight

    change_constant(folder / "model.onnx", "network.model.4.cv1.conv.weight", change)
    rehash(folder, "model.onnx")


@pytest.mark.parametrize(
    ("forge", "refusal", "words"),
    [
        (one_channel, BundleUncertified, r"/model\.4/cv1/conv/Conv.*in 1 of its channels, channel 3 first"),
        (lambda folder: change_both_graphs(folder, "model.4.cv1", 1.1), SelfCheckFailed, "Nothing is served"),
    ],
)
def test_forged_graphs_are_refused_before_the_port_opens(
    bundle_path: Path, tmp_path: Path, forge: Callable[[Path], None], refusal: type[Exception], words: str
) -> None:
    """All hashes fit: in the one the graphs do not fit each other, in the other they do, but not the stored boxes."""
    folder = Path(shutil.copytree(bundle_path, tmp_path / "bundle"))
    forge(folder)
    announced: list[str] = []
    with pytest.raises(refusal, match=words):
        run_server(load_settings({}, port=0), load_bundle(folder), announced.append)
    assert announced == []


@pytest.mark.parametrize(
    ("data", "status", "slug"),
    [
        (b"", 400, "empty-body"),
        (b"hello", 415, "unsupported-image"),
        (JPEG[:-20], 422, "broken-image"),
        (encode(Image.new("1", (2001, 2000)), "PNG"), 413, "image-too-large"),
        (JPEG.ljust(LIMIT_BYTES + 1, b"\0"), 413, "upload-too-large"),
    ],
)
def test_images(server: Serving, data: bytes, status: int, slug: str) -> None:
    assert_problem(post(server, data), status, slug)
    server.service.fold_checker.require_free()
    assert server.service.uploads.held_bytes == 0


@pytest.mark.parametrize(
    ("query", "slug", "field"),
    [
        ("?conf=2", "invalid-parameter", "conf"),
        ("?conf=nan", "invalid-parameter", "conf"),
        ("?conf=0.1&conf=0.2", "invalid-parameter", "conf"),
        ("?max_det=3", "unknown-parameter", "max_det"),
    ],
)
def test_parameters(server: Serving, query: str, slug: str, field: str) -> None:
    assert_problem(post(server, query=query), 422, slug, field=field)


def test_media_types(server: Serving) -> None:
    assert_problem(post(server, headers={"content-type": "text/plain"}), 415, "unsupported-media-type")


# --- load --------------------------------------------------------------------------------------------------


def test_one_check_at_a_time_and_detection_goes_on(server: Serving) -> None:
    with server.service.fold_checker.turn():
        document = assert_problem(post(server), 503, "overloaded")
        assert "one runs at a time" in document["detail"]
        assert server.client.post("/detect", content=JPEG, headers=PICTURE).status_code == 200
        assert server.client.get("/model/fold").status_code == 200
    assert post(server).status_code == 200


def test_a_full_queue_refuses_a_check_too(server: Serving) -> None:
    pool = server.service.pool
    with server.busy_workers():
        results: list[httpx.Response] = []
        waiting = [threading.Thread(target=lambda: results.append(post(server, query="?conf=1"))) for _ in range(1)]
        waiting += [
            threading.Thread(
                target=lambda: results.append(httpx.post(f"{server.url}/detect", content=JPEG, headers=PICTURE))
            )
        ]
        for thread in waiting:
            thread.start()
        wait_until(lambda: pool.waiting == 2)
        assert_problem(post(server), 503, "overloaded")
        assert server.client.get("/healthz").status_code == 200
    for thread in waiting:
        thread.join()
    assert [response.status_code for response in results] == [200, 200]


def test_a_live_request_waits_for_one_step_only(bundle: Bundle) -> None:
    """With a single worker, a detection sent during a check is answered before the check ends."""
    with serving(bundle, workers=1, threads=1) as server:
        order: list[str] = []

        def run_check() -> None:
            assert httpx.post(server.url + CHECK, content=JPEG, headers=PICTURE, timeout=60).status_code == 200
            order.append("check")

        thread = threading.Thread(target=run_check)
        thread.start()
        wait_until(lambda: server.service.pool.running == 1)
        assert server.client.post("/detect", content=JPEG, headers=PICTURE).status_code == 200
        order.append("detection")
        thread.join()
    assert order == ["detection", "check"]


def test_a_client_that_leaves_ends_its_check(server: Serving) -> None:
    head = f"POST {CHECK} HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: {len(JPEG)}\r\n\r\n"
    host, port = server.url.removeprefix("http://").split(":")
    with server.busy_workers():
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(head.encode() + JPEG)
            wait_until(lambda: server.service.pool.waiting == 1)
        wait_until(lambda: server.service.pool.waiting == 0)
        wait_until(lambda: server.service.uploads.held_bytes == 0)
        server.service.fold_checker.require_free()
    assert post(server).status_code == 200


def test_a_client_that_sends_slowly_does_not_keep_others_from_checking(server: Serving) -> None:
    head = f"POST {CHECK} HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: {len(JPEG)}\r\n\r\n"
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + JPEG[:100])
        wait_until(lambda: server.service.uploads.held_bytes == 100)
        assert post(server).status_code == 200
    wait_until(lambda: server.service.uploads.held_bytes == 0)


def test_time_outs(bundle: Bundle) -> None:
    with serving(bundle, request_timeout_s=0.2, workers=1) as server:
        with server.busy_workers():
            assert_problem(post(server), 504, "deadline-exceeded")
        server.service.fold_checker.require_free()


# --- the schema --------------------------------------------------------------------------------------------


def test_the_schema_describes_the_answers(server: Serving, parcel: bytes) -> None:
    document = server.client.get("/openapi.json").json()
    for path, method, model, answer in (
        ("/model/fold", "get", FoldAnswer, get_fold(server)),
        (CHECK, "post", FoldCheckAnswer, check(server, parcel)),
    ):
        operation = document["paths"][path][method]
        schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
        assert schema == {"$ref": f"#/components/schemas/{model.__name__}"}
        assert_described(answer, schema, document["components"]["schemas"])
    operation = document["paths"][CHECK]["post"]
    assert operation["requestBody"] == document["paths"]["/detect"]["post"]["requestBody"]
    assert {int(s) for s in operation["responses"]} == {200, 400, 408, 413, 415, 422, 500, 503, 504}
    assert "Retry-After" in operation["responses"]["503"]["headers"]
    assert [p["name"] for p in operation["parameters"]] == ["conf"]


def assert_described(value: object, schema: dict, schemas: dict) -> None:
    """Every field of an answer is in its schema and every required field of the schema in the answer."""
    schema = schemas[schema["$ref"].rsplit("/", 1)[1]] if "$ref" in schema else schema
    if isinstance(value, dict) and "properties" in schema:
        assert set(schema["required"]) <= set(value) <= set(schema["properties"])
        for name, part in value.items():
            assert_described(part, schema["properties"][name], schemas)
    elif isinstance(value, list):
        for part in value:
            assert_described(part, schema["items"], schemas)

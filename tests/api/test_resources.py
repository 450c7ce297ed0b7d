"""The other routes over a real socket, and the failures all routes share."""

import asyncio
import json
import re
import time
from collections.abc import Iterator
from importlib.metadata import version

import httpx
import numpy as np
import pytest

from service.api.page import WEB
from service.bundle.batchnorm import ARRAYS
from service.bundle.health import HEALTH_ARRAYS
from service.bundle.store import Bundle
from tests.api.serving import Serving, assert_problem, serving, wait_until

GETS = [
    "/model",
    "/model/layers",
    "/model/bn-stats",
    "/model/fold",
    "/model/drift",
    "/metrics",
    "/healthz",
    "/readyz",
    "/openapi.json",
    "/",
    "/docs",
]


@pytest.fixture(scope="module")
def server(bundle: Bundle) -> Iterator[Serving]:
    with serving(bundle, workers=1, threads=1) as running:
        yield running


def get_json(server: Serving, path: str, **params: str) -> dict:
    response = server.client.get(path, params=params)
    assert response.status_code == 200, response.text
    assert response.headers["cache-control"] == "no-store"

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(response.text, parse_constant=refuse)


def test_model(server: Serving, bundle: Bundle) -> None:
    answer, manifest = get_json(server, "/model"), bundle.manifest
    assert answer["source"] == manifest.weights.source
    assert answer["note"] == manifest.weights.note
    for part in ("model", "weights"):
        assert answer[part] == getattr(manifest, part).model_dump()
    assert answer["graphs"] == {
        "deployed": manifest.deployed.model_dump(),
        "reference": manifest.reference.model_dump(),
    }
    assert answer["tools"] == manifest.tools
    assert answer["engine"] == {
        "runtime": f"ONNX Runtime {version('onnxruntime')}",
        "provider": "CPUExecutionProvider",
        "precision": "fp32",
        "threads": 1,
        "threads_under_load": 1,
        "max_batch_size": 1,
        "workers": 1,
    }
    fold, totals = answer["fold"], bundle.batchnorm.totals
    assert (fold["folded"], fold["dropped"], fold["unfoldable"]) == (
        totals.folded,
        totals.dropped,
        totals.unfoldable,
    )
    assert fold["passed"] is True
    worst = next(p for p in bundle.certificate.layers if p.name == fold["worst_layer"])
    assert all(
        p.relative_error / p.tolerance <= worst.relative_error / worst.tolerance for p in bundle.certificate.layers
    )


def test_layers(server: Serving, bundle: Bundle) -> None:
    assert get_json(server, "/model/layers") == bundle.layers.model_dump(mode="json")


def test_bn_stats_summary(server: Serving, bundle: Bundle) -> None:
    answer = get_json(server, "/model/bn-stats")
    assert answer["totals"] == bundle.batchnorm.totals.model_dump()
    assert answer["latency"] == bundle.latency.model_dump(mode="json")
    assert set(answer["thresholds"]) == {
        "dead_channels",
        "eps_dominated_channels",
        "weak_channels",
        "expected_range",
        "fold_layer",
        "fold_end_to_end",
    }
    proofs = {proof.name: proof for proof in bundle.certificate.layers}
    assert answer["schema_version"] == 3
    assert answer["network"] == bundle.health.network.model_dump(mode="json")
    health = {layer.name: layer.model_dump(mode="json") for layer in bundle.health.layers}
    for found, stored in zip(answer["layers"], bundle.batchnorm.layers, strict=True):
        fold, _ = found.pop("fold"), found.pop("prunable_share")
        assert found.pop("health") == health[stored.name]
        assert found == stored.model_dump(mode="json")
        assert (fold is not None) == (stored.name in proofs) == (stored.status == "folded")
        if fold:
            proof = proofs[stored.name]
            assert fold == {k: getattr(proof, k) for k in ("max_abs_error", "relative_error", "tolerance", "passed")}


def test_bn_stats_in_full_has_every_array(server: Serving, bundle: Bundle) -> None:
    answer = get_json(server, "/model/bn-stats", detail="full")
    for found, stored in zip(answer["layers"], bundle.batchnorm.layers, strict=True):
        expected = bundle.batchnorm_arrays(stored.name, (*ARRAYS, *HEALTH_ARRAYS))
        assert set(found["arrays"]) == {*ARRAYS, *HEALTH_ARRAYS}
        for name, values in found["arrays"].items():
            assert len(values) == stored.channels
            finite = np.where(np.isfinite(expected[name]), expected[name], np.nan)
            np.testing.assert_array_equal(np.array(values, np.float32), finite)


@pytest.mark.parametrize("by", ["name", "conv"])
def test_bn_stats_of_one_layer(server: Serving, bundle: Bundle, by: str) -> None:
    layer = bundle.batchnorm.layers[1]
    answer = get_json(server, "/model/bn-stats", layer=getattr(layer, by), detail="full")
    assert [found["name"] for found in answer["layers"]] == [layer.name]
    assert len(answer["layers"][0]["arrays"]["gamma"]) == layer.channels
    assert "arrays" not in get_json(server, "/model/bn-stats", layer=getattr(layer, by))["layers"][0]


def test_bn_stats_failures(server: Serving, bundle: Bundle) -> None:
    name = bundle.batchnorm.layers[0].name
    document = assert_problem(
        server.client.get("/model/bn-stats", params={"layer": name.upper() + "x"}),
        404,
        "layer-not-found",
        field="layer",
    )
    assert name in document["near"]
    assert name in document["detail"]
    assert_problem(server.client.get("/model/bn-stats", params={"layer": ""}), 404, "layer-not-found", near=[])
    response = server.client.get("/model/bn-stats", params={"detail": "everything"})
    assert_problem(response, 422, "invalid-parameter", field="detail")
    response = server.client.get("/model/bn-stats", params={"layers": name})
    assert "Did you mean 'layer'" in assert_problem(response, 422, "unknown-parameter", field="layers")["detail"]


def test_probes(server: Serving) -> None:
    assert get_json(server, "/healthz") == {"status": "alive"}
    assert get_json(server, "/readyz") == {"status": "ready"}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_readiness_ends_with_a_worker(bundle: Bundle) -> None:
    def leave() -> None:
        raise SystemExit

    with serving(bundle, workers=2) as server:
        _run_on_pool(server, leave)
        wait_until(lambda: not server.service.pool.alive)
        assert_problem(server.client.get("/readyz"), 503, "not-ready")
        assert server.client.get("/healthz").status_code == 200


def _run_on_pool(server: Serving, work) -> None:
    async def submit() -> None:
        with pytest.raises(RuntimeError):
            await server.service.pool.submit(work, time.monotonic() + 30)

    asyncio.run(submit())


# --- what all routes share ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/nothing", "/detect/", "/model/", "/static/nothing.js", "/static/../errors.py", "/redoc"]
)
def test_unknown_paths(server: Serving, path: str) -> None:
    response = server.client.get(path)
    assert response.status_code == 404
    if not path.startswith("/static"):
        assert_problem(response, 404, "not-found")


@pytest.mark.parametrize("path", ["/static/%2e%2e/errors.py", "/static/..%2f..%2fetc/passwd", "/static//etc/passwd"])
def test_static_files_stay_in_their_folder(server: Serving, path: str) -> None:
    assert httpx.get(server.url + path).status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "allowed"), [("GET", "/detect", "POST")] + [("POST", p, "GET") for p in GETS]
)
def test_wrong_methods(server: Serving, method: str, path: str, allowed: str) -> None:
    response = server.client.request(method, path)
    assert allowed in assert_problem(response, 405, "method-not-allowed")["detail"]
    assert allowed in response.headers["allow"]


@pytest.mark.parametrize("path", [*GETS, "/model?x=1", "/model/bn-stats?layer=none", "/nothing", "/detect"])
def test_head_is_answered_like_get_without_a_body(server: Serving, path: str) -> None:
    full = server.client.get(path)
    # Metrics count the requests for them too, so their length grows.
    same = (
        ("content-type", "cache-control") if path == "/metrics" else ("content-type", "content-length", "cache-control")
    )
    # The connection is kept, so that a body sent nevertheless would be read as the next answer's head.
    for _ in range(2):
        head = server.client.head(path)
        assert head.status_code == full.status_code
        assert head.content == b""
        for name in same:
            assert head.headers.get(name) == full.headers.get(name)


@pytest.mark.parametrize("path", ["/model", "/model/layers"])
def test_unknown_parameters(server: Serving, path: str) -> None:
    assert (
        "takes none" in assert_problem(server.client.get(path + "?x=1"), 422, "unknown-parameter", field="x")["detail"]
    )


@pytest.mark.parametrize("path", GETS)
def test_security_headers(server: Serving, path: str) -> None:
    headers = server.client.get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]


# --- the page and the documentation ------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_pages_need_nothing_from_elsewhere(server: Serving, path: str) -> None:
    response = server.client.get(path)
    assert response.headers["content-type"].startswith("text/html")
    assert server.client.head(path).status_code == 200
    links = re.findall(r'(?:src|href)="([^"#]+)"', response.text)
    assert links
    for link in links:
        assert link.startswith("/")
        found = server.client.get(link)
        assert found.status_code == 200, link
        if link.startswith("/static/"):
            assert found.headers["cache-control"] == "no-cache"
            assert server.client.get(link, headers={"if-none-match": found.headers["etag"]}).status_code == 304
    assert "<style" not in response.text
    assert not re.search(r"\son\w+=", response.text)
    assert not re.search(r"<script(?![^>]*\ssrc=)", response.text)


def test_the_page_never_writes_markup_it_received() -> None:
    script = (WEB / "app.js").read_text()
    for dangerous in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert dangerous not in script


def test_every_element_the_script_looks_up_is_on_the_page() -> None:
    wanted = set(re.findall(r'\$\("([\w-]+)"\)', (WEB / "app.js").read_text()))
    present = set(re.findall(r'\sid="([\w-]+)"', (WEB / "index.html").read_text()))
    assert wanted <= present


METHODS = {
    "/detect": {"post"},
    "/detect/batch": {"post"},
    "/model/fold/check": {"post"},
    "/model/drift/image": {"post"},
    "/model/lint": {"post"},
    "/model/latency": {"get", "post", "delete"},
}


def test_openapi_is_complete(server: Serving) -> None:
    document = get_json(server, "/openapi.json")
    assert set(document["paths"]) == {
        "/detect",
        "/detect/batch",
        "/model",
        "/model/layers",
        "/model/bn-stats",
        "/model/fold",
        "/model/drift",
        "/model/drift/image",
        "/model/lint",
        "/metrics",
        "/model/fold/check",
        "/model/latency",
        "/model/bn-diff",
        "/healthz",
        "/readyz",
    }
    text = json.dumps(document)
    for reference in set(re.findall(r'"#/components/schemas/([^"]+)"', text)):
        assert reference in document["components"]["schemas"]
    assert "HTTPValidationError" not in text
    for path, operations in document["paths"].items():
        assert set(operations) == METHODS.get(path, {"get"})
        for operation in operations.values():
            assert operation["summary"] and operation["description"], path
            for status, response in operation["responses"].items():
                if int(status) >= 400:
                    assert set(response["content"]) == {"application/problem+json"}, (path, status)
    detect = document["paths"]["/detect"]["post"]
    assert {int(s) for s in detect["responses"]} == {200, 400, 406, 408, 413, 415, 422, 500, 503, 504}
    assert set(detect["requestBody"]["content"]) == {
        "image/*",
        "application/octet-stream",
        "multipart/form-data",
    }
    assert set(detect["responses"]["200"]["content"]) == {"application/json", "image/jpeg", "image/png"}
    assert [p["name"] for p in detect["parameters"]] == ["conf", "max_det", "classes"]
    assert set(document["components"]["schemas"]["Detection"]["properties"]) == {
        "name",
        "class",
        "confidence",
        "box",
    }

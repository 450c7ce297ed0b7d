"""``GET /metrics`` over a real socket, read with the library's own parser."""

import random
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import httpx
import pytest
from prometheus_client import parser
from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.samples import Sample

from service.api.counters import OTHER_METHOD, STAGES, UNKNOWN_ROUTE
from service.api.server import server_config
from service.bundle.store import Bundle
from service.settings import load_settings
from tests.api.serving import Serving, assert_problem, serving, serving_config, wait_until
from tests.conftest import ROOT

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]
PICTURE = {"content-type": "image/jpeg"}
MAX_UPLOAD_BYTES = 4_000_000


@pytest.fixture
def server(bundle: Bundle) -> Iterator[Serving]:
    with serving(bundle, workers=1, threads=1, queue_size=1, max_upload_bytes=MAX_UPLOAD_BYTES) as running:
        yield running


@pytest.fixture(scope="module")
def picture(samples: list[Path]) -> bytes:
    """A picture in which the model finds something."""
    return next(path for path in samples if path.stem != "negative").read_bytes()


def samples_of(text: str) -> list[Sample]:
    return [sample for family in parser.text_string_to_metric_families(text) for sample in family.samples]


def scrape(server: Serving) -> Series:
    response = server.client.get("/metrics")
    assert response.status_code == 200
    found = samples_of(response.text)
    series = {(sample.name, frozenset(sample.labels.items())): sample.value for sample in found}
    assert len(series) == len(found)  # none twice
    return series


def value(series: Series, name: str, **labels: str) -> float:
    """0 where there is no such series yet, as for ``rate``."""
    return series.get((name, frozenset(labels.items())), 0.0)


def requests(series: Series, route: str, method: str, status: int) -> float:
    return value(series, "yolofold_requests_total", route=route, method=method, status=str(status))


def detect(server: Serving, content: bytes, **headers: str) -> httpx.Response:
    return server.client.post("/detect", content=content, headers=PICTURE | headers)


def test_counters_move_by_exactly_what_was_sent(server: Serving, picture: bytes) -> None:
    sent = [
        ("GET", "/healthz", {}, "/healthz", "GET", 200),
        ("HEAD", "/healthz", {}, "/healthz", "GET", 200),
        ("GET", "/model?x=1", {}, "/model", "GET", 422),
        ("PUT", "/model/latency", {}, "/model/latency", "PUT", 405),
        ("GET", "/no/where", {}, UNKNOWN_ROUTE, "GET", 404),
        ("POST", "/static/app.js", {}, "/static", "POST", 405),
        ("GET", "/static/app.js", {}, "/static", "GET", 200),
        ("GET", "/static/none.js", {}, "/static", "GET", 404),
        ("GET", "/openapi.json", {}, "/openapi.json", "GET", 200),
        ("MKCOL", "/healthz", {}, "/healthz", OTHER_METHOD, 405),
        ("POST", "/detect", {"content": b"x", "headers": {"content-type": "text/plain"}}, "/detect", "POST", 415),
        ("POST", "/detect", {"content": bytes(MAX_UPLOAD_BYTES + 1), "headers": PICTURE}, "/detect", "POST", 413),
        ("POST", "/detect", {"content": picture, "headers": PICTURE}, "/detect", "POST", 200),
    ]
    expected: dict[tuple[str, str, int], int] = {("/metrics", "GET", 200): 1}  # the first scrape
    per_route: dict[str, int] = {"/metrics": 1}
    before = scrape(server)
    for round_ in range(1, 4):
        for method, path, extra, route, counted_as, status in sent[: 4 * round_ + 1]:
            assert server.client.request(method, path, **extra).status_code == status, (method, path)
            expected[route, counted_as, status] = expected.get((route, counted_as, status), 0) + 1
            per_route[route] = per_route.get(route, 0) + 1
    after = scrape(server)
    moved = {key: after[key] - before.get(key, 0.0) for key in after if key[0] == "yolofold_requests_total"}
    assert {key: rise for key, rise in moved.items() if rise} == {
        ("yolofold_requests_total", frozenset({"route": r, "method": m, "status": str(s)}.items())): count
        for (r, m, s), count in expected.items()
    }
    for route, count in per_route.items():
        for name in ("yolofold_request_seconds_count", "yolofold_request_seconds_bucket"):
            labels = {"route": route} | ({"le": "+Inf"} if name.endswith("bucket") else {})
            assert value(after, name, **labels) - value(before, name, **labels) == count, (name, route)
    assert value(after, "yolofold_requests_in_progress") == 1  # the scrape itself


def test_refusals_for_want_of_room_are_counted_and_the_queue_is_seen(server: Serving, picture: bytes) -> None:
    with server.busy_workers():
        waiting = Thread(target=lambda: detect(server, picture))
        waiting.start()
        wait_until(lambda: server.service.pool.waiting == 1)
        for _ in range(3):
            assert_problem(detect(server, picture), 503, "overloaded")
        during = scrape(server)
    waiting.join()
    after = scrape(server)
    assert requests(during, "/detect", "POST", 503) == requests(after, "/detect", "POST", 503) == 3
    assert value(during, "yolofold_requests_in_progress") == 2
    for name, busy, idle in (
        ("yolofold_queue_waiting", 1, 0),
        ("yolofold_queue_running", 1, 0),
        ("yolofold_workers", 1, 1),
        ("yolofold_upload_held_bytes", len(picture), 0),
        ("yolofold_ready", 1, 1),
    ):
        assert (value(during, name), value(after, name)) == (busy, idle), name
    assert requests(after, "/detect", "POST", 200) == value(after, "yolofold_stage_seconds_count", stage="queue") == 1


def test_stages_and_classes_are_what_the_answers_say(server: Serving, bundle: Bundle, picture: bytes) -> None:
    answers = [detect(server, picture).json() for _ in range(2)]
    after = scrape(server)
    for stage in STAGES:
        total = sum(answer["timing_ms"][stage] for answer in answers) / 1e3
        # The answers are rounded to a thousandth of a millisecond.
        assert value(after, "yolofold_stage_seconds_sum", stage=stage) == pytest.approx(total, abs=2e-6)
        assert value(after, "yolofold_stage_seconds_count", stage=stage) == 2
    found = [detection["name"] for answer in answers for detection in answer["detections"]]
    assert found
    for name in bundle.manifest.model.classes:
        assert after["yolofold_detections_total", frozenset({("class", name)})] == found.count(name)
    assert detect(server, picture, accept="image/png").headers["content-type"] == "image/png"
    drawn = scrape(server)
    for name in bundle.manifest.model.classes:
        assert value(drawn, "yolofold_detections_total", **{"class": name}) == found.count(name) * 3 / 2
    assert value(drawn, "yolofold_stage_seconds_count", stage="inference") == 3
    # What failed before the network ran has no stages.
    assert detect(server, picture[: len(picture) // 2]).status_code == 422
    assert value(scrape(server), "yolofold_stage_seconds_count", stage="decode") == 3


def test_random_paths_and_methods_make_no_series_of_their_own(server: Serving) -> None:
    def made(series: Series) -> set[tuple[str, frozenset[tuple[str, str]]]]:
        return {key for key in series if key[0].startswith("yolofold_request")}

    def probe(path: str, method: str = "GET") -> None:
        assert server.client.request(method, path).status_code in (404, 405, 422)

    choose = random.Random(5)
    for path, method in (
        ("/x", "GET"),
        ("/x", "LOCK"),
        ("/static/x", "GET"),
        ("/model", "LOCK"),
        ("/model?a=1", "GET"),
    ):
        probe(path, method)
    scrape(server)  # its own series
    before = scrape(server)
    for _ in range(60):
        word = "".join(choose.choices("abcdef(){}%2e.-", k=choose.randint(1, 30))).replace("%", "%25")
        probe(f"/{word}")
        probe(f"/model/{word}/{word}")
        probe(f"/static/{word}")
        probe(f"/model?{word}=1")
        probe(f"/{word}", choose.choice(["MKCOL", "PROPFIND", "REPORT", "UNLOCK"]))
        probe("/model", choose.choice(["MKCOL", "PROPFIND", "REPORT", "UNLOCK"]))
    after = scrape(server)
    assert made(after) == made(before)
    assert requests(after, UNKNOWN_ROUTE, "GET", 404) == requests(before, UNKNOWN_ROUTE, "GET", 404) + 120


def test_two_applications_in_one_process_count_for_themselves(bundle: Bundle) -> None:
    with serving(bundle, workers=1, threads=1) as one, serving(bundle, workers=2, threads=1) as other:
        for _ in range(3):
            one.client.get("/healthz")
        first, second = scrape(one), scrape(other)
    assert (requests(first, "/healthz", "GET", 200), requests(second, "/healthz", "GET", 200)) == (3, 0)
    assert (value(first, "yolofold_workers"), value(second, "yolofold_workers")) == (1, 2)


def test_what_is_served_is_named(server: Serving) -> None:
    model = server.client.get("/model").json()
    (labels,) = (dict(labels) for name, labels in scrape(server) if name == "yolofold_info")
    assert (labels["model"], labels["version"]) == (model["model"]["name"], model["model"]["version"])
    assert labels["engine"] == model["engine"]["provider"]
    assert labels["runtime"] == server.service.engine.runtime
    assert labels["service_version"]


def test_the_process_is_measured(server: Serving) -> None:
    resident = value(scrape(server), "process_resident_memory_bytes")
    status = Path("/proc/self/status").read_text()  # the server runs in this process
    now = int(status.split("VmRSS:")[1].split()[0]) * 1024
    assert resident == pytest.approx(now, rel=0.2)


def test_it_answers_before_the_service_is_ready(bundle: Bundle) -> None:
    config = server_config(load_settings({}), bundle)
    config.lifespan = "off"  # so nothing ever starts
    with serving_config(config) as server:
        assert_problem(server.client.get("/readyz"), 503, "not-ready")
        series = scrape(server)
    assert series["yolofold_ready", frozenset()] == 0
    assert requests(series, "/readyz", "GET", 503) == 1
    assert {"yolofold_info", "yolofold_queue_waiting"}.isdisjoint(name for name, _ in series)


def test_a_stopped_pool_is_not_ready(bundle: Bundle) -> None:
    with serving(bundle, workers=1, threads=1) as server:
        server.service.pool.close()
        assert_problem(server.client.get("/readyz"), 503, "not-ready")
        assert scrape(server)["yolofold_ready", frozenset()] == 0


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("*/*", "text/plain; version=0.0.4"),
        ("text/html", "text/plain; version=0.0.4"),
        ("text/plain; version=1.0.0", "text/plain; version=1.0.0"),
        (
            "application/openmetrics-text; version=1.0.0, text/plain; q=0.5",
            "application/openmetrics-text; version=1.0.0",
        ),
        ("application/openmetrics-text; version=x.y", "text/plain; version=0.0.4"),
    ],
)
def test_the_format_follows_accept(server: Serving, accept: str, content_type: str) -> None:
    response = server.client.get("/metrics", headers={"accept": accept})
    assert response.status_code == 200
    assert response.headers["content-type"].startswith(content_type)
    assert response.headers["cache-control"] == "no-store"
    if content_type.startswith("application"):
        families = list(openmetrics_parser.text_string_to_metric_families(response.text))
    else:
        families = list(parser.text_string_to_metric_families(response.text))
    assert "yolofold_ready" in {family.name for family in families}


def test_head_wrong_methods_and_parameters(server: Serving) -> None:
    head = server.client.head("/metrics")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == server.client.get("/metrics").headers["content-type"]
    refused = server.client.post("/metrics")
    assert "GET" in assert_problem(refused, 405, "method-not-allowed")["detail"]
    assert refused.headers["allow"] == "GET"
    assert_problem(server.client.get("/metrics?name=x"), 422, "unknown-parameter", field="name")


def test_openapi_describes_it(server: Serving) -> None:
    answer = server.client.get("/openapi.json").json()["paths"]["/metrics"]["get"]["responses"]
    assert set(answer["200"]["content"]) == {"text/plain", "application/openmetrics-text"}
    assert set(answer) == {"200", "422", "500"}


def test_readme_shows_an_answer(server: Serving, samples: list[Path]) -> None:
    readme = (ROOT / "README.md").read_text()
    shown = samples_of(readme.split("```text\n")[1].split("```")[0])
    (parcel,) = (path for path in samples if path.name == "parcel.jpg")
    assert detect(server, parcel.read_bytes()).status_code == 200
    given = scrape(server)
    for sample in shown:
        if sample.name not in ("yolofold_info", "yolofold_workers"):  # of this build and this machine
            assert given[sample.name, frozenset(sample.labels.items())] == sample.value, sample
    assert {sample.name for sample in shown} <= {name for name, _ in given}

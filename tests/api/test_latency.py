"""Measuring on the machine that serves: through a real server, with the real graphs."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.api import measuring
from service.bundle.latency import LatencyReport, Machine
from service.bundle.store import Bundle
from service.machine import usable_cores
from service.measurement.bench import staleness
from service.settings import MOST_DEFAULT_WORKERS
from tests.api.serving import Serving, assert_problem, serving, wait_until
from tests.tiny_graphs import Graphs


@pytest.fixture(scope="module")
def server(bundle: Bundle) -> Iterator[Serving]:
    with serving(bundle, device="cpu", max_batch_size=4) as running:
        yield running


def state(server: Serving) -> str:
    measured = server.client.get("/model/latency").json()["measured"]
    return "none" if measured is None else str(measured["state"])


def wait_for_end(server: Serving) -> dict[str, Any]:
    until = time.monotonic() + 600
    while state(server) == "running":
        assert time.monotonic() < until
        time.sleep(0.2)
    measured: dict[str, Any] = server.client.get("/model/latency").json()["measured"]
    return measured


def test_before_the_first_measurement_there_is_the_prepared_one(bundle: Bundle) -> None:
    with serving(bundle) as fresh:
        answer = fresh.client.get("/model/latency").json()
        assert LatencyReport.model_validate(answer["prepared"]) == bundle.latency
        assert (answer["measured"], answer["stale"], answer["stale_reasons"]) == (None, False, [])
        assert_problem(fresh.client.delete("/model/latency"), 404, "no-measurement")


def test_a_measurement_runs_to_its_end(server: Serving) -> None:
    started = server.client.post("/model/latency", params={"rounds": 12})
    assert (started.status_code, started.headers["location"]) == (202, "/model/latency")
    assert started.json()["measured"]["state"] == "running"
    assert_problem(server.client.post("/model/latency"), 409, "measurement-running")
    measured = wait_for_end(server)
    assert measured["state"] == "done", measured["reason"]
    report = LatencyReport.model_validate(measured["report"])
    assert measured["batches"] == [1]
    assert sum(series.rounds for series in report.series) == measured["rounds_done"] > 0
    assert report.threads == server.service.engine.threads
    on_cpu = [series for series in report.series if series.device == "cpu"]
    callers = min(usable_cores(), MOST_DEFAULT_WORKERS)
    assert callers < server.service.pool.workers, "some only fill batches"
    assert [(series.kind, series.batch, series.callers) for series in on_cpu] == [
        ("latency", 1, 1),
        ("throughput", 1, callers),
    ]
    assert {arm.precision for arm in on_cpu[0].arms if arm.engine == "openvino"} >= {"fp32"}
    own = ["folding_when_runtime_cannot", "folding_when_runtime_folds_itself"]
    own += ["preprocessing_in_graph", "without_preprocessing"]
    answered = [item.name for item in on_cpu[0].comparisons]
    assert answered[:4] == own, "what is served comes first, where the time does not do for all"
    assert answered[4:] and all("openvino" in name for name in answered[4:])
    assert on_cpu[1].comparisons[0].name == "folding_when_runtime_folds_itself"
    arms = [arm for series in report.series for arm in series.arms]
    assert {arm.engine for arm in arms} == {"onnxruntime", "openvino"}
    assert all(arm.median_ms > 0 and arm.load_ms > 0 for arm in arms)
    assert {item.batch for item in report.memory} == {1}
    reasons = {item.name: item.reason for item in report.not_measured}
    assert "torch" in reasons and reasons["cuda"].startswith("YOLOFOLD_DEVICE=cpu ")


def test_a_cancelled_measurement_ends_and_another_may_begin(server: Serving) -> None:
    started = server.client.post("/model/latency", params={"rounds": 300, "batch": [8, 1, 8]}).json()["measured"]
    assert (started["batches"], started["rounds_done"], started["report"]) == ([1, 8], 0, None)
    assert started["rounds_wanted"] == 300 * 2 * 2, "latency and throughput, at two sizes of batch"
    assert server.client.delete("/model/latency").status_code == 200
    measured = wait_for_end(server)
    assert (measured["state"], measured["report"]) == ("cancelled", None)
    assert measured["reason"]


def test_a_measurement_waits_for_requests(server: Serving) -> None:
    with server.busy_workers():
        server.client.post("/model/latency", params={"rounds": 12})
        time.sleep(0.5)  # it would have loaded a graph by then, had it not waited
        assert server.client.get("/model/latency").json()["measured"]["rounds_done"] == 0
        assert state(server) == "running"
    server.client.delete("/model/latency")
    wait_for_end(server)


def test_a_server_that_is_never_quiet_is_not_measured(server: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "PATIENCE_S", 0.2)
    with server.busy_workers():
        server.client.post("/model/latency")
        wait_until(lambda: state(server) != "running")
        measured = wait_for_end(server)
    assert measured["state"] == "failed"
    assert "no quiet moment" in measured["reason"]


def test_graphs_that_cannot_be_run_are_a_failed_measurement_with_the_reason(
    bundle_copy: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(bundle_copy) as running:
        tiny = Graphs(tmp_path)  # for pictures of another size than the bundle's, which only a run brings to light
        shutil.copy(tiny.reference, bundle_copy.reference_graph)
        shutil.copy(tiny.deployed, bundle_copy.deployed_graph)
        running.client.post("/model/latency", params={"rounds": 12})
        measured = wait_for_end(running)
    assert (measured["state"], measured["report"]) == ("failed", None)
    assert measured["reason"].startswith("ONNX Runtime cannot run ")
    assert not any(record.exc_info for record in caplog.records)


def test_requests_are_answered_meanwhile(server: Serving, samples: list) -> None:
    picture = samples[0].read_bytes()
    before = server.client.post("/detect", content=picture, headers={"content-type": "image/jpeg"}).json()
    server.client.post("/model/latency", params={"rounds": 300})
    for _ in range(5):
        during = server.client.post("/detect", content=picture, headers={"content-type": "image/jpeg"})
        assert during.status_code == 200
        assert during.json()["detections"] == before["detections"]
    assert state(server) == "running"
    server.client.delete("/model/latency")
    wait_for_end(server)


def test_stopping_the_server_ends_a_measurement(bundle: Bundle) -> None:
    with serving(bundle) as running:
        running.client.post("/model/latency", params={"rounds": 300})
        station = running.service.latency
    assert station.latest is not None and station.latest.state == "cancelled"


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("rounds=11", "rounds"),
        ("rounds=301", "rounds"),
        ("batch=0", "batch"),
        ("batch=9", "batch"),
        ("batch=x", "batch"),
        ("batch=1&batch=9", "batch"),
        ("batch=1" + 8 * "&batch=1", "batch"),
    ],
)
def test_bad_parameters_are_named(server: Serving, query: str, field: str) -> None:
    assert_problem(server.client.post(f"/model/latency?{query}"), 422, "invalid-parameter", field=field)


def test_unknown_parameters_are_refused(server: Serving) -> None:
    assert_problem(server.client.post("/model/latency?round=12"), 422, "unknown-parameter", field="round")
    assert_problem(server.client.get("/model/latency?rounds=12"), 422, "unknown-parameter", field="rounds")


def test_another_machine_makes_a_report_stale(bundle: Bundle) -> None:
    here = bundle.latency.machine
    assert staleness(bundle.latency, here) == []
    elsewhere = Machine(**here.model_dump() | {"cpu": "Another", "cores": here.cores + 14})
    assert staleness(bundle.latency, elsewhere) == [
        f"processor: {here.cpu} when measured, Another here",
        f"usable cores: {here.cores} when measured, {here.cores + 14} here",
    ]

"""``GET /model/bn-stats`` of a network with planted faults: chosen, ordered, counted and exported."""

import csv
import io
import statistics
from collections.abc import Iterator
from typing import Any, get_args

import httpx
import numpy as np
import pytest

from service.bundle.health import SEVERITIES, WARNING_KINDS, WarningCode
from service.bundle.store import Bundle
from service.observatory.selection import SortKey
from tests.api.serving import Serving, assert_problem, serving
from tests.faults import COLLAPSED, DROPPED, EXACT, FROZEN, HUGE, TINY, UNCALIBRATED, VICTIM, WIDE

PATH = "/model/bn-stats"


@pytest.fixture(scope="module")
def server(faulty_bundle: Bundle) -> Iterator[Serving]:
    with serving(faulty_bundle, workers=1, threads=1) as running:
        yield running


def ask(server: Serving, **params: str | float) -> dict[str, Any]:
    response = server.client.get(PATH, params=params)
    assert response.status_code == 200, response.text
    return response.json()


def names(answer: dict[str, Any]) -> list[str]:
    return [layer["name"] for layer in answer["layers"]]


def test_the_planted_faults_are_warned_of_in_words(server: Serving) -> None:
    warnings = ask(server)["warnings"]
    found = {(w["code"], w["layer"]) for w in warnings if w["severity"] == "critical"}
    assert found == {
        ("collapsed-layer", COLLAPSED),
        ("frozen-batchnorm", FROZEN),
        ("uncalibrated-batchnorm", UNCALIBRATED),
        ("fp16-variance-overflow", HUGE),
    }
    assert {("tiny-variance", TINY), ("int8-wide-range", WIDE)} <= {(w["code"], w["layer"]) for w in warnings}
    for warning in warnings:
        assert set(warning) == {"code", "severity", "layer", "message", "action"}
        assert warning["message"] and warning["action"] == WARNING_KINDS[warning["code"]].action
    ranks = [SEVERITIES.index(w["severity"]) for w in warnings]
    assert ranks == sorted(ranks)


def test_the_ledger_comes_with_full_detail_only(server: Serving) -> None:
    assert "ledger" not in ask(server, layer=EXACT)["layers"][0]
    (entry,) = ask(server, layer=EXACT, detail="full")["layers"][0]["ledger"]
    assert (entry["channel"], entry["removal"]) == (VICTIM, "exact")
    assert [reader["conv"] for reader in entry["readers"]] == ["model.2.cv2.conv"]
    assert ask(server, layer=DROPPED, detail="full")["layers"][0]["ledger"] == []


@pytest.mark.parametrize("stage", ["backbone", "neck", "head"])
def test_layers_of_one_stage(server: Serving, faulty_bundle: Bundle, stage: str) -> None:
    answer = ask(server, stage=stage)
    assert names(answer) == [layer.name for layer in faulty_bundle.batchnorm.layers if layer.stage == stage]
    assert {w["layer"] for w in answer["warnings"]} <= set(names(answer))


def test_layers_of_one_status(server: Serving, faulty_bundle: Bundle) -> None:
    answer = ask(server, status="dropped")
    assert names(answer) == [layer.name for layer in faulty_bundle.batchnorm.layers if layer.status == "dropped"]
    assert answer["warnings"] == []
    assert names(ask(server, status="unfoldable")) == []


@pytest.mark.parametrize("code", get_args(WarningCode))
def test_layers_with_one_warning(server: Serving, faulty_bundle: Bundle, code: str) -> None:
    answer = ask(server, warning=code)
    warned = {w.layer for w in faulty_bundle.health.warnings if w.code == code}
    assert set(names(answer)) == warned - {None}
    assert {w["code"] for w in answer["warnings"]} == ({code} if warned else set())


def test_layers_with_warnings_at_least_as_severe(server: Serving) -> None:
    critical, warning, info = (ask(server, severity=severity) for severity in SEVERITIES)
    assert set(names(critical)) == {COLLAPSED, FROZEN, UNCALIBRATED, HUGE}
    assert {w["severity"] for w in critical["warnings"]} == {"critical"}
    assert {w["severity"] for w in warning["warnings"]} == {"critical", "warning"}
    assert set(names(critical)) < set(names(warning)) <= set(names(info))


FIGURES = {
    "execution": lambda entry: entry["health"]["execution_index"],
    "channels": lambda entry: entry["channels"],
    "abs_gamma": lambda entry: entry["health"]["abs_gamma"]["p50"],
    "min_var": lambda entry: entry["running_var"]["min"],
    "max_var": lambda entry: entry["running_var"]["max"],
    "dead_share": lambda entry: entry["health"]["dead_share"],
    "eps_dominated_share": lambda entry: entry["health"]["eps_dominated_share"],
    "weak_share": lambda entry: entry["health"]["weak_share"],
    "prunable_share": lambda entry: entry["prunable_share"],
    "range_ratio": lambda entry: (entry["health"]["weights"] or {}).get("range_ratio"),
    "sqnr_per_tensor": lambda entry: (entry["health"]["weights"] or {}).get("sqnr_per_tensor_db"),
    "sqnr_per_channel": lambda entry: (entry["health"]["weights"] or {}).get("sqnr_per_channel_db"),
}


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("key", FIGURES)
def test_layers_are_sorted_and_those_without_the_figure_come_last(server: Serving, key: str, order: str) -> None:
    layers = ask(server, sort=key, order=order)["layers"]
    figures = [FIGURES[key](entry) for entry in layers]
    known = [figure for figure in figures if figure is not None]
    assert figures == known + [None] * (len(figures) - len(known))
    assert known == sorted(known, reverse=order == "desc")
    assert len(set(known)) > 1


def test_every_sort_key_is_tested() -> None:
    assert set(get_args(SortKey)) == {*FIGURES, "checkpoint", "name", "severity"}


def test_names_are_sorted_as_people_count(server: Serving, faulty_bundle: Bundle) -> None:
    found = names(ask(server, sort="name"))
    blocks = [int(name.split(".")[1]) for name in found]
    assert blocks == sorted(blocks) and found.index("model.2.cv1.bn") < found.index("model.10.cv1.bn")
    assert names(ask(server, sort="name", order="desc")) == found[::-1]
    assert names(ask(server)) == [layer.name for layer in faulty_bundle.batchnorm.layers]


def test_the_most_severe_come_first(server: Serving) -> None:
    assert set(names(ask(server, sort="severity"))[:4]) == {COLLAPSED, FROZEN, UNCALIBRATED, HUGE}


def gammas(bundle: Bundle) -> dict[str, np.ndarray]:
    return {
        layer.name: np.abs(bundle.batchnorm_arrays(layer.name, ("gamma",))["gamma"].astype(np.float64))
        for layer in bundle.batchnorm.layers
    }


@pytest.mark.parametrize(
    ("params", "threshold"), [({}, 0.01), ({"prune_threshold": 0.9}, 0.9), ({"prune_percentile": 25}, None)]
)
def test_prunable_channels(
    server: Serving, faulty_bundle: Bundle, params: dict[str, float], threshold: float | None
) -> None:
    answer, found = ask(server, **params), gammas(faulty_bundle)
    kept = np.concatenate([found[layer.name] for layer in faulty_bundle.batchnorm.layers if layer.status != "dropped"])
    if threshold is None:
        threshold = statistics.quantiles(kept.tolist(), n=4, method="inclusive")[0]
    assert answer["prunable"]["threshold"] == pytest.approx(threshold)
    assert answer["prunable"]["percentile"] == params.get("prune_percentile")
    assert answer["prunable"]["channels"] == (kept <= threshold).sum() > 0
    assert answer["prunable"]["share"] == pytest.approx((kept <= threshold).mean())
    for entry in answer["layers"]:
        assert entry["prunable_share"] == pytest.approx((found[entry["name"]] <= threshold).mean())


# --- CSV ---------------------------------------------------------------------------------------------------


def table(response: httpx.Response) -> list[dict[str, str]]:
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/csv; charset=utf-8"
    return list(csv.DictReader(io.StringIO(response.text)))


def test_csv_has_a_row_per_layer(server: Serving) -> None:
    params = {"sort": "min_var", "stage": "neck"}
    rows = table(server.client.get(PATH, params=params, headers={"Accept": "text/csv"}))
    layers = ask(server, **params)["layers"]
    assert [row["name"] for row in rows] == [layer["name"] for layer in layers]
    for row, layer in zip(rows, layers, strict=True):
        assert float(row["running_var_min"]) == layer["running_var"]["min"]
        assert int(row["channels"]) == layer["channels"]
        assert float(row["weights_sqnr_per_channel_db"]) == layer["health"]["weights"]["sqnr_per_channel_db"]
        assert row["collapsed"] == str(layer["health"]["collapsed"])
        found = [float(row[f"abs_gamma_{at}"]) for at in ("p05", "p25", "median", "p75", "p95")]
        assert found == [layer["health"]["abs_gamma"][at] for at in ("p05", "p25", "p50", "p75", "p95")]


def test_csv_leaves_empty_what_does_not_exist(server: Serving) -> None:
    (row,) = table(server.client.get(PATH, params={"layer": DROPPED}, headers={"Accept": "text/csv"}))
    assert (row["status"], row["execution_index"], row["weights_after_min"], row["warnings"]) == ("dropped", "", "", "")
    assert "one2one head is kept" in row["reason"]


def test_csv_in_full_has_a_row_per_channel(server: Serving, faulty_bundle: Bundle) -> None:
    params = {"layer": EXACT, "detail": "full"}
    rows = table(server.client.get(PATH, params=params, headers={"Accept": "text/csv"}))
    expected = faulty_bundle.batchnorm_arrays(EXACT, ("running_var", "law_std"))
    assert [int(row["channel"]) for row in rows] == list(range(len(expected["law_std"])))
    for key, values in expected.items():
        np.testing.assert_array_equal(np.array([row[key] for row in rows], np.float32), values)
    assert [row["removal"] for row in rows if row["dead"] == "True"] == ["exact"]


# --- failures ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"sort": "size"}, "sort"),
        ({"order": "down"}, "order"),
        ({"stage": "tail"}, "stage"),
        ({"status": "lost"}, "status"),
        ({"warning": "dead"}, "warning"),
        ({"severity": "fatal"}, "severity"),
        ({"prune_threshold": "-1"}, "prune_threshold"),
        ({"prune_threshold": "nan"}, "prune_threshold"),
        ({"prune_threshold": "inf"}, "prune_threshold"),
        ({"prune_percentile": "101"}, "prune_percentile"),
        ({"prune_percentile": "nan"}, "prune_percentile"),
        ({"prune_percentile": "5", "prune_threshold": "0.1"}, "prune_percentile"),
    ],
)
def test_values_that_are_not_allowed(server: Serving, params: dict[str, str], field: str) -> None:
    assert_problem(server.client.get(PATH, params=params), 422, "invalid-parameter", field=field)


def test_parameters_may_be_given_once(server: Serving) -> None:
    response = server.client.get(PATH + "?sort=name&sort=name")
    assert_problem(response, 422, "invalid-parameter", field="sort")


def test_other_representations_are_not_offered(server: Serving) -> None:
    response = server.client.get(PATH, headers={"Accept": "image/png"})
    assert "text/csv" in assert_problem(response, 406, "not-acceptable")["detail"]


def test_a_layer_that_is_not_there(server: Serving) -> None:
    for accept in ("application/json", "text/csv"):
        response = server.client.get(PATH, params={"layer": "model.2.cv1"}, headers={"Accept": accept})
        assert EXACT in assert_problem(response, 404, "layer-not-found", field="layer")["near"]

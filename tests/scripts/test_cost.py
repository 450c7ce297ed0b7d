"""The curves of cost: what is sent, and what is drawn. Load and servers are those of the benchmark."""

import math
import os
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import httpx
import pytest

from scripts.bench.closed_loop import LoadFailed
from scripts.bench.open_loop import OpenLoop
from scripts.bench.upload import CONTENT_TYPE
from scripts.cost.__main__ import parse_arguments
from scripts.cost.drawing import draw_curve, draw_memory, draw_overload, draw_sheet
from scripts.cost.lag import GOAL_S, lag_buckets, largest_picture, measure_lag, summarise
from scripts.cost.load import answered_per_s, measure_load
from scripts.cost.measuring import Memory, Point, measure_curve
from scripts.cost.overload import Overload, measure_overload
from scripts.cost.spots import OBJECTS, Curve, plan_curves
from tests.conftest import RunningServer
from tests.scripts import stand_in_wrk


@pytest.fixture(scope="module")
def curves() -> dict[str, Curve]:
    bundle = Path("bundle")
    return {curve.name: curve for curve in plan_curves(bundle, {"n": bundle, "s": Path("other")}, 2)}


def test_the_answers_have_as_many_objects_as_the_curve_says(curves: dict[str, Curve], server: RunningServer) -> None:
    found = []
    for spot in curves["objects"].spots:
        headers = {"Content-Type": CONTENT_TYPE}
        answer = httpx.post(f"{server.url}/detect{spot.query}", content=spot.body, headers=headers, timeout=60)
        found.append(len(answer.raise_for_status().json()["detections"]))
    assert tuple(found) == OBJECTS
    assert [spot.label for spot in curves["objects"].spots] == [str(count) for count in OBJECTS]


def test_spots_of_a_curve_differ_in_one_thing(curves: dict[str, Curve]) -> None:
    varies = {"concurrency": "connections", "picture": "body", "objects": "query", "cores": "cores", "scale": "bundle"}
    assert set(curves) == set(varies)
    for name, curve in curves.items():
        spots = [vars(spot) for spot in curve.spots]
        assert len({str(spot[varies[name]]) for spot in spots}) == len(spots) > 1
        for key in set(spots[0]) - {"label", varies[name]}:
            assert len({str(spot[key]) for spot in spots}) == 1, f"{key} of {name}"


def test_one_scale_is_no_curve() -> None:
    assert "scale" not in {curve.name for curve in plan_curves(Path("bundle"), {"n": Path("bundle")}, 2)}


def test_spots_of_one_server_are_loaded_by_turns_after_a_warm_up(
    curves: dict[str, Curve], bundle_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = stand_in_wrk.install(tmp_path, monkeypatch, answers=1)
    cores = sorted(os.sched_getaffinity(0))
    few, many = (replace(spot, bundle=bundle_path, cores=len(cores)) for spot in curves["objects"].spots[1:3])
    said: list[str] = []
    points = measure_curve(replace(curves["objects"], spots=(few, many)), cores, 1, 7, tmp_path, said.append)
    assert [point.label for point in points] == [few.label, many.label]
    assert all(0 < point.least == point.images_per_s == point.greatest for point in points)  # of the one round
    calls = stand_in_wrk.read_calls(notes)
    assert len({call.port for call in calls}) == 1 and all("-d7s" in call.options for call in calls)
    queries = [call.url.partition("/detect")[2] for call in calls]
    assert len(queries) == len(said) * 2 == 4 and set(queries[:2]) == set(queries[2:]) == {few.query, many.query}


def test_paced_loads_are_shares_of_what_the_server_can_answer(
    curves: dict[str, Curve], bundle_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = stand_in_wrk.install(tmp_path, monkeypatch, answers=8)
    cores = sorted(os.sched_getaffinity(0))
    spot = replace(curves["concurrency"].spots[0], bundle=bundle_path, cores=len(cores))
    points = measure_load(spot, cores, 2, 1, tmp_path, lambda line: None, shares=(25, 50))
    calls = stand_in_wrk.read_calls(notes)
    assert len(calls) == 3 and all("-c16" in call.options and "-d1s" in call.options for call in calls)
    assert [point.label for point in points] == ["25", "50"]
    quarter, half = points
    assert 0 < quarter.least <= quarter.images_per_s <= quarter.greatest
    assert quarter.images_per_s < half.images_per_s
    assert all(0 < point.p50_ms <= point.p99_ms < float("inf") for point in points)


@pytest.mark.parametrize(
    ("latencies_ms", "expected"),
    [
        ([50.0, 50.0, 50.0, 50.0], 10.0),  # keeps pace: all are answered before the next one would be due
        ([50.0, 50.0, 50.0, 500.0], 4 / 0.8),  # the last one comes 0.8 s after the start
        ([900.0, 50.0, 50.0, 50.0], 4 / 0.9),  # as late as the latest
    ],
)
def test_no_more_is_answered_than_was_asked_for(latencies_ms: list[float], expected: float) -> None:
    assert answered_per_s(OpenLoop(10.0, latencies_ms, 0.0)) == pytest.approx(expected)


def test_what_is_never_answered_has_no_rate() -> None:
    with pytest.raises(LoadFailed, match=r"requests at 10\.0 a second were left without an answer"):
        answered_per_s(OpenLoop(10.0, [50.0, math.inf], 0.0))


def test_what_is_more_than_the_server_can_answer_is_refused(
    curves: dict[str, Curve], bundle_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = stand_in_wrk.install(tmp_path, monkeypatch, answers=8)
    cores = sorted(os.sched_getaffinity(0))
    spot = replace(curves["concurrency"].spots[0], bundle=bundle_path, cores=len(cores))
    said: list[str] = []
    few, many = measure_overload(spot, cores, 1, 1, tmp_path, said.append, factors=(1, 20))
    calls = stand_in_wrk.read_calls(notes)
    assert len(calls) == len(said) == 2 and all("-c16" in call.options and "-d1s" in call.options for call in calls)
    assert (few.factor, many.factor) == (1, 20) and few.capacity_per_s == many.capacity_per_s > 0
    # Beyond what is worked on and the 64 that may wait, all are refused; nothing else goes wrong.
    assert few.failed_share == many.failed_share == 0
    assert many.refused_share > few.refused_share and many.refused_share > 0.5
    assert many.requests == pytest.approx(20 * few.requests, rel=0.1)
    assert many.refused_p50_ms is not None and many.refused_p99_ms is not None
    assert 0 < many.refused_p50_ms <= many.refused_p99_ms < float("inf")
    for load in (few, many):
        assert 0 < load.least == load.answered_share == load.greatest  # of the one round
        assert 50 < load.before_mb < 2000 and 50 < load.after_mb < 2000


OVERLOAD = [
    Overload(1, 20.0, 0.99, 0.97, 1.0, 180, 0.0, 0.0, None, None, 1.0, 200.0, 210.0),
    Overload(4, 20.0, 0.98, 0.96, 0.99, 720, 0.7, 0.0, 3.0, 9.0, 1.0, 210.0, 211.0),
]


def test_overload_is_told_in_words() -> None:
    assert "no 503" in OVERLOAD[0].words
    assert "70.0% refused" in OVERLOAD[1].words and "p50 3, p99 9 ms" in OVERLOAD[1].words


def test_the_lag_is_what_the_server_counts_during_each_load(
    curves: dict[str, Curve], bundle_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = stand_in_wrk.install(tmp_path, monkeypatch, answers=8)
    cores = sorted(os.sched_getaffinity(0))
    spot = replace(curves["concurrency"].spots[0], bundle=bundle_path, cores=len(cores))
    said: list[str] = []
    plain, mixed = measure_lag(spot, cores, 1, tmp_path, said.append)
    assert [call.options[2] for call in stand_in_wrk.read_calls(notes)] == ["-d1s", "-d5s", "-d5s"]
    assert len(said) == 2 and "MB" not in plain.load and "MB" in mixed.load
    assert plain.uploads == 0 < mixed.uploads
    for lag in (plain, mixed):
        assert lag.looks > 2 and lag.load in lag.words
        assert lag.p99_ms is not None and lag.most_ms is not None and 0 < lag.p99_ms <= lag.most_ms
        assert (lag.over_goal > 0) == (lag.most_ms > GOAL_S * 1e3)


def test_lags_are_told_by_the_edges_of_their_buckets() -> None:
    text = "".join(
        f'yolofold_event_loop_lag_seconds_bucket{{le="{edge}"}} {count}\n'
        for edge, count in (("0.001", 10), ("0.02", 12), ("0.05", 13), ("+Inf", 14))
    )
    before = lag_buckets(f"# TYPE yolofold_event_loop_lag_seconds histogram\n{text}")
    assert list(before) == [0.001, GOAL_S, 0.05, math.inf]
    after = {0.001: 209, GOAL_S: 211, 0.05: 213, math.inf: 214}
    lag = summarise("load", before, after, 3)
    assert (lag.looks, lag.p99_ms, lag.most_ms, lag.over_goal, lag.uploads) == (200, 1.0, 50.0, 1, 3)
    beyond = summarise("load", before, after | {math.inf: 300}, 0)
    assert beyond.p99_ms is beyond.most_ms is None and "off the scale" in beyond.words
    with pytest.raises(LoadFailed):
        summarise("load", before, before, 0)


def test_the_largest_picture_fills_the_limit() -> None:
    assert 0.97 < len(largest_picture(2_000_000)) / 2_000_000 < 1


def test_charts_are_whole_svg_and_the_same_for_the_same_figures(curves: dict[str, Curve], tmp_path: Path) -> None:
    points = [Point(spot.label, 20.0, 19.0, 21.0, 100.0, 150.0) for spot in curves["picture"].spots]
    for name in ("one.svg", "two.svg"):
        draw_curve(curves["picture"], points, tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    assert ElementTree.parse(tmp_path / "one.svg").getroot().tag.endswith("svg")
    draw_memory(Memory([0.0, 1.0], [200.0, 210.0]), tmp_path / "memory.svg")
    draw_overload(OVERLOAD, tmp_path / "overload.svg")
    for name in ("memory.svg", "overload.svg"):
        assert ElementTree.parse(tmp_path / name).getroot().tag.endswith("svg")


@pytest.mark.parametrize("memory", [None, Memory([0.0, 1.0], [200.0, 210.0])])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_sheet_holds_every_chart(
    curves: dict[str, Curve], tmp_path: Path, count: int, memory: Memory | None
) -> None:
    drawn = []
    for curve in list(curves.values())[:count]:
        drawn.append((curve, [Point(spot.label, 20.0, 19.0, 21.0, 100.0, 150.0) for spot in curve.spots]))
    draw_sheet(drawn, OVERLOAD, memory, tmp_path / "all.svg")
    groups = {group.get("id", "") for group in ElementTree.parse(tmp_path / "all.svg").getroot().iter()}
    # Every curve has a second axis for latency, overload too.
    assert sum(name.startswith("axes_") for name in groups) == 2 * (count + 1) + (memory is not None)


@pytest.mark.parametrize("wrong", [["--rounds", "0"], ["--minutes", "-1"], ["--scale", "n="]])
def test_useless_arguments_are_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_arguments(["--bundle", "bundle", *wrong])
    assert "error" in capsys.readouterr().err

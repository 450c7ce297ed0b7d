"""The benchmark's pure parts: agreement of answers, wrk's figures, statistics, plan, report."""

import json
import math
import os
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest

from scripts.bench.__main__ import choose_servers, parse_arguments, plan_cells
from scripts.bench.answers import Found, WrongAnswer, iou, read_answer, require_same
from scripts.bench.chart import draw
from scripts.bench.closed_loop import ClosedLoop, LoadFailed, parse_figures
from scripts.bench.comparison import compare
from scripts.bench.document import document
from scripts.bench.installed import installed_bytes
from scripts.bench.open_loop import OpenLoop
from scripts.bench.pictures import DEFAULT, make_picture
from scripts.bench.report import Results, markdown
from scripts.bench.rounds import CannotBenchmark, Ceiling, Cell, Expected, Findings, Plan, Visit
from scripts.bench.runs_on import RunsOn, read_runs_on
from scripts.bench.servers import HERE, REFERENCE, ULTRALYTICS, describe, our_servers, peers, reference_server
from scripts.bench.summary import percentile, ratio_to, summarise
from service.machine import BUSY_SHARE
from service.settings import load_settings
from tests.conftest import ROOT

THRESHOLD = 0.4
BOX = Found(1, 0.9, (100.0, 100.0, 300.0, 200.0))


def test_small_differences_are_the_same_answer() -> None:
    # 4 px of 200 are shifted: IoU 196 / 204 = 0.961.
    require_same([Found(1, 0.885, (104.0, 100.0, 304.0, 200.0))], [BOX], THRESHOLD)


@pytest.mark.parametrize(
    "other",
    [
        Found(2, 0.9, BOX.xyxy),
        Found(1, 0.875, BOX.xyxy),
        Found(1, 0.9, (106.0, 100.0, 306.0, 200.0)),  # IoU 194 / 206 = 0.942
    ],
    ids=["class", "confidence", "place"],
)
def test_another_box_is_a_wrong_answer(other: Found) -> None:
    with pytest.raises(WrongAnswer):
        require_same([other], [BOX], THRESHOLD)


@pytest.mark.parametrize("sides", [([], [BOX]), ([BOX], []), ([BOX, BOX], [BOX])], ids=["lacks", "surplus", "twice"])
def test_every_box_has_one_partner(sides: tuple[list[Found], list[Found]]) -> None:
    with pytest.raises(WrongAnswer):
        require_same(*sides, THRESHOLD)


def test_a_box_at_the_threshold_may_be_missing() -> None:
    at_threshold = Found(1, THRESHOLD + 0.019, BOX.xyxy)
    require_same([], [at_threshold], THRESHOLD)
    require_same([at_threshold], [], THRESHOLD)
    with pytest.raises(WrongAnswer):
        require_same([], [Found(1, THRESHOLD + 0.021, BOX.xyxy)], THRESHOLD)


@pytest.mark.parametrize("body", [b"no json", b"{}", b'{"detections": [{"class": 1}]}', b"[]"])
def test_an_answer_of_another_form_is_wrong(body: bytes) -> None:
    with pytest.raises(WrongAnswer):
        read_answer(body)


def test_iou() -> None:
    assert iou((0, 0, 2, 2), (1, 0, 3, 2)) == pytest.approx(2 / 6)
    assert iou((0, 0, 1, 1), (2, 2, 3, 3)) == 0
    assert iou((1, 1, 1, 1), (1, 1, 1, 1)) == 0


FIGURES = {
    "answers": 50,
    "duration_us": 2_000_000,
    "refused": 0,
    "refusal": 0,
    "broken": 0,
    "timeouts": 0,
    "p50_us": 40_000,
    "p90_us": 50_000,
    "p99_us": 60_000,
}


def test_figures_of_wrk_are_read() -> None:
    found = parse_figures(f"Running 2s test\nfigures {json.dumps(FIGURES)}\n")
    assert found.images_per_s == 25
    assert (found.p50_ms, found.p90_ms, found.p99_ms) == (40, 50, 60)


@pytest.mark.parametrize(
    "fault",
    [{"refused": 1, "refusal": 302}, {"broken": 1}, {"timeouts": 1}, {"answers": 0}],
    ids=lambda f: next(iter(f)),
)
def test_any_failed_request_fails_the_load(fault: dict[str, int]) -> None:
    with pytest.raises(LoadFailed):
        parse_figures(f"figures {json.dumps(FIGURES | fault)}")


def test_output_without_figures_fails_the_load() -> None:
    with pytest.raises(LoadFailed, match="unable to connect"):
        parse_figures("unable to connect")


def test_percentiles_are_values_that_occurred() -> None:
    latencies = np.array([3.0, 1.0, math.inf, 2.0])
    assert [percentile(latencies, p) for p in (1, 25, 50, 75, 99)] == [1, 1, 2, 3, math.inf]


def test_a_ratio_that_never_varies_has_no_width() -> None:
    ratio = ratio_to([10, 20, 5, 8], [20, 40, 10, 16])
    assert (ratio.estimate, ratio.low, ratio.high) == pytest.approx((0.5, 0.5, 0.5))


def test_fewer_rounds_than_four_give_no_interval() -> None:
    ratio = ratio_to([10, 40], [20, 20])
    assert ratio.estimate == pytest.approx(1)  # geometric mean of 0.5 and 2
    assert ratio.low is ratio.high is None


def test_only_the_default_picture_gets_every_number_of_connections() -> None:
    pictures = ["small", DEFAULT]
    expected = (Cell(DEFAULT, 1), Cell(DEFAULT, 4), Cell(DEFAULT, 16), Cell("small", 4))
    assert plan_cells(pictures, [16, 1, 4], thorough=False) == expected
    assert set(plan_cells(pictures, [16, 1, 4], thorough=True)) == {*expected, Cell("small", 1), Cell("small", 16)}


@pytest.mark.parametrize("wrong", [("--rounds", "0"), ("--seconds", "1.5"), ("--rate", "-1"), ("--minutes", "inf")])
def test_a_plan_without_sense_is_refused(wrong: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_arguments(["--bundle", "b", "--environments", "e", *wrong])
    assert wrong[0] in capsys.readouterr().err


def test_every_peer_has_a_module_and_pinned_packages(tmp_path: Path) -> None:
    found = peers(tmp_path, tmp_path)
    assert [peer.name for peer in found] == [
        "bentoml",
        "fastapi_onnxruntime",
        "litserve",
        "mlserver",
        "ray_serve",
        "roboflow_inference",
        "ultralytics",
        "ultralytics_onnxruntime",
    ]
    for peer in found:
        lines = (HERE / "requirements" / f"{peer.name}.txt").read_text().splitlines()
        assert lines == list(peer.pins), f"{peer.name} has an unpinned package"
        assert peer.title and peer.setup.endswith("."), peer.name


def test_a_peer_without_a_description_is_refused(tmp_path: Path) -> None:
    module = tmp_path / "peer.py"
    module.write_text('"""Only a title."""\n')
    with pytest.raises(ValueError, match="docstring"):
        describe(module)


def test_the_reference_always_takes_part(tmp_path: Path) -> None:
    known = [*our_servers(tmp_path, tmp_path, tmp_path), *peers(tmp_path, tmp_path)]
    assert [server.name for server in choose_servers(known, ["litserve"])] == [REFERENCE, "litserve"]
    assert choose_servers(known, None) == known
    with pytest.raises(CannotBenchmark, match="litserv"):
        choose_servers(known, ["litserv"])


def test_a_picture_is_the_same_each_time() -> None:
    picture = make_picture("full-hd", ROOT / "samples")
    assert picture.jpeg == make_picture("full-hd", ROOT / "samples").jpeg
    pixels = cv2.imdecode(np.frombuffer(picture.jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert pixels is not None
    assert pixels.shape == (1080, 1920, 3)


def _visit(images: int, latencies_ms: list[float]) -> Visit:
    loop = ClosedLoop(answers=images, seconds=1.0, p50_ms=1, p90_ms=2, p99_ms=3)
    return Visit(2.0, 300_000_000, {Cell(DEFAULT, 4): loop}, OpenLoop(10, latencies_ms, 0.1))


@pytest.fixture(scope="module")
def results() -> Results:
    """Four rounds of yolofold and of a peer half as fast that leaves requests unanswered; another was left out."""
    nowhere = Path("none")
    servers = [reference_server(Path("bundle"), nowhere), *peers(nowhere, nowhere)[:2]]
    plan = Plan(4, 1, 1.0, 0.5, None, 1.0, (0, 1), (Cell(DEFAULT, 4),))
    runs_on = RunsOn("ONNX Runtime 1.0", "fp32", 2, 1, 1, 2, None)
    own = [replace(_visit(images, [50.0, 60.0]), runs_on=runs_on) for images in (20, 22)] * 2
    theirs = [_visit(10, [100.0, math.inf]), _visit(11, [100.0, math.inf])] * 2
    ceilings = [{"ONNX Runtime in fp32": Ceiling(30, 28), "OpenVINO in fp32": Ceiling(20, scale)} for scale in (40, 44)]
    findings = Findings(Expected({DEFAULT: [BOX]}, {}, 10.0), ceilings * 2)
    findings.visits = {REFERENCE: own, servers[1].name: theirs}
    findings.left_out = {servers[2].name: "it answers wrongly: a < b"}
    about = {"machine": {"cpu": "a <processor>"}}
    installed = {REFERENCE: 123_000_000, servers[1].name: None}
    return Results(about, plan, [make_picture(DEFAULT, ROOT / "samples")], servers, findings, installed)


def test_a_summary_compares_round_by_round(results: Results) -> None:
    summary = results.summaries()[results.servers[1].name]
    throughput = summary.throughput[Cell(DEFAULT, 4)]
    assert throughput.images_per_s == 10.5
    assert throughput.ratio.estimate == pytest.approx(0.5)
    assert summary.latency_ratio is not None
    assert summary.latency_ratio.estimate == pytest.approx(2)
    assert (summary.requests, summary.unanswered) == (8, 4)
    assert summary.latency_ms == {50: 100, 90: math.inf, 99: math.inf}


CELL = Cell(DEFAULT, 4)


def test_the_best_peer_may_be_another_one_in_each_round() -> None:
    own = [_visit(20, [50.0])] * 4
    rivals = [[_visit(10, [100.0]), _visit(40, [25.0])] * 2, [_visit(40, [25.0]), _visit(10, [100.0])] * 2]
    found = compare(own, rivals)
    assert found.latency is not None
    assert (found.throughput[CELL].estimate, found.latency.estimate) == pytest.approx((0.5, 2.0))
    assert compare(own, rivals[:1]).throughput[CELL].estimate == pytest.approx(1)  # of 2 and 0.5
    with pytest.raises(ValueError, match="rounds"):
        compare(own, [rivals[0][:3]])
    with pytest.raises(ValueError, match="others"):
        compare(own, [])


def test_a_rival_that_leaves_requests_unanswered_has_no_latency_to_compare_with() -> None:
    assert compare([_visit(20, [50.0])], [[_visit(10, [math.inf])]]).latency is None


def test_ours_is_held_against_the_best_peer_and_against_ultralytics(results: Results) -> None:
    assert set(results.comparisons(REFERENCE)) == {"the best peer"}  # Ultralytics does not take part
    name, peer = results.servers[1].name, results.servers[2].name
    named = replace(results.servers[1], name=ULTRALYTICS, title="Ultralytics")
    findings = replace(results.findings, visits={REFERENCE: results.findings.visits[REFERENCE]})
    findings.visits[ULTRALYTICS] = results.findings.visits[name]
    findings.visits[peer] = [_visit(44, [25.0]), _visit(40, [25.0])] * 2
    others = replace(results, servers=[results.servers[0], named, results.servers[2]], findings=findings)
    found = others.comparisons(REFERENCE)
    assert found["Ultralytics"].throughput[CELL].estimate == pytest.approx(2)
    assert found["the best peer"].throughput[CELL].estimate == pytest.approx(0.5)
    assert re.search(r"yolofold +\| Ultralytics +\| 2.00, 2.00 to 2.00 +\| 0.50", markdown(others))
    own = document(others)["servers"][0]
    assert own["over"]["Ultralytics"]["throughput"][0]["ratio"]["estimate"] == pytest.approx(2)


def test_ours_is_held_against_the_engine_it_runs_on_and_the_fastest(results: Results) -> None:
    shares = results.ceiling_shares(REFERENCE)
    assert list(shares) == ["OpenVINO in fp32", "ONNX Runtime in fp32"]  # the fastest first
    assert shares["OpenVINO in fp32"][CELL].estimate == pytest.approx(0.5)  # round by round: 20 of 40, 22 of 44
    assert shares["ONNX Runtime in fp32"][CELL].estimate == pytest.approx(math.sqrt(20 * 22) / 30)
    text = markdown(results)
    assert re.search(r"yolofold +\| OpenVINO in fp32 \(the best\) +\| 0.50, 0.50 to 0.50", text)
    assert "yolofold ran on ONNX Runtime 1.0 in fp32, threads per run: 2 alone, 1 under load, workers: 2." in text
    ceiling = document(results)["ceiling"]
    assert (ceiling["best"], ceiling["images_per_s"]) == ("OpenVINO in fp32", 42)


def test_a_choice_made_anew_in_a_round_is_told(results: Results) -> None:
    own = results.findings.visits[REFERENCE]
    assert own[0].runs_on is not None
    anew, kept = (replace(own[0], runs_on=replace(own[0].runs_on, remembered=known)) for known in (False, True))
    findings = replace(results.findings, visits={REFERENCE: [anew, kept, kept, kept]})
    assert "yolofold chose its engine anew in 1 rounds" in markdown(replace(results, findings=findings))
    assert "anew" not in markdown(results)


def test_the_document_of_another_server_says_nothing_of_an_engine() -> None:
    with pytest.raises(KeyError):
        read_runs_on({"name": "another server"})


def test_ours_says_how_it_is_set_up_but_for_where(tmp_path: Path) -> None:
    plain, bf16, measured, reduced = our_servers(tmp_path / "bundle", tmp_path / "environments", tmp_path / "scratch")
    assert plain.environment == tmp_path / "environments" / "yolofold"
    assert bf16.environment == measured.environment == reduced.environment != plain.environment
    assert bf16.setup == "YOLOFOLD_ENGINE=openvino YOLOFOLD_PRECISION=bf16."
    assert str(tmp_path) not in reduced.setup and "YOLOFOLD_REDUCED_DECODE=true" in reduced.setup
    assert all(server.ours for server in (plain, bf16, measured, reduced))
    # One choice for both: how pictures are decoded is no part of it.
    assert measured.settings["YOLOFOLD_STATE_DIR"] == reduced.settings["YOLOFOLD_STATE_DIR"]
    for server in (plain, bf16, measured, reduced):
        load_settings(server.settings)


def test_installed_is_what_the_disk_holds(tmp_path: Path) -> None:
    assert installed_bytes(tmp_path / "none") is None
    (tmp_path / "deep").mkdir()
    file = tmp_path / "deep" / "file"
    file.write_bytes(bytes(1_000_000))
    (tmp_path / "again").hardlink_to(file)
    (tmp_path / "link").symlink_to(ROOT)
    found = installed_bytes(tmp_path)
    assert found is not None and 1_000_000 <= found < 1_100_000


def test_rounds_that_do_not_pair_are_refused(results: Results) -> None:
    visits = results.findings.visits[REFERENCE]
    with pytest.raises(ValueError, match="3 and 4"):
        summarise(visits[:3], visits)


def test_the_report_says_who_was_left_out_and_why(results: Results) -> None:
    text = markdown(results)
    assert "it answers wrongly: a < b" in text
    assert "0.50, 0.50 to 0.50" in text
    assert "cannot keep up" not in text  # the peer makes 10.5 images/s of 10 requests/s
    assert "4 of 8 paced requests without an answer" in text
    assert re.search(r"ceiling: ONNX Runtime in fp32, tensor ready +\| 30.0", text)  # the better way
    assert re.search(r"ceiling: OpenVINO in fp32, tensor ready +\| 42.0", text)
    assert re.search(r"yolofold +\| 50.0 .*\| 123 \|?", text)  # installed


def test_the_report_says_how_busy_the_machine_was_otherwise(results: Results) -> None:
    few, many = 0.1, BUSY_SHARE * (os.cpu_count() or 1) + 0.1
    for found, words in (
        ([few, None], "0.1 cores busy in a round."),
        ([few, many], f"{many:.1f} cores busy in a round: "),
    ):
        told = replace(results, findings=replace(results.findings, other_cores=found))
        assert f"Other work kept up to {words}" in markdown(told)
        assert document(told)["other_cores"] == found
    assert "Other work" not in markdown(results)  # where the system does not say


def test_the_report_says_who_was_overloaded(results: Results) -> None:
    load = replace(results.findings.expected, rate_per_s=15.0)  # between the peer's 10.5 and yolofold's 21 images/s
    text = markdown(replace(results, findings=replace(results.findings, expected=load)))
    assert f"{results.servers[1].title} cannot keep up" in text
    assert text.count("cannot keep up") == 1


def test_the_document_is_strict_json(results: Results) -> None:
    read = json.loads(json.dumps(document(results), allow_nan=False))
    own, peer, left_out = read["servers"]
    assert own["left_out"] is None
    assert peer["rounds"][0]["open"]["latencies_ms"] == [100.0, None]
    assert left_out["summary"] is None and left_out["left_out"]
    assert read["plan"]["cells"] == [{"picture": DEFAULT, "connections": 4}]


def test_the_chart_draws_each_server_in_both_panels(results: Results) -> None:
    svg = ElementTree.fromstring(draw(results))
    name = "{http://www.w3.org/2000/svg}"
    bars = svg.findall(f"{name}rect")
    assert len(bars) == 4
    own, peer = (float(bar.attrib["width"]) for bar in bars[:2])
    assert own / peer == pytest.approx(2, rel=0.01)
    texts = [text.text for text in svg.findall(f"{name}text")]
    assert "\u25b8 100 / no answer" in texts

"""The quantized graph is served where it is asked for, and only there."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.bundle.store import Bundle
from service.errors import EngineError, SettingsError
from service.inference.engine_choice import open_engine, require_int8
from service.inference.self_check import check_engine
from service.machine import has_int8_dot_products, usable_cores
from service.settings import load_settings
from service.tuning.measure import find_installed
from service.tuning.start import make_choice
from service.tuning.tolerance import RECURRENCE
from tests.api.serving import serving
from tests.conftest import RunningServer, running_server
from tests.inference.processors import HAS_BF16
from tests.quantization.test_int8_bundle import with_ways

INT8 = {"engine": "openvino", "precision": "int8"}
#: From here on fp32 is sure of a box, and all recur. Of others some do not: a share of many is for the gate to judge.
CONFIDENT = 0.85


@pytest.fixture(scope="module")
def int8_server(quantized: Bundle):
    with running_server(quantized.path, **INT8, request_timeout_s="120") as running:
        yield running


def post(url: str, picture: Path) -> dict[str, Any]:
    answer = httpx.post(url, content=picture.read_bytes(), headers={"Content-Type": "image/jpeg"}, timeout=120)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_it_is_served_in_int8_and_finds_what_fp32_finds(
    int8_server: RunningServer, server_url: str, quantized: Bundle, samples: list[Path]
) -> None:
    way = quantized.int8.best(bf16=HAS_BF16, dot_products=has_int8_dot_products())
    assert f"in {way}, threads per run" in int8_server.banner
    missing = boxes = 0
    for sample in samples:
        ours, theirs = (
            post(f"{url}/detect?conf={CONFIDENT}", sample)["detections"] for url in (server_url, int8_server.url)
        )
        boxes += len(ours)
        missing += sum(not any(alike(a, b) for b in theirs) for a in ours)
        assert len(theirs) <= len(ours)
    assert boxes >= 7 and missing == 0


def alike(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """The same class, confidence within 0.05 and every corner within a tenth of the box."""
    near = max(a["box"]["x2"] - a["box"]["x1"], a["box"]["y2"] - a["box"]["y1"]) / 10
    return (
        a["class"] == b["class"]
        and abs(a["confidence"] - b["confidence"]) <= 0.05
        and all(abs(a["box"][side] - b["box"][side]) <= near for side in a["box"])
    )


def test_the_model_says_how_it_was_quantized(int8_server: RunningServer, quantized: Bundle, bundle: Bundle) -> None:
    model = httpx.get(f"{int8_server.url}/model").json()
    assert model["engine"]["precision"] == quantized.int8.best(bf16=HAS_BF16, dot_products=has_int8_dot_products())
    told = model["int8"]
    assert told.pop("sha256") == quantized.manifest.files["model.int8.onnx"].sha256
    assert told == quantized.int8.model_dump(mode="json")
    assert model["model"]["version"] == quantized.manifest.model.version != bundle.manifest.model.version


def test_what_else_the_service_does_goes_on(int8_server: RunningServer, samples: list[Path]) -> None:
    """The fold is checked in float, drift is watched with the probe, and the start-up check has its own tolerance."""
    checked = post(f"{int8_server.url}/model/fold/check", samples[1])
    assert checked["agrees"] and checked["matched"] > 0
    assert (checked["reference"]["precision"], checked["deployed"]["precision"]) == ("fp32", "fp32")
    start = httpx.get(f"{int8_server.url}/model/fold").json()["startup_check"]
    assert start["precision"].startswith("int8+") and start["matched"] == start["boxes"] > 0
    # Coarser than bf16, so it must differ, or it would not be int8.
    assert 0.01 < start["max_box_difference_px"] < start["box_tolerance_px"]
    assert post(f"{int8_server.url}/model/drift/image", samples[1])["layers"]
    assert httpx.get(f"{int8_server.url}/model/latency").status_code == 200


def test_without_being_asked_for_it_the_graph_in_float_is_served(quantized: Bundle, samples: list[Path]) -> None:
    with serving(quantized) as running:
        assert running.service.engine.precision == "fp32"
        assert running.client.get("/model").json()["int8"]["convolutions"] == quantized.int8.convolutions


def test_a_bundle_that_was_not_quantized_says_what_makes_one(bundle: Bundle) -> None:
    settings = load_settings({}, **INT8)
    with pytest.raises(SettingsError, match=r"int8.*holds no quantized graph\. `python -m service quantize"):
        open_engine(bundle, settings, cores=2, workers=1)


def test_onnx_runtime_is_not_given_the_quantized_graph(quantized: Bundle) -> None:
    settings = load_settings({}, engine="onnxruntime", precision="int8")
    with pytest.raises(SettingsError, match=r"YOLOFOLD_PRECISION=int8.*YOLOFOLD_ENGINE=openvino.*PRECISION=fp32"):
        open_engine(quantized, settings, cores=2, workers=1)


def test_a_way_that_did_not_pass_is_not_gone(quantized: Bundle) -> None:
    only_bf16 = replace(quantized, int8=with_ways(quantized.int8, ("int8+bf16",)))
    assert require_int8(only_bf16, bf16=True, dot_products=True) == "int8+bf16"
    with pytest.raises(EngineError, match=r"pass with bf16 only, for which this processor has no instructions"):
        require_int8(only_bf16, bf16=False, dot_products=True)
    only_fp32 = replace(quantized, int8=with_ways(quantized.int8, ("int8+fp32",)))
    engine = open_engine(only_fp32, load_settings({}, **INT8), cores=2, workers=1)
    assert engine.precision == "int8+fp32" and check_engine(only_fp32, engine).rows > 0


def test_where_sums_would_saturate_it_is_refused(quantized: Bundle) -> None:
    """With 8-bit weights OpenVINO on AVX2 repeated 89 of the 125 boxes of which 121 recur on VNNI."""
    eight = replace(quantized, int8=quantized.int8.model_copy(update={"weight_bits": 8}))
    with pytest.raises(EngineError, match=r"8-bit weights need VNNI .*Run `python -m service quantize` on this"):
        require_int8(eight, bf16=False, dot_products=False)


def test_a_choice_by_measurement_tries_it_where_it_may(bundle: Bundle, quantized: Bundle) -> None:
    found = find_installed(quantized)
    assert (
        found.int8 == quantized.int8.best(bf16=HAS_BF16, dot_products=has_int8_dot_products()) and found.no_int8 is None
    )
    assert "`python -m service quantize`" in find_installed(bundle).no_int8
    # It is held to what is asked of bf16.
    assert RECURRENCE["int8+bf16"] == RECURRENCE["int8+fp32"] == RECURRENCE["bf16"]


def test_a_choice_by_measurement_compares_its_boxes_on_this_machine(quantized: Bundle, tmp_path: Path) -> None:
    settings = load_settings({}, engine="auto", state_dir=str(tmp_path))
    made = make_choice(quantized, settings, usable_cores()).made
    way = quantized.int8.best(bf16=HAS_BF16, dot_products=has_int8_dot_products())
    results = [result for result in made.candidates if result.candidate.precision == way]
    assert results and not any("int8" in line for line in made.not_tried)
    assert made.tolerances[way] == made.tolerances["bf16" if HAS_BF16 else way]
    first = results[0]
    assert first.boxes >= 20 and first.verdict in ("chosen", "slower", "refused")
    agrees = first.boxes_matched >= 0.95 * first.boxes and first.boxes_extra <= 0.05 * first.boxes
    assert (first.verdict != "refused") == agrees
    # What is chosen is what serves.
    chosen = made.chosen.candidate
    engine = open_engine(quantized, chosen.settle(settings), cores=usable_cores(), workers=chosen.workers)
    assert engine.precision == chosen.precision

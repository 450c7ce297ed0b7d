"""A start with YOLOFOLD_ENGINE=auto, measured by the real engines in a process of its own, and the starts after it."""

import logging
from pathlib import Path

import httpx
import pytest

from service.bundle.store import Bundle
from service.errors import EngineError
from service.inference.openvino_engine import OpenVinoEngine
from service.machine import usable_cores
from service.settings import Settings, load_settings
from service.tuning.fingerprint import take_fingerprint
from service.tuning.memory import ChoiceMemory
from service.tuning.process import measure_apart
from service.tuning.records import EngineChoice
from service.tuning.start import StartedEngine, make_choice, settle_engine, start_engine
from tests.conftest import running_server
from tests.inference.processors import HAS_BF16
from tests.tuning.choices import candidate, made_choice, timed

CORES = usable_cores()


def settings_in(folder: Path, **settings: str) -> Settings:
    return load_settings({}, engine="auto", device="cpu", state_dir=str(folder), **settings)


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state") / "made when needed"


@pytest.fixture(scope="module")
def first(bundle: Bundle, state: Path) -> StartedEngine:
    """The first start, with everything there is to choose from."""
    return start_engine(bundle, settings_in(state, precision="auto"), CORES)


def test_the_first_start_measures_what_there_is(bundle: Bundle, first: StartedEngine) -> None:
    assert first.choice is not None
    made, best = first.choice.made, first.choice.made.chosen
    assert not first.choice.remembered and made.measured_in_s > 0
    kinds = {result.candidate.kind for result in made.candidates}
    assert kinds >= {("onnxruntime", "cpu", "fp32"), ("openvino", "cpu", "fp32")}
    assert (("openvino", "cpu", "bf16") in kinds) == HAS_BF16
    assert set(made.tolerances) == {result.candidate.precision for result in made.candidates}
    assert 3 <= made.pictures <= 12
    # The same answers to the last bit: the reference is one of the candidates.
    plain = made.candidates[0]
    assert (plain.box_px, plain.confidence, plain.boxes_extra) == (0, 0, 0)
    for result in made.candidates:
        assert result.verdict in ("chosen", "slower", "not_measured"), result
        if result.measured:
            assert result.boxes_matched == result.boxes or result.candidate.precision == "bf16"
            assert result.runs >= 3 and result.latency_ms > 0 and result.images_per_second > 0
    assert first.engine.precision == best.candidate.precision
    assert (first.settings.engine, first.workers) == (best.candidate.engine, best.candidate.workers)
    assert first.check.matched == bundle.self_check.rows


def test_the_second_start_measures_nothing(
    bundle: Bundle, state: Path, first: StartedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", "/nowhere/python")  # a measuring process could not even begin
    second = start_engine(bundle, settings_in(state, precision="auto"), CORES)
    assert second.choice is not None and second.choice.remembered
    assert second.choice.made == first.choice.made
    assert second.settings == first.settings
    settled = settle_engine(bundle, settings_in(state, precision="auto"))
    assert (settled.engine, settled.precision, settled.threads) == (first.settings.engine, first.settings.precision, 0)
    with pytest.raises(EngineError, match=r"could not measure: .*YOLOFOLD_ENGINE=onnxruntime"):
        start_engine(bundle, settings_in(state, precision="auto", objective="latency"), CORES)


def test_other_engines_need_no_choice(bundle: Bundle, tmp_path: Path) -> None:
    settings = load_settings({}, state_dir=str(tmp_path), threads=1)
    started = start_engine(bundle, settings, CORES)
    assert started.choice is None and started.settings is settings is settle_engine(bundle, settings)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_is_measured_anew_and_replaced(
    bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # As little as possible: the plainest only.
    settings = settings_in(tmp_path, precision="fp32", threads="1", workers="1")
    path = ChoiceMemory(bundle, settings, take_fingerprint(bundle, settings, CORES)).path
    path.write_text("{")
    with caplog.at_level(logging.WARNING):
        choice = make_choice(bundle, settings, CORES)
    assert not choice.remembered and choice.kept_in == path
    assert "is not used: it is damaged" in caplog.text and str(path) in caplog.text
    assert EngineChoice.model_validate_json(path.read_bytes()) == choice.made
    assert {(r.candidate.threads, r.candidate.workers) for r in choice.made.candidates} == {(1, 1)}
    assert {r.candidate.precision for r in choice.made.candidates} == {"fp32"}


def test_where_nothing_can_be_chosen_the_reason_is_told(bundle: Bundle, tmp_path: Path) -> None:
    settings = load_settings({}, engine="auto", device="cuda", precision="bf16", state_dir=str(tmp_path))
    with pytest.raises(EngineError, match=r"found no engine that could serve.*YOLOFOLD_PRECISION"):
        measure_apart(bundle, settings, take_fingerprint(bundle, settings, CORES))


@pytest.mark.parametrize("kept", [True, False])
def test_the_service_shows_the_table_and_the_banner_the_choice(
    bundle: Bundle, bundle_root: Path, tmp_path: Path, kept: bool
) -> None:
    """Remembered, so that the test takes no longer; then in a folder in which nothing can be kept."""
    wanted = {"engine": "auto", "device": "cpu", "threads": "1", "workers": "1", "precision": "fp32"}
    if kept:
        settings = load_settings({}, **wanted, state_dir=str(tmp_path))
        best = timed(candidate("openvino", threads=1, workers=1), 20.0, 50.0, verdict="chosen")
        fingerprint = take_fingerprint(bundle, settings, CORES)
        made = made_choice(bundle, settings, timed(candidate(threads=1, workers=1), 40.0, 25.0), best)
        made = made.model_copy(update={"fingerprint": fingerprint})
        assert ChoiceMemory(bundle, settings, fingerprint).keep(made) is None
        place = tmp_path
    else:
        place = tmp_path / "file" / "folder"
        (tmp_path / "file").write_text("in the way")
    with running_server(bundle_root, **wanted, state_dir=str(place)) as server:
        assert httpx.get(f"{server.url}/readyz").status_code == 200
        answer = httpx.get(f"{server.url}/model").json()
    choice, line = answer["engine_choice"], server.banner.splitlines()[2]
    assert (choice["remembered"], choice["kept"]) == (kept, kept)
    chosen = next(result for result in choice["candidates"] if result["verdict"] == "chosen")
    assert answer["engine"]["threads"] == answer["engine"]["workers"] == chosen["candidate"]["threads"] == 1
    assert ("OpenVINO" in answer["engine"]["runtime"]) == (chosen["candidate"]["engine"] == "openvino")
    if kept:
        assert choice["candidates"] == made.model_dump()["candidates"]
        assert answer["engine"]["runtime"].startswith("OpenVINO")
        assert line.strip() == (
            "chosen from 2 measured for balanced: 50.0 images/s, 20.0 ms (2.00 and 2.00 times as fast as fp32 ONNX "
            "Runtime); remembered from 2026-01-02T03:04:05+00:00"
        )
    else:
        assert "not kept (Not a directory): every start measures" in line


def test_a_remembered_engine_that_is_gone_is_measured_anew(
    bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_in(tmp_path, threads="1", workers="1")
    fingerprint = take_fingerprint(bundle, settings, CORES)
    best = timed(candidate("openvino", threads=1, workers=1), 20.0, 50.0, verdict="chosen")
    made = made_choice(bundle, settings, best).model_copy(update={"fingerprint": fingerprint})
    ChoiceMemory(bundle, settings, fingerprint).keep(made)

    def broken(*_: object) -> None:
        raise EngineError("OpenVINO cannot use the processor")

    monkeypatch.setattr(OpenVinoEngine, "__init__", broken)  # here only: the measuring process finds it sound
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    with caplog.at_level(logging.WARNING), pytest.raises(EngineError, match="could not measure"):
        start_engine(bundle, settings, CORES)
    assert "no longer works and is measured anew: OpenVINO cannot use the processor" in caplog.text

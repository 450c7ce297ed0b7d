"""A start with YOLOFOLD_ENGINE=auto, measured by the real engines in a process of its own, and the starts after it."""

import logging
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx
import pytest

from service.bundle.store import Bundle
from service.errors import EngineError, EngineNotMeasured
from service.inference.openvino_engine import OpenVinoEngine
from service.machine import usable_cores
from service.settings import Settings, load_settings
from service.tuning.fingerprint import take_fingerprint
from service.tuning.measure import pictures_compared
from service.tuning.memory import ChoiceMemory
from service.tuning.process import measure_apart
from service.tuning.records import EngineChoice
from service.tuning.start import StartedEngine, make_choice, settle_engine, start_engine
from tests.api.serving import serving
from tests.conftest import ROOT, running_server
from tests.inference.processors import HAS_BF16
from tests.measurement.test_peak_memory import runs, wait_for
from tests.tuning.choices import candidate, made_choice, timed
from tests.tuning.measuring_process import KILLED, plant_in_measuring_process

CORES = usable_cores()


def settings_in(folder: Path, **settings: str) -> Settings:
    return load_settings({}, engine="auto", device="cpu", state_dir=str(folder), **settings)


@pytest.fixture(scope="module", autouse=True)
def patient() -> Iterator[None]:
    """Choices hold here, however busy the machine was that runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("service.machine.BUSY_SHARE", math.inf)
        yield


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state") / "made when needed"


@pytest.fixture(scope="module")
def first(bundle: Bundle, state: Path) -> StartedEngine:
    """The first start, with everything there is to choose from."""
    return start_engine(bundle, settings_in(state), CORES)


def test_the_first_start_measures_what_there_is(bundle: Bundle, first: StartedEngine) -> None:
    assert first.choice is not None
    made, best = first.choice.made, first.choice.made.chosen
    assert not first.choice.remembered and made.measured_in_s > 0
    kinds = {result.candidate.kind for result in made.candidates}
    assert kinds >= {("onnxruntime", "cpu", "fp32"), ("openvino", "cpu", "fp32")}
    assert (("openvino", "cpu", "bf16") in kinds) == HAS_BF16
    assert set(made.tolerances) == {result.candidate.precision for result in made.candidates}
    # All of them, however busy the machine is: the verdict must be the same.
    assert made.pictures == 21
    # The same answers to the last bit: the reference is one of the candidates.
    plain = made.candidates[0]
    assert (plain.box_px, plain.confidence, plain.boxes_extra) == (0, 0, 0)
    for result in made.candidates:
        assert result.verdict in ("chosen", "slower", "not_measured"), result
        if result.measured:
            assert result.boxes_matched == result.boxes or result.candidate.precision == "bf16"
            assert result.runs >= 3 and result.latency_ms > 0 and result.images_per_second > 0
    assert first.engine.precision == best.candidate.precision
    assert first.settings.engine == best.candidate.engine
    spare = best.candidate.workers if first.engine.runs_apart and best.candidate.max_batch_size == 1 else 0
    assert first.workers == best.candidate.workers + spare
    assert first.check.matched == bundle.self_check.rows


def test_how_many_pictures_are_compared_goes_by_the_network_alone() -> None:
    # Multiply-accumulates of YOLO26n, s, m and x at 640 px, by the FLOPs that Ultralytics states for them.
    compared = [min(21, pictures_compared(int(gflops / 2 * 1e9))) for gflops in (5.4, 20.7, 68.2, 193.9)]
    assert compared == [21, 14, 4, 3]
    assert pictures_compared(0) >= 21


def test_the_second_start_measures_nothing(
    bundle: Bundle, state: Path, first: StartedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", "/nowhere/python")  # a measuring process could not even begin
    second = start_engine(bundle, settings_in(state), CORES)
    assert second.choice is not None and second.choice.remembered
    assert second.choice.made == first.choice.made
    assert second.settings == first.settings
    settled = settle_engine(bundle, settings_in(state))
    assert (settled.engine, settled.precision, settled.threads) == (first.settings.engine, first.settings.precision, 0)
    with pytest.raises(EngineNotMeasured, match=r"could not measure: .*YOLOFOLD_ENGINE=onnxruntime"):
        make_choice(bundle, settings_in(state, objective="latency"), CORES)


def test_other_engines_need_no_choice(bundle: Bundle, tmp_path: Path) -> None:
    settings = load_settings({}, state_dir=str(tmp_path), threads=1)
    started = start_engine(bundle, settings, CORES)
    assert started.choice is None and started.settings is settings is settle_engine(bundle, settings)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("wanted", "workers"),
    [
        ({"engine": "onnxruntime"}, 2),
        ({"engine": "onnxruntime", "max_batch_size": "4"}, 8),
        ({"engine": "openvino"}, 4),  # two wait for their runs while two decode
        ({"engine": "openvino", "threads": "1"}, 4),
        ({"engine": "openvino", "workers": "3"}, 3),
    ],
)
def test_workers_decode_while_others_wait_for_runs_elsewhere(
    bundle: Bundle, wanted: dict[str, str], workers: int
) -> None:
    started = start_engine(bundle, load_settings({}, device="cpu", **wanted), cores=2)
    assert started.workers == workers
    assert started.engine.runs_apart == (wanted["engine"] == "openvino")


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


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine counts as busy as soon as others take a tenth of a core, which one ``burning`` process surely does."""
    monkeypatch.setattr("service.machine.BUSY_SHARE", 0.1 / (os.cpu_count() or 1))


@contextmanager
def burning() -> Iterator[None]:
    """Another process keeps a core busy until the block ends."""
    work = "print(flush=True)\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", work], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None and process.stdout.readline()
            yield
        finally:
            process.kill()


@pytest.mark.usefixtures("impatient")
def test_where_the_machine_is_always_busy_the_second_start_measures_nothing_and_says_so(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = {"precision": "fp32", "threads": "1", "workers": "1"}
    with burning():
        first = make_choice(bundle, settings_in(tmp_path, **wanted), CORES)
        assert first.provisional and not first.remembered
        assert first.kept_in is not None and f"kept in {first.kept_in} until the first quiet start" in first.line
        monkeypatch.setattr("sys.executable", "/nowhere/python")  # a measuring process could not even begin
        with serving(bundle, **wanted, engine="auto", device="cpu", state_dir=str(tmp_path)) as server:
            answer, runs_on = server.client.get("/model").json(), server.service.runs_on
    choice = answer["engine_choice"]
    assert choice["measured_at"] == first.made.measured_at
    assert choice["remembered"] and choice["kept"] and choice["provisional"]
    assert (
        f"remembered from {first.made.measured_at}, measured while the machine was busy "
        f"({first.made.other_cores:.1f} cores with other work); it is busy now, too, and the first quiet start "
        "measures again"
    ) in runs_on


@pytest.mark.usefixtures("impatient")
def test_the_first_quiet_start_replaces_what_was_measured_on_a_busy_machine(
    bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_in(tmp_path, precision="fp32", threads="1", workers="1")
    fingerprint = take_fingerprint(bundle, settings, CORES)
    memory = ChoiceMemory(bundle, settings, fingerprint)
    best = timed(candidate("openvino", threads=1, workers=1), 20.0, 50.0, verdict="chosen")
    made = made_choice(bundle, settings, best).model_copy(update={"fingerprint": fingerprint, "other_cores": 1.5})
    assert memory.keep(made) is None
    assert make_choice(bundle, settings, CORES, look=lambda: 1.5).made == made
    with caplog.at_level(logging.WARNING):
        choice = make_choice(bundle, settings, CORES, look=lambda: 0.0)
    assert "is not used: it was measured while the machine was busy (1.5 cores with other work)" in caplog.text
    assert not choice.remembered and choice.kept_in == memory.path
    assert memory.recall()[0] == choice.made != made
    # The same where the system has stopped telling.
    assert memory.keep(made) is None
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    with pytest.raises(EngineNotMeasured):
        make_choice(bundle, settings, CORES, look=lambda: None)


def test_what_was_measured_in_quiet_is_remembered_without_a_look(bundle: Bundle, tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    fingerprint = take_fingerprint(bundle, settings, CORES)
    made = made_choice(bundle, settings, timed(candidate(), 20.0, 50.0, verdict="chosen"))
    made = made.model_copy(update={"fingerprint": fingerprint})
    assert ChoiceMemory(bundle, settings, fingerprint).keep(made) is None
    assert make_choice(bundle, settings, CORES, look=pytest.fail).remembered


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
    with caplog.at_level(logging.WARNING):
        started = start_engine(bundle, settings, CORES)
    assert "no longer works and is measured anew: OpenVINO cannot use the processor" in caplog.text
    assert started.warning is not None and "could not measure" in started.warning  # it tried to
    assert started.choice is None and started.engine.runtime.startswith("ONNX Runtime")


@pytest.fixture
def in_measuring_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """What the measuring process is to do at its very start, as Python."""
    return partial(plant_in_measuring_process, tmp_path / "planted", monkeypatch)


def test_where_the_measuring_process_is_killed_plain_onnx_runtime_serves_and_says_why(
    bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture, in_measuring_process: Callable[[str], None]
) -> None:
    in_measuring_process(KILLED)
    place = tmp_path / "state"
    wanted = {"engine": "auto", "state_dir": str(place), "threads": "1", "workers": "1"}
    with caplog.at_level(logging.WARNING), serving(bundle, **wanted) as server:
        answer, runs_on = server.client.get("/model").json(), server.service.runs_on
    warning = answer["engine_warning"]
    assert "could not measure" in warning and "out of memory" in warning and "next start measures again" in warning
    assert warning in caplog.text and warning in runs_on
    assert answer["engine_choice"] is None
    assert (answer["engine"]["provider"], answer["engine"]["precision"]) == ("CPUExecutionProvider", "fp32")
    assert not place.exists()
    # What is evaluated must be what serves; and nothing replaces what the settings demand.
    with pytest.raises(EngineNotMeasured):
        settle_engine(bundle, load_settings({}, **wanted))
    with pytest.raises(EngineNotMeasured):
        start_engine(bundle, load_settings({}, **wanted, precision="bf16"), CORES)


def test_the_measuring_process_ends_with_the_server_that_is_killed(
    bundle: Bundle, tmp_path: Path, in_measuring_process: Callable[[str], None]
) -> None:
    note = tmp_path / "pid"
    # It would live on for ten minutes.
    hold = f"os.path.exists({str(note)!r}) or open({str(note)!r}, 'w').write(str(os.getpid()))"
    in_measuring_process(f"{hold}; threading.Thread(target=time.sleep, args=(600,)).start()")
    start = (
        "import sys\nfrom pathlib import Path\nfrom service.bundle.store import load_bundle\n"
        "from service.settings import load_settings\nfrom service.tuning.start import make_choice\n"
        f"settings = load_settings({{}}, engine='auto', threads='1', workers='1', state_dir={str(tmp_path)!r})\n"
        f"make_choice(load_bundle(Path({str(bundle.path)!r})), settings, 1)"
    )
    server = subprocess.Popen([sys.executable, "-c", start], cwd=ROOT)
    try:
        assert wait_for(lambda: note.exists() and note.read_text() != "")
        assert server.poll() is None
    finally:
        server.send_signal(signal.SIGKILL)
        server.wait()
    assert wait_for(lambda: not runs(int(note.read_text())))

"""The choice on disk: found again by the same machine, settings and bundle, and by nobody else."""

import os
from pathlib import Path
from typing import Any

import pytest

from service.bundle.store import Bundle, load_bundle
from service.machine import BUSY_SHARE
from service.settings import Settings, load_settings
from service.tuning.fingerprint import differences, machine_digest, openvino_version, take_fingerprint, tensorrt_version
from service.tuning.memory import ChoiceMemory
from service.tuning.records import EngineChoice
from service.tuning.start import Choice
from tests.tuning.choices import CORES, candidate, made_choice, timed


def settings_in(folder: Path, **settings: Any) -> Settings:
    return load_settings({}, engine="auto", state_dir=str(folder), **settings)


def memory(bundle: Bundle, settings: Settings, cores: int = CORES) -> ChoiceMemory:
    return ChoiceMemory(bundle, settings, take_fingerprint(bundle, settings, cores))


@pytest.fixture
def kept(bundle: Bundle, tmp_path: Path) -> EngineChoice:
    """A choice kept in ``tmp_path``."""
    settings = settings_in(tmp_path)
    openvino = timed(candidate("openvino"), 20.0, 50.0, verdict="chosen", reason="best", box_px=float("nan"))
    choice = made_choice(bundle, settings, timed(candidate(), 40.0, 25.0), openvino)
    assert memory(bundle, settings).keep(choice) is None
    return choice


def test_what_is_kept_is_found_again(bundle: Bundle, tmp_path: Path, kept: EngineChoice) -> None:
    found, reason = memory(bundle, settings_in(tmp_path)).recall()
    assert reason is None and found is not None
    assert found.chosen.candidate == kept.chosen.candidate
    assert found.chosen.box_px is None  # JSON has no NaN
    assert found.model_copy(update={"candidates": kept.candidates}) == kept
    assert len(list(tmp_path.iterdir())) == 1


def test_nothing_is_kept_at_first(bundle: Bundle, tmp_path: Path) -> None:
    assert memory(bundle, settings_in(tmp_path / "absent")).recall() == (None, None)


def test_beside_the_bundle_it_disturbs_nothing(bundle_copy: Bundle) -> None:
    settings = load_settings({}, engine="auto")
    place = memory(bundle_copy, settings)
    assert place.keep(made_choice(bundle_copy, settings, timed(candidate(), 1.0, 1.0, verdict="chosen"))) is None
    assert place.path.parent == bundle_copy.path.parent
    assert place.path.name.startswith(bundle_copy.path.name)
    load_bundle(bundle_copy.path)
    assert place.recall()[0] is not None


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"objective": "latency"}, "objective was balanced, is latency"),
        ({"precision": "bf16"}, "precision was None, is bf16"),
        ({"threads": 1}, "threads was 0, is 1"),
        ({"device": "cpu"}, "device was auto, is cpu"),
    ],
)
def test_other_settings_are_measured_anew(
    bundle: Bundle, tmp_path: Path, kept: EngineChoice, changed: dict[str, Any], words: str
) -> None:
    assert memory(bundle, settings_in(tmp_path, **changed)).recall() == (None, f"it was made otherwise: {words}")


@pytest.mark.parametrize(
    "name",
    ["onnxruntime", "openvino", "tensorrt", "gpu_driver", "bundle_version", "graph_sha256", "yolofold"],
)
def test_other_releases_and_bundles_are_measured_anew(
    bundle: Bundle, tmp_path: Path, kept: EngineChoice, name: str
) -> None:
    value = "ab" * 32 if name == "graph_sha256" else "0.0.0"
    present = kept.fingerprint.model_copy(update={name: value})
    found, reason = ChoiceMemory(bundle, settings_in(tmp_path), present).recall()
    assert found is None and reason is not None
    assert f"{name} was" in reason and reason.endswith(f"is {value}")


def test_tensorrt_is_noticed_by_what_pip_installed(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / "tensorrt_cu13_libs-0.1.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: tensorrt_cu13_libs\nVersion: 0.1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert tensorrt_version() == "0.1"
    assert take_fingerprint(bundle, settings_in(tmp_path), CORES).tensorrt == "0.1"


@pytest.mark.parametrize(
    "change", [{"cpu": "another"}, {"cpu_flags_sha256": "cd" * 32}, {"cores": 3}, {"gpus": ["H200"]}]
)
def test_each_machine_has_a_file_of_its_own(
    bundle: Bundle, tmp_path: Path, kept: EngineChoice, change: dict[str, Any]
) -> None:
    other = kept.fingerprint.model_copy(update=change)
    assert machine_digest(other) != machine_digest(kept.fingerprint)
    theirs = ChoiceMemory(bundle, settings_in(tmp_path), other)
    assert theirs.recall() == (None, None)
    # Under a name that it does not belong to it is found out all the same.
    memory(bundle, settings_in(tmp_path)).path.rename(theirs.path)
    found, reason = theirs.recall()
    assert found is None and reason is not None
    assert f"{next(iter(change))} was" in reason


def spoil(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"measured_at"', '"measured_when"', "damaged"),
        ('"schema_version": 2', '"schema_version": 1', "damaged: schema_version"),
        ('"chosen"', '"slower"', "names no engine"),
        ('"slower"', '"chosen"', "names no engine"),
        # Written by hand: what OpenVINO does not compute in.
        ('"engine": "openvino",\n    "device": "cpu",\n    "precision": "fp32"', None, "names no engine"),
    ],
)
def test_a_file_that_was_changed_is_not_used(
    bundle: Bundle, tmp_path: Path, kept: EngineChoice, old: str, new: str | None, words: str
) -> None:
    place = memory(bundle, settings_in(tmp_path))
    spoil(place.path, old, old.replace("fp32", "tf32") if new is None else new)
    found, reason = place.recall()
    assert found is None and reason is not None
    assert words in reason


@pytest.mark.parametrize("content", [b"", b"{", b"null", b"\xff\xfe", b"[1]", b" " * 1_000_001])
def test_a_file_of_something_else_is_not_used(
    bundle: Bundle, tmp_path: Path, kept: EngineChoice, content: bytes
) -> None:
    place = memory(bundle, settings_in(tmp_path))
    place.path.write_bytes(content)
    found, reason = place.recall()
    assert found is None and reason is not None
    assert "damaged" in reason or "large" in reason
    place.keep(kept)
    assert place.recall()[0] is not None


def test_a_folder_that_cannot_be_written_to_is_said_so(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    settings = settings_in(tmp_path / "file")
    place = memory(bundle, settings)
    best = timed(candidate("openvino"), 20.0, 50.0, verdict="chosen")
    choice = made_choice(bundle, settings, timed(candidate(), 40.0, 20.0), best)
    obstacle = place.keep(choice)
    assert obstacle is not None
    found, reason = place.recall()
    assert found is None and "cannot be read" in str(reason)
    line = Choice(choice, remembered=False, kept_in=None, not_kept=obstacle).line
    assert line == (
        "chosen from 2 measured for balanced: 50.0 images/s, 20.0 ms (2.50 and 2.00 times as fast as fp32 ONNX "
        f"Runtime); measured in 1.5 s, not kept ({obstacle}): every start measures. YOLOFOLD_STATE_DIR may name a "
        "folder"
    )


def test_the_line_says_where_a_choice_comes_from(bundle: Bundle, tmp_path: Path) -> None:
    choice = made_choice(bundle, settings_in(tmp_path), timed(candidate(), 40.0, 20.0, verdict="chosen"))
    kept_in = tmp_path / "x.json"
    assert Choice(choice, remembered=False, kept_in=kept_in, not_kept=None).line == (
        f"chosen from 1 measured for balanced: 20.0 images/s, 40.0 ms; measured in 1.5 s, kept in {kept_in}"
    )
    assert Choice(choice, remembered=True, kept_in=kept_in, not_kept=None).line.endswith(
        "; remembered from 2026-01-02T03:04:05+00:00"
    )


def test_what_was_measured_on_a_busy_machine_is_kept_with_a_mark(
    bundle: Bundle, tmp_path: Path, kept: EngineChoice
) -> None:
    limit = BUSY_SHARE * (os.cpu_count() or 1)
    place = memory(bundle, settings_in(tmp_path))
    for other_cores, provisional in ((None, False), (limit, False), (limit + 0.1, True)):
        assert place.keep(kept.model_copy(update={"other_cores": other_cores})) is None
        found, _ = place.recall()
        assert found is not None
        assert Choice(found, remembered=True, kept_in=place.path, not_kept=None).provisional == provisional


def test_the_line_says_that_the_machine_was_busy(bundle: Bundle, tmp_path: Path) -> None:
    busy = BUSY_SHARE * (os.cpu_count() or 1) + 0.1
    made = made_choice(bundle, settings_in(tmp_path), timed(candidate(), 40.0, 20.0, verdict="chosen"))
    made = made.model_copy(update={"other_cores": busy})
    while_busy = f"while the machine was busy ({busy:.1f} cores with other work)"
    kept_in = tmp_path / "x.json"
    assert Choice(made, remembered=True, kept_in=kept_in, not_kept=None).line.endswith(
        f"; remembered from 2026-01-02T03:04:05+00:00, measured {while_busy}; it is busy now, too, and the first quiet "
        "start measures again"
    )
    assert Choice(made, remembered=False, kept_in=kept_in, not_kept=None).line.endswith(
        f"; measured in 1.5 s {while_busy}, kept in {kept_in} until the first quiet start, which measures again"
    )
    assert Choice(made, remembered=False, kept_in=None, not_kept="Read-only file system").line.endswith(
        f"; measured in 1.5 s {while_busy}, not kept (Read-only file system): every start measures. "
        "YOLOFOLD_STATE_DIR may name a folder"
    )


def test_openvino_is_known_without_being_loaded() -> None:
    import openvino as ov

    found = openvino_version()
    assert found is not None and ov.get_version().startswith(found)


def test_differences_name_what_differs(bundle: Bundle) -> None:
    one = take_fingerprint(bundle, load_settings({}), 2)
    assert differences(one, one) == []
    assert differences(one, one.model_copy(update={"cores": 3})) == ["cores was 2, is 3"]

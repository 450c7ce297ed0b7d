"""What a setting costs: the command line, the arithmetic of the report, and a run of real servers."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from scripts.bench.process_tree import processor_s
from scripts.setting_cost import (
    BASELINE,
    CANDIDATE,
    SERVERS,
    TWIN,
    Found,
    Reading,
    measure,
    parse_arguments,
    per_image_s,
    report,
    setting,
)
from tests.conftest import ROOT
from tests.scripts import stand_in_wrk

RNG = np.random.default_rng(5)
SHAPE = (6, 8)


def noisy(value: float, noise: float = 0.003) -> np.ndarray:
    return value * np.exp(RNG.normal(0, noise, SHAPE))


def ratio(found: Mapping[str, np.ndarray]) -> float:
    """The settings' figures over the defaults': within a turn, median of a session, mean of sessions."""
    return np.exp(np.median(np.log(found[CANDIDATE] / found[BASELINE]), axis=1).mean())


def test_a_cost_is_told_from_the_noise_of_two_equal_servers() -> None:
    rates = {BASELINE: noisy(20), TWIN: noisy(20), CANDIDATE: noisy(18)}
    seconds = {BASELINE: noisy(0.1), TWIN: noisy(0.1), CANDIDATE: noisy(0.11)}
    throughput, processor = report(Found(rates, seconds), "YOLOFOLD_X=1").split("\n\n")
    for said, figures in ((throughput, rates), (processor, seconds)):
        assert f"YOLOFOLD_X=1 over the defaults: {ratio(figures):.3f} [" in said and said.count(", loss") == 1
    assert f"{BASELINE}: {np.median(rates[BASELINE]):.2f} images/s" in throughput
    assert f"{BASELINE}: {1000 * np.median(seconds[BASELINE]):.2f} ms" in processor
    assert "above 1 is a gain" in throughput and "below 1 is a gain" in processor


def test_more_images_and_less_processor_time_are_gains() -> None:
    rates = {BASELINE: noisy(20), TWIN: noisy(20), CANDIDATE: noisy(22)}
    seconds = {BASELINE: noisy(0.1), TWIN: noisy(0.1), CANDIDATE: noisy(0.09)}
    said = report(Found(rates, seconds), "S")
    assert said.count(", gain") == 2 and ratio(rates) > 1 > ratio(seconds)


def test_equals_are_not_told_apart() -> None:
    shared = noisy(20)
    figures = {BASELINE: shared, TWIN: shared * 0.99, CANDIDATE: shared * 1.005}
    assert report(Found(figures, figures), "S").count("indistinguishable") == 2


def test_a_small_cost_shows_in_the_processor_time_of_a_busy_machine() -> None:
    rates = {BASELINE: noisy(20, 0.2), TWIN: noisy(20, 0.2), CANDIDATE: noisy(20.3, 0.2)}
    seconds = {BASELINE: noisy(0.1), TWIN: noisy(0.1), CANDIDATE: noisy(0.0985)}
    throughput, processor = report(Found(rates, seconds), "S").split("\n\n")
    assert "indistinguishable" in throughput and ", gain" in processor


@pytest.mark.parametrize("wrong", ["DRIFT_CPU=0", "YOLOFOLD_DRIFT_CPU"])
def test_what_is_no_setting_is_refused(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_arguments(["--bundle", "x", wrong])
    assert "expected YOLOFOLD_NAME=VALUE" in capsys.readouterr().err


def test_a_value_may_hold_an_equals_sign() -> None:
    assert setting("YOLOFOLD_A=b=c") == ("YOLOFOLD_A", "b=c")


def test_asking_for_the_pictures_costs_none_of_them_anything() -> None:
    assert per_image_s(Reading(1.0, 10, 1.5), Reading(3.5, 14, 9.0)) == 0.5


def test_servers_are_loaded_by_turns_and_pay_for_what_they_do(
    bundle_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = 6
    notes = stand_in_wrk.install(tmp_path, monkeypatch, answers)
    options = parse_arguments(["--bundle", str(bundle_path), "--turns", "1", "YOLOFOLD_WORKERS=7"])
    options.sessions = 1  # enough for what is looked at here, not for an interval
    spent = processor_s()
    found = measure(options, tmp_path)
    spent = processor_s() - spent
    logs = {name: (tmp_path / f"{name}.log").read_text() for name in SERVERS}
    assert [name for name, log in logs.items() if "workers: 7" in log] == [CANDIDATE]
    warming, turn = (calls := stand_in_wrk.read_calls(notes))[:3], calls[3:]
    assert len(calls) == 6 and len({call.port for call in warming}) == len({call.port for call in turn}) == 3
    used = {name: float(figures[0, 0]) * answers for name, figures in found.processor_s.items()}
    for call in turn:
        (name,) = (name for name, log in logs.items() if f":{call.port}/" in log)
        # Both count in the kernel's ticks; what follows the last answer comes on top.
        assert used[name] >= call.server_s_after - call.server_s_before - 1e-6 > 0
        assert found.images_per_s[name][0, 0] > 0
    # By now all have ended and been waited for, and each has also started and warmed up.
    assert sum(used.values()) < spent


#: The program as it is; then whether its process adopts orphans (prctl's PR_GET_CHILD_SUBREAPER).
_ADOPTS = """
import ctypes, sys
from scripts.setting_cost import main
code, adopts = main(), ctypes.c_int()
ctypes.CDLL(None).prctl(37, ctypes.byref(adopts), 0, 0, 0)
print(adopts.value)
sys.exit(code)
"""


def test_a_missing_bundle_is_said_and_orphans_would_be_adopted(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _ADOPTS, "--bundle", str(tmp_path), "YOLOFOLD_X=1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "1\n") and "There is no bundle" in done.stderr, done.stderr

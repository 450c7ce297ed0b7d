"""Peak memory in real processes, of a size that the test knows."""

from pathlib import Path

import pytest

import service
from service.errors import MeasurementRefused
from service.measurement import peak_memory
from service.measurement.peak_memory import RUNS, measure_peak

MIB = 1 << 20

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells a process's peak")


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which modules to run can be put."""
    root = Path(service.__file__).parents[1]
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{root}")
    return tmp_path


def test_what_was_held_before_is_the_baseline_and_what_was_freed_still_counts(programs: Path) -> None:
    (programs / "two_blocks.py").write_text(f"""
from service.measurement.peak_memory import report_peak
before = bytearray(b"x" * (64 * {MIB}))
runs = []
def load():
    block = bytearray(b"x" * (200 * {MIB}))
    del block
    return lambda: runs.append(bytearray(b"x" * (10 * {MIB})))
report_peak(load)
assert len(runs) == {RUNS}
""")
    peak = measure_peak("ort_deployed", 4, ["two_blocks"])
    assert (peak.arm, peak.batch) == ("ort_deployed", 4)
    assert 64 * MIB < peak.baseline_bytes < 200 * MIB  # b"x" * n is a second copy for a moment
    above = peak.peak_bytes - peak.baseline_bytes
    # 200 MiB twice for a moment, less what the first block's second copy had already reached.
    assert 200 * MIB < above < 500 * MIB


def test_the_parents_memory_does_not_count(programs: Path) -> None:
    held = bytearray(b"x" * (300 * MIB))
    (programs / "nothing.py").write_text(
        "from service.measurement.peak_memory import report_peak\nreport_peak(lambda: lambda: None)\n"
    )
    peak = measure_peak("ort_deployed", 1, ["nothing"])
    assert len(held) > peak.peak_bytes


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("raise MemoryError('no room')", "ended with code 1 and said: MemoryError: no room"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "ended with code -9 and said: nothing"),
    ],
)
def test_a_program_that_dies_says_so(programs: Path, text: str, reason: str) -> None:
    (programs / "dies.py").write_text(text)
    with pytest.raises(MeasurementRefused, match=reason):
        measure_peak("ort_deployed", 1, ["dies"])


def test_a_program_that_hangs_is_ended(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak_memory, "TIMEOUT_S", 0.5)
    (programs / "hangs.py").write_text("import time; time.sleep(600)")
    with pytest.raises(MeasurementRefused, match="had not ended after"):
        measure_peak("ort_deployed", 1, ["hangs"])


def test_a_system_that_does_not_tell_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak_memory, "resident_peak_bytes", lambda: None)
    with pytest.raises(MeasurementRefused, match="does not tell"):
        peak_memory.report_peak(lambda: lambda: None)

"""Peak memory in real processes, of a size that the test knows, which end no later than whoever started them."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import service
from service.errors import MeasurementCancelled, MeasurementRefused
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


def wanted() -> None:
    """Nobody asks for the end."""


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
    peak = measure_peak("ort_deployed", 4, ["two_blocks"], wanted)
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
    peak = measure_peak("ort_deployed", 1, ["nothing"], wanted)
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
        measure_peak("ort_deployed", 1, ["dies"], wanted)


def test_a_program_that_hangs_is_ended(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak_memory, "TIMEOUT_S", 0.5)
    (programs / "hangs.py").write_text("import time; time.sleep(600)")
    with pytest.raises(MeasurementRefused, match="had not ended after"):
        measure_peak("ort_deployed", 1, ["hangs"], wanted)


#: Writes its process id where the test looks for it, and sleeps.
SLEEPER = """
import os, sys, time
from pathlib import Path
Path(sys.argv[1]).with_suffix(".new").write_text(str(os.getpid()))
Path(sys.argv[1]).with_suffix(".new").rename(sys.argv[1])
time.sleep(600)
"""


def runs(pid: int) -> bool:
    """False once it has ended, though nobody may have asked how."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for(condition: Callable[[], bool]) -> bool:
    until = time.monotonic() + 60
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def test_a_program_ends_when_the_measurement_is_not_wanted_any_more(programs: Path) -> None:
    (programs / "sleeper.py").write_text(SLEEPER)
    note = programs / "pid"

    def cancelled_once_it_runs() -> None:
        if note.exists():
            raise MeasurementCancelled("asked to end")

    with pytest.raises(MeasurementCancelled, match="asked to end"):
        measure_peak("ort_deployed", 1, ["sleeper", str(note)], cancelled_once_it_runs)
    assert not runs(int(note.read_text()))


def test_a_program_ends_with_the_process_that_started_it_even_if_that_is_killed(programs: Path) -> None:
    (programs / "sleeper.py").write_text(SLEEPER)
    note = programs / "pid"
    start = (
        "from service.measurement.peak_memory import measure_peak\n"
        f"measure_peak('ort_deployed', 1, ['sleeper', {str(note)!r}], lambda: None)"
    )
    starter = subprocess.Popen([sys.executable, "-c", start], cwd=Path(service.__file__).parents[1])
    try:
        assert wait_for(note.exists)
        assert runs(int(note.read_text()))
    finally:
        starter.send_signal(signal.SIGKILL)
        starter.wait()
    assert wait_for(lambda: not runs(int(note.read_text())))


def test_a_system_that_does_not_tell_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak_memory, "resident_peak_bytes", lambda: None)
    with pytest.raises(MeasurementRefused, match="does not tell"):
        peak_memory.report_peak(lambda: lambda: None)

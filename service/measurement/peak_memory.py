"""Most memory that loading and running one arm takes, each in a process of its own, where nothing else counts."""

import json
import subprocess
import time
from collections.abc import Callable, Sequence

from service.bundle.latency import PeakMemory
from service.child import child
from service.errors import MeasurementRefused
from service.machine import resident_peak_bytes
from service.measurement.timed_arm import Run

#: The second run of an engine may still allocate what the first only planned.
RUNS = 2
TIMEOUT_S = 600.0
_POLL_S = 0.1


def measure_peak(arm: str, batch: int, program: Sequence[str], require_wanted: Callable[[], None]) -> PeakMemory:
    """Run a program that ends with ``report_peak``, and read what it found. It never outlives this process.

    Args:
        arm, batch: recorded.
        program: module below ``service`` to run, and its arguments.
        require_wanted: called several times a second; what it raises ends the program and is passed on.

    Raises:
        MeasurementRefused: it ended without an answer, for instance because the system ran out of memory.
    """
    with child(program, stderr=subprocess.PIPE) as process:
        output, errors = _wait(process, require_wanted)
    if process.returncode:
        last = (errors.strip().splitlines() or ["nothing"])[-1]
        raise MeasurementRefused(f"The process that ran it ended with code {process.returncode} and said: {last}")
    return PeakMemory(arm=arm, batch=batch, **json.loads(output.splitlines()[-1]))


def _wait(process: subprocess.Popen[str], require_wanted: Callable[[], None]) -> tuple[str, str]:
    """What the program wrote, once it has ended by itself."""
    until = time.monotonic() + TIMEOUT_S
    while time.monotonic() < until:
        require_wanted()
        try:
            return process.communicate(timeout=_POLL_S)
        except subprocess.TimeoutExpired:
            continue
    raise MeasurementRefused(f"The process that ran it had not ended after {TIMEOUT_S:.0f} s.")


def report_peak(load: Callable[[], Run]) -> None:
    """Load and run an arm and print what ``measure_peak`` reads. To be called once, by a process made for it.

    Raises:
        MeasurementRefused: the system does not say how much memory a process has held.
    """
    baseline = resident_peak_bytes()
    run = load()
    for _ in range(RUNS):
        run()
    peak = resident_peak_bytes()
    if baseline is None or peak is None:
        raise MeasurementRefused("This system does not tell the peak of a process's memory; Linux does.")
    print(json.dumps({"baseline_bytes": baseline, "peak_bytes": peak}))

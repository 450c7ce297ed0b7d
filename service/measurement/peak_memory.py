"""Most memory that loading and running one arm takes, each in a process of its own, where nothing else counts."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import service
from service.bundle.latency import PeakMemory
from service.errors import MeasurementRefused
from service.machine import resident_peak_bytes
from service.measurement.runner import Run

#: The second run of an engine may still allocate what the first only planned.
RUNS = 2
TIMEOUT_S = 600.0


def measure_peak(arm: str, batch: int, program: Sequence[str]) -> PeakMemory:
    """Run a program that ends with ``report_peak``, and read what it found.

    Args:
        arm, batch: recorded.
        program: module below ``service`` to run, and its arguments.

    Raises:
        MeasurementRefused: it ended without an answer, for instance because the system ran out of memory.
    """
    command = [sys.executable, "-m", *program]
    try:
        done = subprocess.run(
            command, cwd=Path(service.__file__).parents[1], capture_output=True, text=True, timeout=TIMEOUT_S
        )
    except subprocess.TimeoutExpired as error:
        raise MeasurementRefused(f"The process that ran it had not ended after {TIMEOUT_S:.0f} s.") from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        raise MeasurementRefused(f"The process that ran it ended with code {done.returncode} and said: {last}")
    return PeakMemory(arm=arm, batch=batch, **json.loads(done.stdout.splitlines()[-1]))


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

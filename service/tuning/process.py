"""Starts the measuring process and takes its report."""

import signal
import subprocess
from pathlib import Path

from pydantic import ValidationError

from service.bundle.manifest import Record
from service.bundle.store import Bundle
from service.child import child
from service.errors import EngineError, EngineNotMeasured
from service.inference.tensorrt_engine import tensorrt_obstacle
from service.settings import Settings
from service.tuning.records import EngineChoice, Fingerprint

#: For the largest network on a slow machine, and where TensorRT may have to build engines. Past it something hangs.
_TIMEOUT_S, _BUILDING_TIMEOUT_S = 300.0, 3600.0
_PROGRAM = "service.tuning"


class Report(Record):
    """What the measuring process says at its end: a choice, or why there is none."""

    choice: EngineChoice | None = None
    failure: str | None = None


class Order(Record):
    """What is to be measured."""

    bundle: Path
    settings: Settings
    fingerprint: Fingerprint


def measure_apart(bundle: Bundle, settings: Settings, fingerprint: Fingerprint) -> EngineChoice:
    """Measure in a process of its own: a runtime that crashes or keeps memory does so there. It ends with this one.

    Raises:
        EngineError: no candidate can serve; EngineNotMeasured: the process gave no report.
    """
    timeout_s = longest_s(settings)
    order = Order(bundle=bundle.path.resolve(), settings=settings, fingerprint=fingerprint)
    try:
        with child([_PROGRAM, order.model_dump_json()]) as process:
            output, _ = process.communicate(timeout=timeout_s)
        report = Report.model_validate_json(output.splitlines()[-1])
    except OSError as error:
        raise _unmeasured(f"cannot be started: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise _unmeasured(f"did not end within {timeout_s:.0f} s") from error
    except (IndexError, ValidationError) as error:
        raise _unmeasured(f"{_end(process.returncode)} and without a report") from error
    if report.choice is None:
        raise EngineError(report.failure or "The measuring process gave no choice.")
    return report.choice


def longest_s(settings: Settings) -> float:
    """Seconds after which the measuring process is given up."""
    may_build = settings.device != "cpu" and tensorrt_obstacle() is None
    return _BUILDING_TIMEOUT_S if may_build else _TIMEOUT_S


def _end(status: int) -> str:
    if status == -signal.SIGKILL:
        return "was killed, as by a system that is out of memory,"
    return f"ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"


def _unmeasured(how: str) -> EngineNotMeasured:
    return EngineNotMeasured(
        f"YOLOFOLD_ENGINE=auto could not measure: the measuring process {how}. Set YOLOFOLD_ENGINE=onnxruntime."
    )

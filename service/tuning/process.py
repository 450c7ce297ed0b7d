"""Starts the measuring process and takes its report."""

import os
import subprocess
import sys
from pathlib import Path

from pydantic import ValidationError

import service
from service.bundle.manifest import Record
from service.bundle.store import Bundle
from service.errors import EngineError
from service.settings import Settings
from service.tuning.records import EngineChoice, Fingerprint

#: For the largest network on a slow machine. Past it something hangs.
_TIMEOUT_S = 300.0


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
    """Measure in a process of its own: a runtime that crashes or keeps memory does so there.

    Raises:
        EngineError: no candidate can serve, or the process failed.
    """
    order = Order(bundle=bundle.path.resolve(), settings=settings, fingerprint=fingerprint)
    root = str(Path(service.__file__).resolve().parent.parent)
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "service.tuning"],
            input=order.model_dump_json().encode(),
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": path},
            timeout=_TIMEOUT_S,
            check=False,
        )
        report = Report.model_validate_json(done.stdout.splitlines()[-1])
    except OSError as error:
        raise _unmeasured(f"cannot be started: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise _unmeasured(f"did not end within {_TIMEOUT_S:.0f} s") from error
    except (IndexError, ValidationError) as error:
        raise _unmeasured(f"ended with status {done.returncode} and without a report") from error
    if report.choice is None:
        raise EngineError(report.failure or "The measuring process gave no choice.")
    return report.choice


def _unmeasured(how: str) -> EngineError:
    return EngineError(
        f"YOLOFOLD_ENGINE=auto could not measure: the measuring process {how}. Set YOLOFOLD_ENGINE=onnxruntime."
    )

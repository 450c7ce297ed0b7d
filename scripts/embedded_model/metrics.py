"""`metrics.json`: what was measured of the shipped weights and how they came about. The model card is made of it."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scripts.embedded_model.defaults import DefaultConfidence, DefaultHead
from scripts.embedded_model.evaluation import Alarms, ClassScore, Recall, Report
from scripts.embedded_model.run_files import write_whole
from scripts.embedded_model.symbols import CLASS_NAMES


@dataclass(frozen=True)
class Provenance:
    """How weights came about.

    Attributes:
        pictures: generated pictures by split.
        epochs_begun: the last of them cut short by the clock.
        notes: what else a reader should know.
        earlier: the run whose weights this one started from.
        start_sha256: of the file that held those weights.
        epoch_map50: mAP50 of the one2many head on the val split after each epoch, as Ultralytics measured it.
        base_size: pixels of the longer side at which pictures were loaded and `epoch_map50` was measured.
        averaged: the weights are the mean of those at the end of this run and those that it started from.
        one2one_alone: only the one-to-one head was trained.
    """

    command: str
    data_seed: int
    train_seed: int
    pictures: dict[str, int]
    epochs_begun: int
    minutes: float
    notes: tuple[str, ...] = ()
    earlier: Provenance | None = None
    start_sha256: str | None = None
    epoch_map50: tuple[float, ...] = ()
    base_size: int = 512
    averaged: bool = False
    one2one_alone: bool = False


@dataclass(frozen=True)
class Metrics:
    """Everything that is said about one weights file.

    Attributes:
        weights_sha256: of that file; None in files written before it was noted.
        machine: CPU and library versions of the machine that trained and measured.
        confidence_of_counts: at which the reports count boxes.
        reports: one per head and input size.
    """

    weights_sha256: str | None
    machine: str
    provenance: Provenance
    default_head: DefaultHead
    default_confidence: DefaultConfidence
    confidence_of_counts: float
    reports: tuple[Report, ...]


def read_metrics(source: Path) -> Metrics:
    """What `write_metrics` stored.

    Raises:
        OSError, ValueError, KeyError, TypeError: the file is missing or is not one of ours.
    """
    stored = json.loads(source.read_text())
    return Metrics(
        weights_sha256=stored.get("weights_sha256"),
        machine=stored["machine"],
        provenance=provenance_of(stored["provenance"]),
        default_head=DefaultHead(**stored["default_head"]),
        default_confidence=DefaultConfidence(**stored["default_confidence"]),
        confidence_of_counts=stored["confidence_of_counts"],
        reports=tuple(_report(report) for report in stored["held_out"]),
    )


def provenance_of(stored: dict[str, Any]) -> Provenance:
    """The provenance that `asdict` turned into plain values."""
    earlier = stored.get("earlier")
    lists = {key: tuple(stored.get(key, ())) for key in ("notes", "epoch_map50")}
    return Provenance(**stored | lists | {"earlier": provenance_of(earlier) if earlier else None})


def _report(stored: dict[str, Any]) -> Report:
    return Report(
        **stored
        | {
            "classes": {name: ClassScore(**score) for name, score in stored["classes"].items()},
            "recall_by_extent": {name: Recall(**recall) for name, recall in stored["recall_by_extent"].items()},
            "false_alarms": Alarms(**stored["false_alarms"]),
        }
    )


def write_metrics(target: Path, metrics: Metrics) -> None:
    """Write the figures as JSON."""
    document: dict[str, Any] = {
        "classes": list(CLASS_NAMES),
        "weights_sha256": metrics.weights_sha256,
        "machine": metrics.machine,
        "provenance": asdict(metrics.provenance),
        "default_head": asdict(metrics.default_head),
        "default_confidence": asdict(metrics.default_confidence),
        "confidence_of_counts": metrics.confidence_of_counts,
        "held_out": [asdict(report) for report in metrics.reports],
    }
    write_whole(target, json.dumps(document, indent=2) + "\n")


def machine() -> str:
    """CPU, cores and library versions of this machine in one line."""
    import torch
    from ultralytics import __version__ as ultralytics_version

    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, ultralytics {ultralytics_version}"
    return f"{model}, {os.cpu_count()} cores, no GPU; {versions}"

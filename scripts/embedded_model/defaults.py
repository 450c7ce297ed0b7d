"""The defaults of a checkpoint: the head that finds more, and the lowest confidence whose F1 is about the highest.

A box too many can be looked at and dismissed, a code that was missed cannot be got back.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pycocotools  # noqa: F401  the evaluation needs it: to be missed before hours of training, not after

from scripts.embedded_model.evaluation import HEADS, Head
from service.evaluation.thresholds import SLACK

REPOSITORY = Path(__file__).resolve().parent.parent.parent
#: By how much the F1 of the one2many head must be higher. The other needs no suppression, and less is chance.
_WORTH_SUPPRESSION = 0.005


@dataclass(frozen=True)
class DefaultConfidence:
    """A confidence and, in words, how it was chosen."""

    value: float
    chosen: str


@dataclass(frozen=True)
class DefaultHead:
    """A head and, in words, how it was chosen."""

    value: Head
    chosen: str


@dataclass(frozen=True)
class Defaults:
    """What is served unless the operator says otherwise."""

    head: DefaultHead
    confidence: DefaultConfidence


@dataclass(frozen=True)
class Measured:
    """The highest F1 of a bundle, the confidence that follows from it, and on what it was measured, in words."""

    highest_f1: float
    confidence: DefaultConfidence
    words: str


def measure_defaults(checkpoint: Path, data: Path, work: Path) -> Defaults:
    """Prepare a bundle of each head of the checkpoint below `work` and evaluate both on the val split of `data`.

    The input size is the service's default.

    Raises:
        subprocess.CalledProcessError: a command failed; it has said why.
        ValueError: not one box of a head is right at any confidence.
    """
    one, many = (_measure_head(checkpoint, data, work / "defaults" / head, head) for head in HEADS)
    return choose_defaults(one, many)


def choose_defaults(one: Measured, many: Measured) -> Defaults:
    """The one2one head, of which `one` says how good it is, unless one2many is better than that by more than chance."""
    value: Head = "one2many" if many.highest_f1 > one.highest_f1 + _WORTH_SUPPRESSION else "one2one"
    head = DefaultHead(
        value,
        f"its highest F1 is {many.highest_f1:.3f} for one2many and {one.highest_f1:.3f} for one2one, {one.words}; "
        f"one2many, which needs suppression, has to be better by {_WORTH_SUPPRESSION:g}",
    )
    return Defaults(head, (many if value == "one2many" else one).confidence)


def _measure_head(checkpoint: Path, data: Path, work: Path, head: Head) -> Measured:
    bundles = work / "bundles"
    _service("prepare", "--force", "--weights", str(checkpoint), "--head", head, "--bundle-dir", str(bundles))
    bundle = max(bundles.glob("*/manifest.json"), key=lambda path: path.stat().st_mtime).parent
    return measure_bundle(bundle, data, work)


def measure_bundle(bundle: Path, data: Path, work: Path) -> Measured:
    """Evaluate a bundle on the val split of `data`; the report stays in `work/confidence.json`.

    Raises:
        subprocess.CalledProcessError: the evaluation failed; it has said why.
        ValueError: not one box is right at any confidence.
    """
    report_file = work / "confidence.json"
    _service("evaluate", "--data", str(data), "--split", "val", "--bundle-dir", str(bundle), "--json", str(report_file))
    report: dict[str, Any] = json.loads(report_file.read_text())
    model = json.loads((bundle / "manifest.json").read_text())["model"]
    best, lenient = (report["figures"]["points"][name] for name in ("best_f1", "lenient"))
    if best is None:
        raise ValueError(f"{bundle} finds nothing in {data}")
    words = (
        f"over all boxes of the {report['data']['pictures']} generated val pictures, {model['input']['width']} px, "
        "right from IoU 0.5"
    )
    chosen = (
        f"the lowest whose F1 ({lenient['f1']:.3f}) is within {SLACK:g} of the highest ({best['f1']:.3f}, at "
        f"{best['confidence']:g}) with the {model['head']['kind']} head {words}"
    )
    return Measured(best["f1"], DefaultConfidence(lenient["confidence"], chosen), words)


def _service(*arguments: str) -> None:
    # In a process of its own, because the service refuses an Ultralytics imported without safe loading.
    environ = {key: value for key, value in os.environ.items() if not key.startswith("YOLOFOLD_")}
    subprocess.run([sys.executable, "-m", "service", *arguments], cwd=REPOSITORY, env=environ, check=True)

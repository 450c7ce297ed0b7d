"""The default confidence of a checkpoint: the lowest of those whose F1 is about the highest.

A box too many can be looked at and dismissed, a code that was missed cannot be got back.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pycocotools  # noqa: F401  the evaluation needs it: to be missed before hours of training, not after

REPOSITORY = Path(__file__).resolve().parent.parent.parent


@dataclass(frozen=True)
class DefaultConfidence:
    """A confidence and, in words, how it was chosen."""

    value: float
    chosen: str


def measure_confidence(checkpoint: Path, data: Path, work: Path) -> DefaultConfidence:
    """Prepare a bundle of the checkpoint below `work` and evaluate it on the val split of `data`.

    Head and input size are the service's defaults.

    Raises:
        subprocess.CalledProcessError: a command failed; it has said why.
    """
    bundles = work / "confidence"
    _service("prepare", "--force", "--weights", str(checkpoint), "--bundle-dir", str(bundles))
    bundle = max(bundles.glob("*/manifest.json"), key=lambda path: path.stat().st_mtime).parent
    return best_confidence(bundle, data, work)


def best_confidence(bundle: Path, data: Path, work: Path) -> DefaultConfidence:
    """Evaluate a bundle on the val split of `data`; the report stays in `work/confidence.json`.

    Raises:
        subprocess.CalledProcessError: the evaluation failed; it has said why.
        ValueError: not one box is right at any confidence.
    """
    report_file = work / "confidence.json"
    _service("evaluate", "--data", str(data), "--split", "val", "--bundle-dir", str(bundle), "--json", str(report_file))
    report = json.loads(report_file.read_text())
    model = json.loads((bundle / "manifest.json").read_text())["model"]
    best, lenient = (report["figures"]["points"][name] for name in ("best_f1", "lenient"))
    if best is None:
        raise ValueError(f"{bundle} finds nothing in {data}")
    return DefaultConfidence(
        lenient["confidence"],
        f"the lowest whose F1 ({lenient['f1']:.3f}) is within 0.01 of the highest ({best['f1']:.3f}, at "
        f"{best['confidence']:g}) over all boxes of the {report['data']['pictures']} generated val pictures, "
        f"{model['head']['kind']} head, {model['input']['width']} px, right from IoU 0.5",
    )


def _service(*arguments: str) -> None:
    # In a process of its own, because the service refuses an Ultralytics imported without safe loading.
    environ = {key: value for key, value in os.environ.items() if not key.startswith("YOLOFOLD_")}
    subprocess.run([sys.executable, "-m", "service", *arguments], cwd=REPOSITORY, env=environ, check=True)

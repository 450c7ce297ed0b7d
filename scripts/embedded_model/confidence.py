"""The default confidence of a checkpoint: where its F1 is highest, measured with the service's own commands."""

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
    best = report["figures"]["points"]["best_f1"]
    if best is None:
        raise ValueError(f"{bundle} finds nothing in {data}")
    return DefaultConfidence(
        best["confidence"],
        f"highest F1 ({best['f1']:.3f}) over all boxes of the {report['data']['pictures']} generated val pictures, "
        f"{model['head']['kind']} head, {model['input']['width']} px, right from IoU 0.5",
    )


def _service(*arguments: str) -> None:
    # In a process of its own, because the service refuses an Ultralytics imported without safe loading.
    environ = {key: value for key, value in os.environ.items() if not key.startswith("YOLOFOLD_")}
    subprocess.run([sys.executable, "-m", "service", *arguments], cwd=REPOSITORY, env=environ, check=True)

"""Training checkpoint -> the small file that the service ships."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from ultralytics import __version__
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils.patches import torch_load

MAX_BYTES = 6 * 1024 * 1024

_LOCAL_ARGUMENTS = ("project", "save_dir", "resume", "name", "data", "model", "time")


def export_checkpoint(source: Path, target: Path) -> None:
    """Write the averaged weights of a training checkpoint as a plain float16 YOLO26 checkpoint.

    Optimizer state, machine paths and the training-only model class are left out; BatchNorm layers
    and their running statistics stay as trained.

    Raises:
        ValueError: the file would be larger than `MAX_BYTES`.
    """
    saved = torch_load(source, map_location="cpu", weights_only=False)
    model = (saved.get("ema") or saved["model"]).float()
    model.__class__ = DetectionModel
    model.criterion = None
    # A resumed run remembers the file that it was loaded from.
    vars(model).pop("pt_path", None)
    arguments = _portable(saved["train_args"])
    model.args = arguments
    model = model.half().to(memory_format=torch.contiguous_format)
    for parameter in model.parameters():
        parameter.requires_grad = False
    target.parent.mkdir(parents=True, exist_ok=True)
    torch.save(
        {
            "epoch": -1,
            "best_fitness": None,
            "model": model,
            "ema": None,
            "updates": None,
            "optimizer": None,
            "train_args": arguments,
            "date": saved["date"],
            "version": __version__,
            "license": "AGPL-3.0 (https://ultralytics.com/license)",
            "docs": "https://docs.ultralytics.com",
        },
        target,
    )
    if target.stat().st_size > MAX_BYTES:
        raise ValueError(f"{target} has {target.stat().st_size} bytes, more than {MAX_BYTES}")


def _portable(arguments: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in arguments.items() if key not in _LOCAL_ARGUMENTS}
    return kept | {"model": "yolo26n.yaml", "data": "data.yaml", "task": "detect"}

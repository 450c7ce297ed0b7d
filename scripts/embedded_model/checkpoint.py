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


def export_checkpoint(source: Path, target: Path, average_with: Path | None = None) -> None:
    """Write the averaged weights of a training checkpoint as a plain float16 YOLO26 checkpoint.

    Optimizer state, machine paths and the training-only model class are left out; BatchNorm layers
    and their running statistics stay as trained.

    Args:
        average_with: the checkpoint that the training started from: all weights, and the running statistics, become
            the mean of both. Two ends of one descent lie in one basin, whose middle is lower (Wortsman et al., "Model
            soups", 2022).

    Raises:
        ValueError: the file would be larger than `MAX_BYTES`.
    """
    saved = torch_load(source, map_location="cpu", weights_only=False)
    model = (saved.get("ema") or saved["model"]).float()
    model.__class__ = DetectionModel
    model.criterion = None
    if average_with is not None:
        _average(model, average_with)
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


def _average(model: DetectionModel, other: Path) -> None:
    saved = torch_load(other, map_location="cpu", weights_only=False)
    theirs = (saved.get("ema") or saved["model"]).float().state_dict()
    ours: dict[str, torch.Tensor] = model.state_dict()
    for name, value in ours.items():
        if value.is_floating_point():
            value.copy_((value + theirs[name]) / 2)


def _portable(arguments: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in arguments.items() if key not in _LOCAL_ARGUMENTS}
    return kept | {"model": "yolo26n.yaml", "data": "data.yaml", "task": "detect"}

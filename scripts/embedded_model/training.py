"""Ultralytics training of the embedded model, tuned to finish on a small CPU."""

from __future__ import annotations

import csv
import math
import random
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.nn.tasks import DetectionModel

BASE_SIZE = 512
RUN_NAME = "yolo26n-codes"
TRAIN_SEED = 26

_MANY_EPOCHS = 1000
_WARMUP_SHARE = 0.05
_FIRST_MANY_WEIGHT, _LAST_MANY_WEIGHT = 0.8, 0.1
_MOSAIC_SHARE = 0.4
_EARLY_SIZES = ((224, 0.30), (256, 0.30), (320, 0.30), (416, 0.10))
_LATE_SIZES = ((320, 0.25), (416, 0.30), (512, 0.25), (640, 0.20))
_EARLY_SHARE = 0.6


class _MixedPrecisionModel(DetectionModel):
    """DetectionModel whose training forward runs in bfloat16; the loss stays in float32."""

    def loss(self, batch: dict[str, Any], preds: Any = None) -> Any:
        """Total loss and its parts for a batch of RGB float images Nx3xSxS in [0, 1]."""
        if preds is None:
            with torch.autocast("cpu", torch.bfloat16):
                preds = self(batch["img"])
            preds = _to_float(preds)
        return super().loss(batch, preds)  # type: ignore[no-untyped-call]


def _to_float(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.float() if value.is_floating_point() else value
    if isinstance(value, dict):
        return {key: _to_float(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_to_float(item) for item in value)
    return value


class CodesTrainer(DetectionTrainer):
    """Trainer for a small CPU whose whole schedule follows the clock, not the epoch count.

    Forward passes run channels-last in bfloat16. With the time used up, learning rate, picture sizes,
    mosaic and the weight of the one-to-one head go from their first to their last values.
    """

    def __init__(self, overrides: dict[str, Any], hours: float, spent_seconds: float) -> None:
        """`spent_seconds` is what an interrupted run of the same `hours` has used already."""
        self._total_seconds = hours * 3600
        self._spent_seconds = spent_seconds
        self._mosaic_open = True
        left = max(self._total_seconds - spent_seconds, 1.0) / 3600
        super().__init__(overrides=overrides | {"time": left})

    def elapsed_share(self) -> float:
        """Share of the schedule's time that is over, 0..1."""
        seconds = self._spent_seconds + time.time() - self.train_time_start
        return min(seconds / self._total_seconds, 1.0)

    def get_model(self, *args: Any, **kwargs: Any) -> nn.Module:
        """Fresh or resumed model, ready for mixed precision."""
        model = super().get_model(*args, **kwargs)
        model.__class__ = _MixedPrecisionModel
        fast: nn.Module = model.to(memory_format=torch.channels_last)
        return fast

    def preprocess_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Apply the schedule, then scale the BGR-to-RGB batch to [0, 1] and to a random size."""
        share = self.elapsed_share()
        if share > _WARMUP_SHARE:
            self._apply_schedule(share)
        batch = super().preprocess_batch(batch)
        sizes, weights = zip(*(_EARLY_SIZES if share < _EARLY_SHARE else _LATE_SIZES), strict=True)
        size = int(random.choices(sizes, weights)[0])
        images = batch["img"]
        if size != images.shape[-1]:
            images = nn.functional.interpolate(images, size=size, mode="bilinear", align_corners=False)
        batch["img"] = images.contiguous(memory_format=torch.channels_last)
        return batch

    def _apply_schedule(self, share: float) -> None:
        fade = (1 + math.cos(math.pi * share)) / 2
        optimizer: Any = self.optimizer
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * (self.args.lrf + (1 - self.args.lrf) * fade)
        model: Any = self.model
        criterion = model.criterion
        criterion.o2m = _FIRST_MANY_WEIGHT + (_LAST_MANY_WEIGHT - _FIRST_MANY_WEIGHT) * share
        criterion.o2o = criterion.total - criterion.o2m
        if share > _MOSAIC_SHARE and self._mosaic_open:
            self._mosaic_open = False
            self._close_dataloader_mosaic()  # type: ignore[no-untyped-call]

    def _setup_scheduler(self) -> None:
        # Ultralytics guesses an epoch count from the time left and would stop there; only the clock may.
        self.epochs = self.args.epochs = _MANY_EPOCHS
        super()._setup_scheduler()  # type: ignore[no-untyped-call]


def seconds_spent(results: Path) -> float:
    """Seconds of an interrupted run's finished epochs; the noted clock restarts with each resumption."""
    if not results.exists():
        return 0.0
    with results.open() as file:
        times = [float(row["time"]) for row in csv.DictReader(file)]
    ends = [now for now, after in zip(times, [*times[1:], 0.0], strict=True) if after < now]
    return sum(ends)


def train(data: Path, work: Path, hours: float, threads: int) -> Path:
    """Train from `yolo26n.yaml` for about `hours`, or go on from `last.pt`; returns the last checkpoint.

    Returns at once if the run has used its time already.
    """
    run = work / RUN_NAME
    last = run / "weights" / "last.pt"
    overrides: dict[str, Any] = {
        "model": "yolo26n.yaml",
        "data": str(data),
        "project": str(work),
        "name": RUN_NAME,
        "exist_ok": True,
        "imgsz": BASE_SIZE,
        "batch": 16,
        "nbs": 16,
        "optimizer": "MuSGD",
        "lr0": 0.01,
        "lrf": 0.02,
        "cos_lr": True,
        "warmup_epochs": 0.3,
        "weight_decay": 0.0005,
        "mosaic": 0.5,
        "close_mosaic": 0,
        "scale": 0.5,
        "fliplr": 0.5,
        "flipud": 0.5,
        "hsv_h": 0.03,
        "hsv_s": 0.5,
        "hsv_v": 0.4,
        "bgr": 0.05,
        "amp": False,
        "device": "cpu",
        "workers": 2,
        "cache": "ram",
        "seed": TRAIN_SEED,
        "deterministic": False,
        "pretrained": False,
        "plots": False,
    }
    if last.exists():
        overrides |= {"model": str(last), "resume": str(last)}
    spent = seconds_spent(run / "results.csv")
    if last.exists() and spent >= hours * 3600:
        return last
    trainer = CodesTrainer(overrides, hours, spent)
    # Ultralytics leaves one core idle on the CPU; on two cores that halves the speed.
    trainer.add_callback("on_train_start", lambda _trainer: torch.set_num_threads(threads))
    trainer.train()  # type: ignore[no-untyped-call]
    return last

"""Ultralytics training of the embedded model, tuned to finish on a small CPU."""

from __future__ import annotations

import math
import random
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils.patches import torch_load

from scripts.embedded_model.bn_history import BatchNormHistory
from scripts.embedded_model.run_state import HISTORY, LAST, Progress, RunRefused, note_progress, open_run, read_progress

BASE_SIZE = 640
RUN_NAME = "yolo26n-codes"
TRAIN_SEED = 26

_MANY_EPOCHS = 1000
_WARMUP_SHARE = 0.02
_MOSAIC_SHARE = 0.3
_HISTORY_SAMPLES = 100


class Framing(NamedTuple):
    """One way to make a training batch out of pictures of `BASE_SIZE`: shrink or enlarge them, or cut a window out."""

    size: int
    window: bool
    weight: float


class HeadWeights(NamedTuple):
    """How much the loss of each head counts.

    The one-to-one head sees detached features, so `many` also is the rate of backbone and neck, `one` of that head
    alone: they need not share a total.
    """

    many: float
    one: float


class Schedule(NamedTuple):
    """What changes with the used share of a run's time: picture sizes and, evenly, the weights of the heads."""

    rate: float
    early: tuple[Framing, ...]
    early_share: float
    late: tuple[Framing, ...]
    first_weights: HeadWeights
    last_weights: HeadWeights


# Windows keep the scale of a large picture at the price of a small one; whole pictures keep its outline.
_SMALL = (
    Framing(224, False, 0.20),
    Framing(256, True, 0.15),
    Framing(320, False, 0.35),
    Framing(320, True, 0.30),
)
_MEDIUM = (
    Framing(320, False, 0.25),
    Framing(320, True, 0.30),
    Framing(416, False, 0.20),
    Framing(512, False, 0.15),
    Framing(640, False, 0.10),
)
# What is served is a whole picture of 640 px, whose edges are sharper than those of any smaller one: boxes are only
# as exact there as the network has met that sharpness and, of codes that fill the picture, that size.
_LARGE = (
    Framing(320, False, 0.10),
    Framing(320, True, 0.25),
    Framing(416, False, 0.10),
    Framing(416, True, 0.10),
    Framing(512, False, 0.15),
    Framing(640, False, 0.30),
)
FRESH = Schedule(0.01, _SMALL, 0.65, _MEDIUM, HeadWeights(0.8, 0.2), HeadWeights(0.3, 0.7))
# A warm start knows the small sizes, keeps more of what it learnt when the rate does not go back to its height,
# and need not lead the one-to-one head by the other any more.
WARM = Schedule(0.004, _MEDIUM, 0.25, _LARGE, HeadWeights(0.6, 0.8), HeadWeights(0.5, 0.8))
# A network whose last weights are a mean, or whose one-to-one head still trails the other: only that head moves, at a
# third of the price of a step, on the sizes that are served.
ALONE = Schedule(0.004, _LARGE, 0.0, _LARGE, HeadWeights(0.0, 0.8), HeadWeights(0.0, 0.8))
# Index of the heads' layer in `yolo26n.yaml`, and what Ultralytics calls all that is not the one-to-one head.
_HEAD = 23
_ALL_BUT_ONE2ONE = [*range(_HEAD), f"{_HEAD}.cv2", f"{_HEAD}.cv3"]
# A label whose box keeps less than this share of its area within the window is dropped with its code.
_VISIBLE_SHARE = 0.3


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
    mosaic and the weights of the heads go from their first to their last values.
    """

    def __init__(
        self, overrides: dict[str, Any], schedule: Schedule, hours: float, run: Path, behind: Progress
    ) -> None:
        """`behind` is what an interrupted run of the same `hours` has behind it."""
        self._run = run
        self._schedule = schedule
        self._history = BatchNormHistory(run / HISTORY, _HISTORY_SAMPLES, behind.step)
        self._total_seconds = hours * 3600
        self._spent_seconds = behind.seconds
        self._mosaic_open = True
        left = max(self._total_seconds - behind.seconds, 1.0) / 3600
        super().__init__(overrides=overrides | {"time": left})

    def elapsed_share(self) -> float:
        """Share of the schedule's time that is over, 0..1."""
        return min(self._seconds() / self._total_seconds, 1.0)

    def _seconds(self) -> float:
        return self._spent_seconds + time.time() - self.train_time_start

    def save_model(self) -> bool:
        """Note what lies behind the checkpoint, then write it."""
        note_progress(self._run, Progress(self.epoch + 1, self._seconds(), self._history.step))
        written: bool = super().save_model()  # type: ignore[no-untyped-call]
        return written

    def get_model(self, *args: Any, **kwargs: Any) -> nn.Module:
        """Fresh or resumed model, ready for mixed precision."""
        model = super().get_model(*args, **kwargs)
        model.__class__ = _MixedPrecisionModel
        fast: nn.Module = model.to(memory_format=torch.channels_last)
        return fast

    def optimizer_step(self) -> None:
        """Note the BatchNorm layers and their gradients before the step uses them up."""
        model: Any = self.model
        self._history.count_step(self.elapsed_share(), model)
        super().optimizer_step()  # type: ignore[no-untyped-call]

    def preprocess_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Apply the schedule, then scale the BGR-to-RGB batch to [0, 1] and frame it at random."""
        share = self.elapsed_share()
        if share > _WARMUP_SHARE:
            self._apply_schedule(share)
        batch = super().preprocess_batch(batch)
        framings = self._schedule.early if share < self._schedule.early_share else self._schedule.late
        framing = random.choices(framings, [f.weight for f in framings])[0]
        if framing.window:
            batch = cut_window(batch, framing.size, random.random(), random.random())
        elif framing.size != batch["img"].shape[-1]:
            batch["img"] = nn.functional.interpolate(
                batch["img"], size=framing.size, mode="bilinear", align_corners=False
            )
        batch["img"] = batch["img"].contiguous(memory_format=torch.channels_last)
        return batch

    def _apply_schedule(self, share: float) -> None:
        fade = (1 + math.cos(math.pi * share)) / 2
        optimizer: Any = self.optimizer
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * (self.args.lrf + (1 - self.args.lrf) * fade)
        model: Any = self.model
        if getattr(model, "criterion", None) is None:  # it is made with the first loss, which may be late on the clock
            model.criterion = model.init_criterion()
        criterion = model.criterion
        first, last = self._schedule.first_weights, self._schedule.last_weights
        criterion.o2m = first.many + (last.many - first.many) * share
        criterion.o2o = first.one + (last.one - first.one) * share
        if share > _MOSAIC_SHARE and self._mosaic_open:
            self._mosaic_open = False
            self._close_dataloader_mosaic()  # type: ignore[no-untyped-call]

    def _setup_scheduler(self) -> None:
        # Ultralytics guesses an epoch count from the time left and would stop there; only the clock may.
        self.epochs = self.args.epochs = _MANY_EPOCHS
        super()._setup_scheduler()  # type: ignore[no-untyped-call]


def cut_window(batch: dict[str, Any], size: int, across: float, down: float) -> dict[str, Any]:
    """Cut the same square window out of every picture of a batch, with the labels that stay visible.

    Args:
        batch: `img` NxCxSxS with S at least `size`; `bboxes` Mx4 (centre x, centre y, width, height, relative to
            S), `cls` Mx1 and `batch_idx` M.
        size: side of the window in pixels.
        across, down: place of the window, 0 (left, top) to 1 (right, bottom).
    """
    side = batch["img"].shape[-1]
    left, top = round(across * (side - size)), round(down * (side - size))
    corner = torch.tensor([left, top])
    center, extent = batch["bboxes"][:, :2] * side, batch["bboxes"][:, 2:] * side
    low = (center - extent / 2 - corner).clamp(0, size)
    high = (center + extent / 2 - corner).clamp(0, size)
    visible = (high - low).prod(1) >= _VISIBLE_SHARE * extent.prod(1)
    boxes = torch.cat([(low + high) / 2, high - low], 1) / size
    return batch | {
        "img": batch["img"][..., top : top + size, left : left + size],
        "bboxes": boxes[visible],
        "cls": batch["cls"][visible],
        "batch_idx": batch["batch_idx"][visible],
    }


def _behind(run: Path, hours: float) -> tuple[Progress, bool]:
    """What lies behind the last checkpoint of a run, and whether nothing is left to do."""
    if not (run / LAST).exists():
        return Progress(0, 0.0, 0), False
    # Ultralytics writes -1 into the checkpoint of a run that came to its end.
    saved = int(torch_load(run / LAST, map_location="cpu", weights_only=False)["epoch"])
    behind = read_progress(run, None if saved < 0 else saved + 1)
    if saved < 0 and behind.seconds < hours * 3600:
        raise RunRefused(
            f"The run in {run} has ended after {behind.seconds / 3600:.3f} hours; it cannot be made longer. Give "
            f"--hours {behind.seconds / 3600:.3f} or less to measure it, or another --work with --start-from to go on."
        )
    return behind, behind.seconds >= hours * 3600


def train(
    data: Path, work: Path, hours: float, threads: int, start_from: Path | None = None, one2one_alone: bool = False
) -> Path:
    """Train `yolo26n.yaml` for about `hours`, or go on from `last.pt`; returns the last checkpoint.

    The first weights are random, or those of the checkpoint `start_from`. Returns at once if the run has used
    its time already.

    Args:
        one2one_alone: train the one-to-one head and leave everything else as it is, BatchNorm's statistics included.

    Raises:
        RunRefused: a run in `work` began with something else, or cannot be resumed.
    """
    run = work / RUN_NAME
    last = run / LAST
    open_run(run, start_from, one2one_alone)
    behind, is_over = _behind(run, hours)
    if is_over:
        print(f"The run in {run} has had its {hours:g} hours: it is not trained any further.")
        return last
    schedule = ALONE if one2one_alone else FRESH if start_from is None else WARM
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
        "lr0": schedule.rate,
        "lrf": 0.02,
        "cos_lr": True,
        "warmup_epochs": 0.2,
        "weight_decay": 0.0005,
        "mosaic": 0.4,
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
        "pretrained": str(start_from) if start_from else False,
        "plots": False,
    }
    if one2one_alone:
        # Ultralytics validates the other head, which stays as it is.
        overrides |= {"freeze": _ALL_BUT_ONE2ONE, "val": False}
    if last.exists():
        overrides |= {"model": str(last), "resume": str(last)}
    trainer = CodesTrainer(overrides, schedule, hours, run, behind)
    # Ultralytics leaves one core idle on the CPU; on two cores that halves the speed.
    trainer.add_callback("on_train_start", lambda _trainer: torch.set_num_threads(threads))
    trainer.train()  # type: ignore[no-untyped-call]
    return last

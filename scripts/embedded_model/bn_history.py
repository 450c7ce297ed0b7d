"""How BatchNorm settled: one JSON line per sample of a training run, small enough to ship."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import torch
from torch import nn

from scripts.embedded_model.run_files import append_line, read_lines, write_lines


def stage_of(name: str) -> int:
    """Index of the YAML stage that owns a module called like `model.4.cv1.bn`."""
    return int(name.split(".")[1])


def sample_stages(model: nn.Module) -> list[dict[str, float]]:
    """Per stage with BatchNorm: means over its channels of |running mean|, running variance, |gamma|.

    `gradient` is the Euclidean norm over all weights of the stage; call it between the backward pass and
    the optimizer's step. Values are rounded to four significant digits.
    """
    rows: dict[int, dict[str, list[torch.Tensor]]] = defaultdict(lambda: defaultdict(list))
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and module.running_var is not None:
            row = rows[stage_of(name)]
            row["mean"].append(module.running_mean.abs())
            row["variance"].append(module.running_var)
            row["gamma"].append(module.weight.detach().abs())
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and stage_of(name) in rows:
            rows[stage_of(name)]["gradient"].append(parameter.grad.square().sum().reshape(1))
    return [_summary(stage, row) for stage, row in sorted(rows.items())]


def _summary(stage: int, row: dict[str, list[torch.Tensor]]) -> dict[str, float]:
    values = {key: float(torch.cat(row[key]).mean()) for key in ("mean", "variance", "gamma")}
    gradient = float(torch.cat(row["gradient"]).sum().sqrt()) if row["gradient"] else 0.0
    return {"stage": stage} | {key: float(f"{value:.4g}") for key, value in (values | {"gradient": gradient}).items()}


class BatchNormHistory:
    """Appends samples, evenly spaced over the schedule, to a JSON-lines file; a resumed run goes on there."""

    def __init__(self, target: Path, samples: int, step: int = 0) -> None:
        """At most about `samples` lines for the whole schedule.

        `step` is that of the checkpoint which the run goes on from: lines of later steps, lost with an
        interrupted run, are dropped.
        """
        self._target = target
        self._samples = samples
        self._next_share, self.step = 0.0, step
        kept = [line for line in read_lines(target) if line["step"] <= step]
        write_lines(target, kept)
        if kept:
            self._next_share = float(kept[-1]["share"]) + 1 / samples

    def count_step(self, share: float, model: nn.Module) -> None:
        """Count a training step; write a line if `share` (0..1) of the schedule has passed the next point."""
        self.step += 1
        if share < self._next_share:
            return
        self._next_share = share + 1 / self._samples
        append_line(self._target, {"share": round(share, 4), "step": self.step, "stages": sample_stages(model)})

"""From a checkpoint and pictures to a recalibrated checkpoint, which is opened like any other."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from service.bundle.store import sha256_file
from service.prepare.bn_stats import read_arrays
from service.prepare.checkpoint import load_model
from service.prepare.population_statistics import Fitted, Statistics, recalibrate_network
from service.prepare.weights import Checkpoint

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """Mean and variance (channels,) of one BatchNorm's input."""

    mean: Array
    var: Array


@dataclass(frozen=True)
class RecalibratedCheckpoint:
    """The new file and what is known about it.

    Attributes:
        checkpoint: ready to be prepared.
        arrays: gamma, beta, running mean and variance of every BatchNorm in it, float32 (channels,), under
            ``"<layer>/<array>"``.
        halves: what each half of the pictures shows by itself, by BatchNorm; those that never run are missing.
        residual: see ``Recalibrated``.
    """

    checkpoint: Checkpoint
    arrays: dict[str, NDArray[np.float32]]
    halves: dict[str, tuple[Moments, Moments]]
    residual: float


def recalibrate_checkpoint(
    source: Checkpoint,
    fitted: Fitted,
    *,
    pictures: int,
    prior: float,
    folder: Path,
    advance: Callable[[int, int], None],
) -> RecalibratedCheckpoint:
    """Estimate new statistics and write them with everything else into ``folder``; the source is only read.

    Args:
        fitted, pictures, prior, advance: see ``recalibrate_network``.

    Raises:
        UnreadableCheckpoint, UnsupportedModel: as ``load_model``.
        RecalibrationError: as ``recalibrate_network``.
    """
    loaded = load_model(source.path)
    result = recalibrate_network(
        loaded.network, fitted, pictures=pictures, prior=prior, scratch=folder, advance=advance
    )
    path = folder / f"{source.path.stem}-recalibrated.pt"
    _write(result.network, path, origin=source.path.name)
    note = f"Its BatchNorm was recalibrated on {pictures} unlabelled pictures with a prior of {prior:g}."
    arrays = {
        f"{name}/{key}": values
        for name, layer in result.network.named_modules()
        if isinstance(layer, nn.BatchNorm2d)
        for key, values in read_arrays(layer).items()
    }
    return RecalibratedCheckpoint(
        Checkpoint(path, sha256_file(path), "local", source.requested, note),
        arrays,
        {name: (_moments(a), _moments(b)) for name, (a, b) in result.halves.items()},
        result.residual,
    )


def _moments(statistics: Statistics) -> Moments:
    return Moments(statistics.mean.numpy(), statistics.var.numpy())


def _write(network: nn.Module, path: Path, origin: str) -> None:
    """In float32, so that the statistics keep the digits they were estimated to.

    Args:
        origin: takes the place of the source's path, which would tell where that lay and make equal networks unequal
            files.
    """
    network.pt_path = origin  # type: ignore[assignment]
    torch.save({"model": network, "ema": None, "train_args": dict(network.args), "epoch": -1}, path)  # type: ignore[arg-type]

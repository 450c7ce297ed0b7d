"""Every BatchNorm2d of a checkpoint, read before anything is folded."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from service.bundle.batchnorm import (
    DEAD_STD,
    BatchNormLayer,
    BatchNormReport,
    BatchNormTotals,
    ConvKind,
    Distribution,
    FoldStatus,
)
from service.bundle.manifest import HeadKind
from service.prepare.checkpoint import blocks, stage_of_block
from service.prepare.dataflow import CONVOLUTIONS, BatchNormSite
from service.prepare.fold import scale_and_shift

Array = NDArray[np.float32]
_PERCENTILES = (5, 25, 50, 75, 95)


@dataclass(frozen=True)
class BatchNormStats:
    """The report for ``bn_stats.json`` and the arrays for ``bn_stats.npz`` under ``"<layer>/<array>"``."""

    report: BatchNormReport
    arrays: dict[str, Array]


def collect_bn_stats(
    network: nn.Module,
    sites: Mapping[str, BatchNormSite],
    full_sites: Mapping[str, BatchNormSite],
    head: HeadKind,
) -> BatchNormStats:
    """Read every BatchNorm2d of the whole checkpoint, unused head included.

    Args:
        network: the network with both heads, before folding.
        sites: BatchNorms seen to run in the network with one head.
        full_sites: the same for the network with both heads; places the dropped ones.
        head: the head that is kept, named in the reason of what is dropped.
    """
    layers: list[BatchNormLayer] = []
    arrays: dict[str, Array] = {}
    for name, module in network.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            layer_arrays = read_arrays(module)
            arrays |= {f"{name}/{key}": value for key, value in layer_arrays.items()}
            site = sites.get(name) or full_sites.get(name)
            status, reason = _status(sites.get(name), head)
            layers.append(_layer(network, name, module, layer_arrays, site, status, reason))
    return BatchNormStats(BatchNormReport(totals=_totals(layers), layers=layers), arrays)


def read_arrays(batchnorm: nn.BatchNorm2d) -> dict[str, Array]:
    """gamma, beta, running mean, running var, scale and shift of one BatchNorm, each (channels,) float32.

    Without running statistics, mean and var are those of an untouched BatchNorm: 0 and 1.
    """
    channels = batchnorm.num_features
    if batchnorm.running_mean is None:
        untouched = nn.BatchNorm2d(channels, eps=batchnorm.eps, affine=batchnorm.affine)
        untouched.load_state_dict(batchnorm.state_dict(), strict=False)
        batchnorm = untouched
    scale, shift = scale_and_shift(batchnorm)
    ones, zeros = torch.ones(channels), torch.zeros(channels)
    values = {
        "gamma": ones if batchnorm.weight is None else batchnorm.weight,
        "beta": zeros if batchnorm.bias is None else batchnorm.bias,
        "running_mean": batchnorm.running_mean,
        "running_var": batchnorm.running_var,
        "scale": scale,
        "shift": shift,
    }
    return {key: value.detach().float().numpy().copy() for key, value in values.items() if value is not None}


def describe_distribution(values: NDArray[np.floating]) -> Distribution:
    """Extremes, linear-interpolated percentiles, mean and population standard deviation, taken in float64."""
    wide = values.astype(np.float64)
    p05, p25, p50, p75, p95 = (float(q) for q in np.percentile(wide, _PERCENTILES))
    return Distribution(
        min=float(wide.min()),
        p05=p05,
        p25=p25,
        p50=p50,
        p75=p75,
        p95=p95,
        max=float(wide.max()),
        mean=float(wide.mean()),
        std=float(wide.std()),
    )


def dead_channels(gamma: Array, running_var: Array, eps: float) -> list[int]:
    """Channels whose output barely moves: |gamma| sqrt(var / (var + eps)) <= 0.001.

    That product is the standard deviation the BatchNorm gives its output when its input has the running variance.
    """
    var = running_var.astype(np.float64)
    std = np.abs(gamma.astype(np.float64)) * np.sqrt(var / (var + eps))
    return [int(i) for i in np.flatnonzero(std <= DEAD_STD)]


def conv_kind(conv: nn.Conv2d | nn.ConvTranspose2d) -> ConvKind:
    """depthwise: one group per input channel; pointwise: a dense 1x1; grouped: anything else with groups."""
    if isinstance(conv, nn.ConvTranspose2d):
        return "transposed"
    if conv.groups == conv.in_channels > 1:
        return "depthwise"
    if conv.groups > 1:
        return "grouped"
    return "pointwise" if tuple(conv.kernel_size) == (1, 1) else "conv"


def _status(site: BatchNormSite | None, head: HeadKind) -> tuple[FoldStatus, str | None]:
    if site is None:
        return "dropped", f"it does not run when only the {head} head is kept"
    if site.obstacle is not None:
        return "unfoldable", site.obstacle
    return "folded", None


def _layer(
    network: nn.Module,
    name: str,
    module: nn.BatchNorm2d,
    arrays: dict[str, Array],
    site: BatchNormSite | None,
    status: FoldStatus,
    reason: str | None,
) -> BatchNormLayer:
    conv = network.get_submodule(site.conv) if site and site.conv else None
    block = int(name.split(".")[1])
    tracked = module.num_batches_tracked
    return BatchNormLayer(
        name=name,
        conv=site.conv if site else None,
        kind=conv_kind(conv) if isinstance(conv, CONVOLUTIONS) else None,
        activation=site.activation if site else None,
        stage=stage_of_block(network)[block],
        block=type(blocks(network)[block]).__name__,
        channels=module.num_features,
        eps=module.eps,
        momentum=module.momentum,
        num_batches_tracked=None if tracked is None else int(tracked),
        affine=module.affine,
        status=status,
        reason=reason,
        **{key: describe_distribution(value) for key, value in arrays.items()},
        dead_channels=dead_channels(arrays["gamma"], arrays["running_var"], module.eps),
        eps_dominated_channels=[int(i) for i in np.flatnonzero(arrays["running_var"] < module.eps)],
    )


def _totals(layers: list[BatchNormLayer]) -> BatchNormTotals:
    kept = [layer for layer in layers if layer.status != "dropped"]
    return BatchNormTotals(
        layers=len(layers),
        channels=sum(layer.channels for layer in layers),
        folded=sum(layer.status == "folded" for layer in layers),
        dropped=sum(layer.status == "dropped" for layer in layers),
        unfoldable=sum(layer.status == "unfoldable" for layer in layers),
        dead_channels=sum(len(layer.dead_channels) for layer in kept),
        eps_dominated_channels=sum(len(layer.eps_dominated_channels) for layer in kept),
    )

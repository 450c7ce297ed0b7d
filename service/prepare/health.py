"""The health report: every layer's figures, the ledger of dead channels and the warnings that follow from them."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from service.bundle.batchnorm import BatchNormLayer
from service.bundle.health import (
    COLLAPSED_SHARE,
    TINY_VARIANCE_OF_EPS,
    WEAK_GAMMA,
    BatchNormHealth,
    DeadChannel,
    FoldedWeights,
    LayerHealth,
    NetworkHealth,
    RemovalCounts,
)
from service.bundle.manifest import HeadKind
from service.prepare.bn_stats import BatchNormStats, describe_distribution
from service.prepare.dataflow import BatchNormSite
from service.prepare.deployed_network import DeployedNetwork
from service.prepare.fold import FoldResult
from service.prepare.health_warnings import collect_warnings
from service.prepare.layer_figures import (
    Array,
    describe_weights,
    expected_range,
    fits_half,
    infinite_in_half,
    law_std,
    small_in_half,
)
from service.prepare.ledger import Ledger, not_judged
from service.prepare.operations import conv_positions, record_operations

# The operations are the same at every size; this is the least at which a head can propose 300 boxes.
_RECORDED_SIDE = 128


@dataclass(frozen=True)
class HealthReport:
    """The report for ``bn_health.json`` and the arrays it adds to ``bn_stats.npz``, under ``"<layer>/<array>"``."""

    report: BatchNormHealth
    arrays: dict[str, NDArray[np.float32]]


def assess_health(
    stats: BatchNormStats,
    sites: Mapping[str, BatchNormSite],
    reference: nn.Module,
    result: FoldResult,
    ledger: Ledger,
) -> HealthReport:
    """Reckon what the BatchNorm figures mean.

    Args:
        stats: what every BatchNorm held.
        sites: BatchNorms seen to run in ``reference``, in execution order.
        reference: the network before folding.
        result: what ``fold_batchnorm(reference, ...)`` returned.
        ledger: of the folded network.
    """
    layers: list[LayerHealth] = []
    dead: list[DeadChannel] = []
    arrays: dict[str, NDArray[np.float32]] = {}
    execution = {name: index for index, name in enumerate(sites)}
    for layer in stats.report.layers:
        figures = _Figures(layer, stats.arrays)
        entries, weights = _judge(layer, figures, sites.get(layer.name), ledger), None
        if layer.status == "folded":
            weights = _weights(reference, result.network, str(layer.conv))
        dead.extend(entries)
        arrays |= {f"{layer.name}/{key}": value.astype(np.float32) for key, value in figures.arrays().items()}
        layers.append(figures.describe(execution.get(layer.name), entries, weights))
    network = _network(stats, layers, dead, ledger)
    warnings = collect_warnings(stats.report.layers, layers, network)
    return HealthReport(BatchNormHealth(network=network, layers=layers, ledger=dead, warnings=warnings), arrays)


def open_ledger(result: FoldResult, head: HeadKind, imgsz: int) -> Ledger:
    """Record the folded network as it is deployed, with its MACs counted at (imgsz, imgsz)."""
    deployed = DeployedNetwork(result.network, head).eval()
    graph = record_operations(deployed.network, lambda: deployed.candidates(_blank(_RECORDED_SIDE)))
    positions = conv_positions(deployed.network, lambda: deployed.candidates(_blank(imgsz)))
    return Ledger(deployed.network, graph, positions)


def _blank(side: int) -> torch.Tensor:
    return torch.zeros(1, side, side, 3, dtype=torch.uint8)


class _Figures:
    """One BatchNorm's arrays in float64, and what follows from them."""

    def __init__(self, layer: BatchNormLayer, arrays: Mapping[str, NDArray[np.float32]]) -> None:
        self._layer = layer
        self.gamma, self.beta, self._mean, self._var = (
            arrays[f"{layer.name}/{key}"].astype(np.float64) for key in ("gamma", "beta", "running_mean", "running_var")
        )
        self.std = law_std(self.gamma, self._var, layer.eps)
        self._range = expected_range(layer.activation, self.beta, self.std)

    def arrays(self) -> dict[str, Array]:
        """The per-channel arrays of HEALTH_ARRAYS; NaN where a range is not known."""
        low, high = self._range or (np.full_like(self.beta, np.nan),) * 2
        return {"law_mean": self.beta, "law_std": self.std, "expected_low": low, "expected_high": high}

    def describe(
        self, execution_index: int | None, dead: list[DeadChannel], weights: FoldedWeights | None
    ) -> LayerHealth:
        layer = self._layer
        weak = np.abs(self.gamma) <= WEAK_GAMMA
        weak[layer.dead_channels] = True
        return LayerHealth(
            name=layer.name,
            execution_index=execution_index,
            abs_gamma=describe_distribution(np.abs(self.gamma)),
            weak_share=float(weak.mean()),
            collapsed=bool(weak.mean() >= COLLAPSED_SHARE),
            dead_share=len(layer.dead_channels) / layer.channels,
            eps_dominated_share=len(layer.eps_dominated_channels) / layer.channels,
            removal=None if layer.status == "dropped" else _count(dead),
            tiny_variance_channels=[int(i) for i in np.flatnonzero(self._var < TINY_VARIANCE_OF_EPS * layer.eps)],
            law_std=describe_distribution(self.std),
            expected_low=None if self._range is None else float(self._range[0].min()),
            expected_high=None if self._range is None else float(self._range[1].max()),
            fp16_infinite_variances=infinite_in_half(self._var),
            fp16_subnormal_variances=small_in_half(self._var),
            half_precision=fits_half(np.concatenate((self.gamma, self.beta, self._mean, self._var))),
            initial_statistics=bool((self._mean == 0).all() and (self._var == 1).all()),
            initial_affine=bool((self.gamma == 1).all() and (self.beta == 0).all()),
            memory_batches=(2 - layer.momentum) / layer.momentum if layer.momentum else None,
            weights=weights,
        )


def _judge(layer: BatchNormLayer, figures: _Figures, site: BatchNormSite | None, ledger: Ledger) -> list[DeadChannel]:
    if site is None:
        return []
    channels = [(channel, float(figures.beta[channel]), float(figures.std[channel])) for channel in layer.dead_channels]
    if site.obstacle is not None:
        reason = f"Its BatchNorm is not folded: {site.obstacle}."
        return [not_judged(layer.name, channel, mean, std, reason) for channel, mean, std in channels]
    return [ledger.judge(site, channel, mean, std) for channel, mean, std in channels]


def _count(dead: list[DeadChannel]) -> RemovalCounts:
    kinds = [entry.removal for entry in dead]
    return RemovalCounts(
        exact=kinds.count("exact"),
        border=kinds.count("border"),
        approximate=kinds.count("approximate"),
        unknown=kinds.count("unknown"),
    )


def _weights(reference: nn.Module, folded: nn.Module, conv: str) -> FoldedWeights:
    before, after = (_rows(network.get_submodule(conv)) for network in (reference, folded))
    bias = folded.get_submodule(conv).get_parameter("bias").detach().numpy().astype(np.float64)
    return describe_weights(before, after, bias)


def _rows(conv: nn.Module) -> Array:
    """A convolution's weights as float64 (output channels, weights of each)."""
    weight = conv.get_parameter("weight").detach().numpy().astype(np.float64)
    if isinstance(conv, nn.ConvTranspose2d):
        # Stored as (in, out / groups, kh, kw): the outputs of a group stand under each of its inputs.
        weight = weight.reshape(conv.groups, -1, *weight.shape[1:]).swapaxes(1, 2)
        return weight.reshape(conv.out_channels, -1)
    return weight.reshape(len(weight), -1)


def _network(
    stats: BatchNormStats, layers: list[LayerHealth], dead: list[DeadChannel], ledger: Ledger
) -> NetworkHealth:
    kept = [layer for layer in stats.report.layers if layer.status != "dropped"]
    gammas = np.concatenate([np.abs(stats.arrays[f"{layer.name}/gamma"]) for layer in kept])
    names = {layer.name for layer in kept}
    return NetworkHealth(
        abs_gamma=describe_distribution(gammas),
        macs=ledger.macs(),
        removable_exactly=ledger.joint_savings(entry for entry in dead if entry.removal == "exact"),
        removable=ledger.joint_savings(entry for entry in dead if entry.removal != "unknown"),
        collapsed_layers=sum(layer.collapsed for layer in layers if layer.name in names),
        keep_in_float=[layer.name for layer in layers if layer.weights and layer.weights.int8_scheme == "float"],
    )

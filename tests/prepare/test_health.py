"""The health report of a network with planted faults, against torch on the unfolded checkpoint and numpy in float64."""

import copy
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from ultralytics.nn.modules import Conv

from service.bundle.batchnorm import BatchNormLayer
from service.bundle.health import HEALTH_ARRAYS, WARNING_KINDS, BatchNormWarning, DeadChannel, LayerHealth
from service.prepare.bn_stats import BatchNormStats, collect_bn_stats
from service.prepare.checkpoint import drop_unused_head
from service.prepare.dataflow import observe_dataflow
from service.prepare.deployed_network import DeployedNetwork
from service.prepare.fold import FoldResult, fold_batchnorm
from service.prepare.health import HealthReport, assess_health, open_ledger
from tests.faults import (
    BORDER,
    COLLAPSED,
    DROPPED,
    EXACT,
    FROZEN,
    HUGE,
    RESIDUAL,
    STILL,
    TINY,
    UNCALIBRATED,
    VICTIM,
    WIDE,
    plant_faults,
)
from tests.networks import calibrated_network, photographs

IMGSZ = 160
SHARED = "model.1.bn"  # its convolution gets a second BatchNorm here


@dataclass(frozen=True)
class Assessed:
    """The network with its faults, and what was found."""

    reference: nn.Module
    result: FoldResult
    stats: BatchNormStats
    health: HealthReport

    def layer(self, name: str) -> tuple[BatchNormLayer, LayerHealth]:
        index = [layer.name for layer in self.stats.report.layers].index(name)
        assert self.health.report.layers[index].name == name
        return self.stats.report.layers[index], self.health.report.layers[index]

    def warnings(self, name: str | None) -> dict[str, BatchNormWarning]:
        return {w.code: w for w in self.health.report.warnings if w.layer == name}

    def dead(self, name: str) -> list[DeadChannel]:
        return [entry for entry in self.health.report.ledger if entry.layer == name]


class TwoNorms(Conv):
    """A convolution that two BatchNorms read."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return self.act(self.bn(y) + 0.1 * self.second(y))


@pytest.fixture(scope="module")
def assessed() -> Assessed:
    network = calibrated_network("yolo26n.yaml").requires_grad_(False)
    plant_faults(network)
    shared = network.get_submodule(SHARED.removesuffix(".bn"))
    shared.bn.weight[VICTIM] = 0.0
    shared.second, shared.__class__ = copy.deepcopy(shared.bn), TwoNorms
    reference = copy.deepcopy(network)
    drop_unused_head(reference, "one2one")
    sites = observe_dataflow(reference).sites
    stats = collect_bn_stats(network, sites, observe_dataflow(network).sites, "one2one")
    result = fold_batchnorm(reference, sites)
    health = assess_health(stats, sites, reference, result, open_ledger(result, "one2one", IMGSZ))
    return Assessed(reference, result, stats, health)


def float64(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().double().numpy()


def folded_weights(batchnorm: nn.BatchNorm2d, conv: nn.Conv2d) -> tuple[np.ndarray, np.ndarray]:
    """Weights and bias of the folded convolution, reckoned here in float64."""
    scale = float64(batchnorm.weight) / np.sqrt(float64(batchnorm.running_var) + batchnorm.eps)
    bias = float64(batchnorm.bias) - float64(batchnorm.running_mean) * scale
    return float64(conv.weight) * scale[:, None, None, None], bias


def test_every_layer_is_described_in_the_order_of_the_statistics(assessed: Assessed) -> None:
    report = assessed.health.report
    assert [layer.name for layer in report.layers] == [layer.name for layer in assessed.stats.report.layers]
    order: list[str] = []
    handles = [
        module.register_forward_hook(lambda *_, name=name: order.append(name))
        for name, module in assessed.reference.named_modules()
        if isinstance(module, nn.BatchNorm2d)
    ]
    with torch.no_grad():
        assessed.reference(photographs(IMGSZ)[:1])
    for handle in handles:
        handle.remove()
    found = {layer.name: layer.execution_index for layer in report.layers if layer.execution_index is not None}
    assert sorted(found, key=found.__getitem__) == order
    dropped = {layer.name for layer in assessed.stats.report.layers if layer.status == "dropped"}
    assert dropped == {layer.name for layer in report.layers if layer.execution_index is None}


def test_figures_equal_float64(assessed: Assessed) -> None:
    for layer, found in zip(assessed.stats.report.layers, assessed.health.report.layers, strict=True):
        if layer.status == "dropped":
            continue
        batchnorm = assessed.reference.get_submodule(layer.name)
        gamma, beta, var = (float64(t) for t in (batchnorm.weight, batchnorm.bias, batchnorm.running_var))
        std = np.sqrt(gamma**2 * var / (var + batchnorm.eps))
        arrays = {key: assessed.health.arrays[f"{layer.name}/{key}"] for key in HEALTH_ARRAYS}
        np.testing.assert_array_equal(arrays["law_mean"], beta.astype(np.float32))
        np.testing.assert_allclose(arrays["law_std"], std, rtol=1e-6)
        assert found.law_std.mean == pytest.approx(std.mean(), rel=1e-6)
        assert found.abs_gamma.p50 == pytest.approx(np.median(np.abs(gamma)), rel=1e-6)
        assert found.weak_share == np.mean((std <= 1e-3) | (np.abs(gamma) <= 0.01))
        assert found.collapsed == (found.weak_share >= 0.5) == (layer.name == COLLAPSED)
        assert found.tiny_variance_channels == np.flatnonzero(var < 1e-2 * batchnorm.eps).tolist()
        if layer.name == STILL:
            assert found.memory_batches is None
        else:
            assert found.memory_batches == pytest.approx((2 - batchnorm.momentum) / batchnorm.momentum)
        if layer.activation == "SiLU":
            grid = beta[:, None] + std[:, None] * np.linspace(-6, 6, 4001)
            reached = nn.functional.silu(torch.from_numpy(grid)).numpy()
            # Between two points of the grid SiLU, whose second derivative is at most 0.5, falls no further than this.
            missed = 0.5 / 2 * (std * 12 / 4000 / 2) ** 2
            assert (np.abs(arrays["expected_low"] - reached.min(1)) <= missed + 1e-6).all()
            np.testing.assert_allclose(arrays["expected_high"], reached.max(1), rtol=1e-5, atol=1e-6)
            assert found.expected_low == pytest.approx(arrays["expected_low"].min(), abs=1e-6)
            assert found.expected_high == pytest.approx(reached.max(), rel=1e-6)


def test_weights_equal_a_fold_in_float64(assessed: Assessed) -> None:
    for layer, found in zip(assessed.stats.report.layers, assessed.health.report.layers, strict=True):
        assert (found.weights is None) == (layer.status != "folded")
        if found.weights is None:
            continue
        conv = assessed.reference.get_submodule(layer.conv)
        weights, bias = folded_weights(assessed.reference.get_submodule(layer.name), conv)
        assert found.weights.before_min == float64(conv.weight).min()
        assert found.weights.after_min == pytest.approx(weights.min(), rel=1e-6)
        assert found.weights.after_max == pytest.approx(weights.max(), rel=1e-6)
        peaks = np.abs(weights).max((1, 2, 3))
        assert found.weights.range_ratio == pytest.approx(peaks.max() / np.median(peaks), rel=1e-5)
        for peak, decibel in (
            (np.full_like(peaks, peaks.max()), found.weights.sqnr_per_tensor_db),
            (peaks, found.weights.sqnr_per_channel_db),
        ):
            step = np.where(peak > 0, peak, 1)[:, None, None, None] / 127
            noise = weights - np.round(weights / step) * step
            # float32 rounding of the served weights moves a few of them over a half.
            assert decibel == pytest.approx(10 * np.log10((weights**2).sum() / (noise**2).sum()), abs=0.05)
        half = np.abs(np.concatenate((weights.ravel(), bias)))
        small = ((half > 0) & (half < 2.0**-14 * (1 - 2.0**-11))).mean()
        assert found.weights.small_share == pytest.approx(small, abs=2 / len(half))


def test_network_totals(assessed: Assessed) -> None:
    network = assessed.health.report.network
    kept = [m for m in assessed.reference.modules() if isinstance(m, nn.BatchNorm2d)]
    gammas = np.concatenate([np.abs(float64(module.weight)) for module in kept])
    found = [getattr(network.abs_gamma, key) for key in ("min", "p05", "p50", "p95", "max")]
    np.testing.assert_allclose(found, np.percentile(gammas, [0, 5, 50, 95, 100]), rtol=1e-6)
    deployed = DeployedNetwork(assessed.result.network, "one2one").eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        deployed.candidates(torch.zeros(1, IMGSZ, IMGSZ, 3, dtype=torch.uint8))
    convolutions = {op: n for op, n in counter.get_flop_counts()["Global"].items() if "convolution" in str(op)}
    assert network.macs == sum(convolutions.values()) // 2 > 1e8
    assert network.collapsed_layers == 1


# --- planted faults ----------------------------------------------------------------------------------------


def raw_outputs(network: nn.Module) -> list[torch.Tensor]:
    with torch.no_grad():
        _, raw = network(photographs(IMGSZ))
    one2one = raw.get("one2one", raw)
    return [one2one["boxes"], one2one["scores"]]


def without(network: nn.Module, entry: DeadChannel, conv_name: str) -> nn.Module:
    """The network with the channel spoilt and its readers' biases changed as the ledger says."""
    smaller = copy.deepcopy(network)
    own = smaller.get_submodule(conv_name)
    own.weight[entry.channel], own.bias[entry.channel] = 0.0, 1e4
    for reader in entry.readers:
        conv = smaller.get_submodule(reader.conv)
        taken_over = reader.constant * conv.weight[:, reader.channel].sum((1, 2))
        conv.bias = nn.Parameter(taken_over if conv.bias is None else conv.bias + taken_over, requires_grad=False)
        conv.weight[:, reader.channel] = 0.0
    return smaller


def test_an_exact_channel_can_be_removed_from_the_whole_network(assessed: Assessed) -> None:
    (entry,) = assessed.dead(EXACT)
    assert (entry.channel, entry.removal, entry.mean) == (VICTIM, "exact", pytest.approx(0.7))
    assert [reader.conv for reader in entry.readers] == ["model.2.cv2.conv"]
    folded = assessed.result.network
    for before, after in zip(raw_outputs(folded), raw_outputs(without(folded, entry, "model.2.cv1.conv")), strict=True):
        assert (before - after).abs().max() < 1e-4 * before.abs().max()


def test_a_padded_reader_makes_a_removal_approximate_at_borders(assessed: Assessed) -> None:
    (entry,) = assessed.dead(BORDER)
    assert (entry.removal, [reader.conv for reader in entry.readers]) == ("border", ["model.1.conv"])
    assert entry.readers[0].constant == pytest.approx(0.7 / (1 + np.exp(-0.7)), rel=1e-6)
    folded, smaller = assessed.result.network, without(assessed.result.network, entry, "model.0.conv")
    image = photographs(IMGSZ)[:1]
    with torch.no_grad():
        maps = [net.get_submodule("model.1.conv")(net.get_submodule("model.0")(image)) for net in (folded, smaller)]
    change = (maps[0] - maps[1]).abs().amax((0, 1))
    # A stride of 2 over an even number of rows reaches the padding at the top and the left only.
    assert change[1:, 1:].max() < 1e-4 < 1e-3 < min(change[0].min(), change[:, 0].min())


def test_a_residual_addition_is_not_judged(assessed: Assessed) -> None:
    (entry,) = assessed.dead(RESIDUAL)
    assert entry.removal == "unknown" and "added" in entry.reason


def test_dropped_layers_are_neither_in_the_ledger_nor_warned_of(assessed: Assessed) -> None:
    layer, health = assessed.layer(DROPPED)
    assert layer.dead_channels == [VICTIM] and health.removal is None
    assert assessed.dead(DROPPED) == [] and assessed.warnings(DROPPED) == {}


def test_a_dead_channel_of_a_batchnorm_that_stays_is_not_judged(assessed: Assessed) -> None:
    (entry,) = assessed.dead(SHARED)
    assert entry.removal == "unknown" and "not folded" in entry.reason
    assert assessed.layer(SHARED)[1].removal.unknown == 1


def test_removals_are_counted_per_layer_and_saved_jointly(assessed: Assessed) -> None:
    counts = assessed.layer(EXACT)[1].removal
    assert (counts.exact, counts.border, counts.approximate, counts.unknown) == (1, 0, 0, 0)
    network, (entry,) = assessed.health.report.network, assessed.dead(EXACT)
    assert (network.removable_exactly.macs, network.removable_exactly.bytes) == (entry.macs, entry.bytes)
    judged = [entry for entry in assessed.health.report.ledger if entry.removal != "unknown"]
    assert network.removable.channels == len(judged) > 1
    assert network.removable.macs <= sum(entry.macs for entry in judged)


@pytest.mark.parametrize(
    ("layer", "code", "severity"),
    [
        (COLLAPSED, "collapsed-layer", "critical"),
        (FROZEN, "frozen-batchnorm", "critical"),
        (UNCALIBRATED, "uncalibrated-batchnorm", "critical"),
        (HUGE, "fp16-variance-overflow", "critical"),
        (STILL, "frozen-statistics", "warning"),
        (EXACT, "dead-channels", "warning"),
        (TINY, "tiny-variance", "warning"),
        (TINY, "eps-dominated", "info"),
        (SHARED, "unfoldable", "warning"),
        ("model.1.second", "unfoldable", "warning"),
        (WIDE, "int8-wide-range", "warning"),
    ],
)
def test_each_fault_is_warned_of(assessed: Assessed, layer: str, code: str, severity: str) -> None:
    warning = assessed.warnings(layer)[code]
    assert warning.severity == severity == WARNING_KINDS[code].severity
    assert warning.action == WARNING_KINDS[code].action and warning.message.endswith(WARNING_KINDS[code].meaning)


def test_nothing_else_is_critical(assessed: Assessed) -> None:
    critical = {w.layer for w in assessed.health.report.warnings if w.severity == "critical"}
    assert critical == {COLLAPSED, FROZEN, UNCALIBRATED, HUGE}
    assert assessed.warnings(None) == {}  # float32 values do not fit half precision


def test_warnings_come_by_severity_and_then_in_the_order_of_the_layers(assessed: Assessed) -> None:
    warnings = assessed.health.report.warnings
    position = {layer.name: i for i, layer in enumerate(assessed.stats.report.layers)}
    severities = ("critical", "warning", "info")
    keys = [(severities.index(w.severity), position[w.layer], w.code) for w in warnings]
    assert keys == sorted(keys)


def test_a_variance_beyond_half_precision_names_its_channel(assessed: Assessed) -> None:
    _, health = assessed.layer(HUGE)
    half = assessed.reference.get_submodule(HUGE).running_var.half()
    assert health.fp16_infinite_variances == half.isinf().nonzero().flatten().tolist() == [4]


def test_a_checkpoint_saved_in_half_precision_says_so() -> None:
    network = calibrated_network("yolo26n.yaml").half().float().requires_grad_(False)
    reference = copy.deepcopy(network)
    drop_unused_head(reference, "one2one")
    sites = observe_dataflow(reference).sites
    stats = collect_bn_stats(network, sites, observe_dataflow(network).sites, "one2one")
    result = fold_batchnorm(reference, sites)
    report = assess_health(stats, sites, reference, result, open_ledger(result, "one2one", 128)).report
    assert all(layer.half_precision for layer in report.layers)
    assert [w.code for w in report.warnings if w.layer is None] == ["half-precision-statistics"]

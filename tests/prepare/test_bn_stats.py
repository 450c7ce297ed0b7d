"""BatchNorm figures against the checkpoint's own tensors, read independently and reckoned in numpy float64."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from service.bundle.store import Bundle
from service.prepare.bn_stats import collect_bn_stats
from service.prepare.checkpoint import drop_unused_head
from service.prepare.dataflow import observe_dataflow
from tests.networks import calibrated_network


@pytest.fixture(scope="module")
def raw(embedded_checkpoint: Path) -> nn.Module:
    """The embedded checkpoint as torch itself unpickles it."""
    saved = torch.load(embedded_checkpoint, map_location="cpu", weights_only=False)
    return (saved.get("ema") or saved["model"]).float()


def float64_arrays(module: nn.BatchNorm2d) -> dict[str, np.ndarray]:
    gamma, beta, mean, var = (
        t.detach().numpy().astype(np.float64)
        for t in (module.weight, module.bias, module.running_mean, module.running_var)
    )
    scale = gamma / np.sqrt(var + module.eps)
    return {
        "gamma": gamma,
        "beta": beta,
        "running_mean": mean,
        "running_var": var,
        "scale": scale,
        "shift": beta - mean * scale,
    }


def test_every_batchnorm_of_the_checkpoint_is_reported(bundle: Bundle, raw: nn.Module) -> None:
    expected = {name: m for name, m in raw.named_modules() if isinstance(m, nn.BatchNorm2d)}
    layers = {layer.name: layer for layer in bundle.batchnorm.layers}
    assert list(layers) == list(expected)
    for name, module in expected.items():
        layer = layers[name]
        assert (layer.channels, layer.eps, layer.momentum) == (
            module.num_features,
            module.eps,
            module.momentum,
        )
        assert layer.num_batches_tracked == int(module.num_batches_tracked)


def test_arrays_and_summaries_equal_float64(bundle: Bundle, raw: nn.Module) -> None:
    for layer in bundle.batchnorm.layers:
        expected = float64_arrays(raw.get_submodule(layer.name))
        found = bundle.batchnorm_arrays(layer.name, tuple(expected))
        for key, values in expected.items():
            np.testing.assert_allclose(found[key], values, rtol=2e-7, atol=1e-7, err_msg=f"{layer.name} {key}")
            summary = getattr(layer, key)
            figures = [
                summary.min,
                summary.p05,
                summary.p50,
                summary.p95,
                summary.max,
                summary.mean,
                summary.std,
            ]
            reckoned = [*np.percentile(values, [0, 5, 50, 95, 100]), values.mean(), values.std()]
            np.testing.assert_allclose(figures, reckoned, rtol=1e-5, atol=1e-6)
        std = np.abs(expected["gamma"]) * np.sqrt(expected["running_var"] / (expected["running_var"] + layer.eps))
        assert layer.dead_channels == np.flatnonzero(std <= 1e-3).tolist()
        assert layer.eps_dominated_channels == np.flatnonzero(expected["running_var"] < layer.eps).tolist()


def test_yolo26n_folds_ninety_six_and_drops_the_other_head(bundle: Bundle) -> None:
    totals = bundle.batchnorm.totals
    assert (totals.layers, totals.folded, totals.dropped, totals.unfoldable) == (114, 96, 18, 0)
    dropped = [layer for layer in bundle.batchnorm.layers if layer.status == "dropped"]
    assert all(layer.name.startswith(("model.23.cv2.", "model.23.cv3.")) for layer in dropped)
    kept = [layer for layer in bundle.batchnorm.layers if layer.status == "folded"]
    assert sum(layer.activation == "Identity" for layer in kept) == 9
    assert sum(layer.kind == "depthwise" for layer in kept) == 8


def test_the_layer_tree_names_the_conv_of_every_batchnorm(bundle: Bundle, raw: nn.Module) -> None:
    convs = {conv.name: conv for block in bundle.layers.blocks for conv in block.convs}
    assert set(convs) == {name for name, m in raw.named_modules() if isinstance(m, nn.Conv2d)}
    behind = {conv.batch_norm: conv for conv in convs.values() if conv.batch_norm}
    for layer in bundle.batchnorm.layers:
        assert behind[layer.name].name == layer.conv == layer.name.removesuffix("bn") + "conv"
    assert sum(conv.status == "plain" for conv in convs.values()) == 6


def test_planted_faults_are_found() -> None:
    network = calibrated_network("yolo26n.yaml")
    victim = network.get_submodule("model.2.cv1.bn")
    victim.weight.data[[1, 5]] = 0.0
    victim.weight.data[2] = -0.5
    victim.running_var[3], victim.running_var[4] = 1e-9, 5e-4
    victim.eps = 2e-3
    reference = calibrated_network("yolo26n.yaml")
    drop_unused_head(reference, "one2one")
    sites = observe_dataflow(reference).sites
    report = collect_bn_stats(network, sites, observe_dataflow(network).sites, "one2one").report
    layer = next(entry for entry in report.layers if entry.name == "model.2.cv1.bn")
    assert layer.eps == 2e-3
    assert set(layer.dead_channels) >= {1, 5, 3} and 2 not in layer.dead_channels
    assert set(layer.eps_dominated_channels) >= {3, 4}

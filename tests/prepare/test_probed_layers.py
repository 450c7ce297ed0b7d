"""Which layers a probe measures, of several architectures, and that it runs at any size."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from service.bundle.store import Bundle
from service.inference.probe import Probe
from service.prepare.bn_stats import collect_bn_stats
from service.prepare.checkpoint import choose_head, drop_unused_head
from service.prepare.dataflow import observe_dataflow
from service.prepare.deployed_network import DeployedNetwork
from service.prepare.export import export_onnx
from service.prepare.fold import fold_batchnorm
from service.prepare.health import open_ledger
from service.prepare.probe import write_probe
from service.preprocessing.corruptions import CORRUPTIONS
from tests.networks import calibrated_network, photographs

IMGSZ = 128


def test_the_first_two_folded_convolutions_are_always_probed(bundle: Bundle) -> None:
    folded = {
        f"network.{layer.conv}.weight": layer.conv for layer in bundle.batchnorm.layers if layer.status == "folded"
    }
    nodes = onnx.load(bundle.deployed_graph).graph.node
    order = [folded[node.input[1]] for node in nodes if node.op_type == "Conv" and node.input[1] in folded]
    layers = bundle.probe.layers
    assert [layer.conv for layer in layers[:2]] == order[:2]
    assert [layer.chosen for layer in layers] == ["first"] * 2 + ["sensitive"] * (len(layers) - 2)
    assert [order.index(layer.conv) for layer in layers] == sorted(order.index(layer.conv) for layer in layers)
    assert all(set(layer.sensitivity) == set(CORRUPTIONS) for layer in layers)
    assert 0 < bundle.probe.macs_share < 0.3


def test_the_graph_ends_where_its_last_layer_does(bundle: Bundle) -> None:
    weights = {initializer.name for initializer in onnx.load(bundle.probe_graph).graph.initializer}
    assert {f"network.{layer.conv}.weight" for layer in bundle.probe.layers} <= weights
    assert len(weights) < len(onnx.load(bundle.deployed_graph).graph.initializer) / 2


@pytest.mark.parametrize("architecture", ["yolov8n.yaml", "yolo11n.yaml", "yolo12n.yaml", "yolov10n.yaml"])
def test_other_architectures_with_a_dead_channel(architecture: str, tmp_path: Path) -> None:
    network = calibrated_network(architecture)
    network.get_submodule("model.0.bn").weight.data[3] = 0.0
    head = choose_head(network, "auto")
    everything = observe_dataflow(network).sites
    drop_unused_head(network, head)
    sites = observe_dataflow(network).sites
    report = collect_bn_stats(network, sites, everything, head).report
    result = fold_batchnorm(network, sites)
    export_onnx(DeployedNetwork(result.network, head).eval(), tmp_path / "model.onnx", IMGSZ, len(result.unfoldable))
    macs = open_ledger(result, head, IMGSZ).macs_of_each()
    spec = write_probe(tmp_path / "model.onnx", tmp_path / "probe.onnx", report, macs, IMGSZ)
    assert 3 not in spec.layers[0].feature_channels and spec.layers[0].channels == 16
    outputs: dict[str, torch.Tensor] = {}
    for layer in spec.layers:
        network.get_submodule(str(layer.batch_norm)).register_forward_hook(
            lambda _, __, output, name=layer.conv: outputs.update({name: output[0].double().flatten(1)})
        )
    probe = Probe(tmp_path / "probe.onnx")
    for size in (320, 224):  # neither is the size that was traced
        tensor = photographs(size)[0]
        reading = probe.measure(tensor.numpy())
        with torch.inference_mode():
            network(tensor[None])
        maps = [outputs[layer.conv].numpy() for layer in spec.layers]
        means, variances = (
            np.concatenate(moments) for moments in zip(*((m.mean(1), m.var(1)) for m in maps), strict=True)
        )
        np.testing.assert_allclose(reading.means, means, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(reading.variances, variances, rtol=1e-3, atol=1e-6)

"""The ONNX files: what they hold is counted, and what they answer is compared with torch and Ultralytics."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from ultralytics.utils.nms import non_max_suppression

from service.bundle.store import Bundle
from service.errors import ExportFailed
from service.prepare.deployed_network import MAX_DET, NMS_IOU, DeployedNetwork, best_class, suppress
from service.prepare.export import check_graph_outputs, export_onnx, inspect_graph
from service.prepare.proof_inputs import proof_inputs
from tests.networks import calibrated_network


def test_the_reference_graph_really_keeps_its_batchnorm(bundle: Bundle) -> None:
    def count(path: Path) -> int:
        return sum(node.op_type == "BatchNormalization" for node in onnx.load(path).graph.node)

    ran = bundle.batchnorm.totals.layers - bundle.batchnorm.totals.dropped
    assert count(bundle.reference_graph) == bundle.manifest.reference.batch_normalization_nodes == ran
    assert count(bundle.deployed_graph) == bundle.manifest.deployed.batch_normalization_nodes == 0


def test_a_wrong_count_is_refused(bundle: Bundle) -> None:
    with pytest.raises(ExportFailed, match="96 BatchNormalization nodes, not 95"):
        inspect_graph(bundle.reference_graph, 95)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_the_batch_dimension_is_dynamic(bundle: Bundle, batch: int) -> None:
    session = ort.InferenceSession(bundle.deployed_graph)
    (entry,), (exit_,) = session.get_inputs(), session.get_outputs()
    side = bundle.manifest.model.input.height
    assert (entry.name, entry.type, entry.shape) == ("images", "tensor(uint8)", ["batch", side, side, 3])
    assert (exit_.name, exit_.type) == ("detections", "tensor(float)")
    images = np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), np.uint8)
    found = session.run(None, {"images": images})[0]
    assert found.shape == (batch, MAX_DET, 6) and found.dtype == np.float32
    for image, rows in zip(images, found, strict=True):
        alone = session.run(None, {"images": image[None]})[0][0]
        np.testing.assert_allclose(rows, alone, rtol=1e-3, atol=1e-3)


def test_reference_and_deployed_graph_agree_on_pictures(bundle: Bundle) -> None:
    side = bundle.manifest.model.input.height
    sessions = [ort.InferenceSession(path) for path in (bundle.reference_graph, bundle.deployed_graph)]
    for item in proof_inputs(side):
        expected, found = (s.run(None, {"images": item.image.numpy()})[0][0] for s in sessions)
        kept = expected[:, 4] > 0.05
        np.testing.assert_allclose(found[kept], expected[kept], rtol=1e-3, atol=1e-2)


def random_predictions(seed: int, classes: int = 4, anchors: int = 600) -> torch.Tensor:
    """Corner boxes that overlap a lot and scores of which most are low: (2, 4 + classes, anchors)."""
    generator = torch.Generator().manual_seed(seed)
    centre = torch.rand(2, 2, anchors, generator=generator) * 200
    side = 20 + 60 * torch.rand(2, 2, anchors, generator=generator)
    scores = torch.rand(2, classes, anchors, generator=generator) ** 3
    return torch.cat((centre - side / 2, centre + side / 2, scores), 1)


@pytest.mark.parametrize("seed", range(5))
def test_suppression_equals_ultralytics(seed: int) -> None:
    predictions = random_predictions(seed)
    x1y1, x2y2 = predictions[:, :2], predictions[:, 2:4]
    centred = torch.cat(((x1y1 + x2y2) / 2, x2y2 - x1y1, predictions[:, 4:]), 1)
    expected = non_max_suppression(centred.clone(), 0.25, NMS_IOU, max_det=MAX_DET)
    for rows, reference in zip(suppress(best_class(predictions)), expected, strict=True):
        found = rows[rows[:, 4] > 0.25]
        assert len(found) == len(reference)
        torch.testing.assert_close(found, reference, rtol=1e-4, atol=1e-3)


def test_suppression_of_nothing_is_empty_rows() -> None:
    nothing = random_predictions(0)
    nothing[:, 4:] = 0
    assert torch.count_nonzero(suppress(best_class(nothing))) == 0


@pytest.mark.parametrize("architecture", ["yolov8n.yaml", "yolo11n.yaml", "yolo12n.yaml", "yolov10n.yaml"])
def test_other_families_export_with_their_own_head(architecture: str, tmp_path: Path) -> None:
    network = calibrated_network(architecture)
    head = "one2one" if architecture == "yolov10n.yaml" else "one2many"
    if head == "one2one":
        network.model[-1].end2end = True
        network.model[-1].fuse()
    deployed = DeployedNetwork(network, head).eval()
    with_boxes = [item for item in proof_inputs(320) if item.kind == "photograph"]
    spec = export_onnx(deployed, tmp_path / "graph.onnx", 320, _count_running(network))
    assert spec.batch_normalization_nodes > 50
    check_graph_outputs(tmp_path / "graph.onnx", deployed, with_boxes)


def _count_running(network: torch.nn.Module) -> int:
    return sum(isinstance(m, torch.nn.BatchNorm2d) for m in network.modules())

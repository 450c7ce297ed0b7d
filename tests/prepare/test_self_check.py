"""What preparation stores for the start-up check, against Ultralytics' own forward pass in float64."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.ops import batched_nms
from ultralytics.nn.tasks import DetectionModel

from service.bundle.self_check import SelfCheckSpec
from service.errors import ExportFailed
from service.prepare.checkpoint import HeadKind, drop_unused_head
from service.prepare.dataflow import observe_dataflow
from service.prepare.deployed_network import NMS_IOU, DeployedNetwork
from service.prepare.export import export_onnx
from service.prepare.fold import fold_batchnorm
from service.prepare.proof_inputs import ProofInput, proof_inputs
from service.prepare.self_check import make_self_check
from tests.networks import calibrated_network

SIDE = 320


@dataclass(frozen=True)
class Case:
    """One network in all its forms, and the pictures to choose from."""

    network: nn.Module
    folded: nn.Module
    head: HeadKind
    graph: Path
    inputs: list[ProofInput]

    @staticmethod
    def of(network: nn.Module, head: HeadKind, folder: Path, side: int) -> "Case":
        """Drop the other head, fold and export."""
        drop_unused_head(network, head)
        folded = fold_batchnorm(network, observe_dataflow(network).sites).network
        export_onnx(DeployedNetwork(folded, head).eval(), folder / "model.onnx", side, 0)
        return Case(network, folded, head, folder / "model.onnx", proof_inputs(side))

    def make(self, folded: nn.Module | None = None, graph: Path | None = None) -> tuple[SelfCheckSpec, dict]:
        networks = (DeployedNetwork(n, self.head).eval() for n in (self.network, folded or self.folded))
        return make_self_check(*networks, graph or self.graph, self.inputs)


@pytest.fixture(scope="module", params=["one2one", "one2many"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case.of(calibrated_network("yolo26n.yaml"), request.param, tmp_path_factory.mktemp("graph"), SIDE)


def exact_rows(case: Case, image: np.ndarray) -> np.ndarray:
    """(N, 6) by falling confidence, from the network as Ultralytics runs it, in float64."""
    network = DeployedNetwork(case.network, case.head).network.double().eval()
    network.model[-1].export = False
    pixels = torch.from_numpy(image[..., ::-1].copy()).double().permute(2, 0, 1)[None] / 255
    with torch.inference_mode():
        answer = network(pixels)
    rows = (answer[0] if isinstance(answer, tuple) else answer)[0]
    if case.head == "one2many":
        confidence, class_id = rows[4:].max(0)
        boxes = rows[:4].T
        keep = batched_nms(boxes, confidence, class_id, NMS_IOU)
        rows = torch.cat((boxes, confidence[:, None], class_id[:, None].double()), 1)[keep]
    return rows[rows[:, 4].argsort(descending=True, stable=True)].numpy()


def test_the_rows_are_the_unfolded_networks_in_float64(case: Case) -> None:
    spec, arrays = case.make()
    rows = arrays["rows"]
    expected = exact_rows(case, arrays["image"])
    assert rows.shape == (spec.rows, 6) == (50, 6)
    np.testing.assert_allclose(rows, expected[:50], atol=1e-9)
    assert spec.threshold == pytest.approx(expected[50, 4], abs=1e-12)
    assert spec.input in {item.name for item in case.inputs if item.kind != "noise"}


def test_the_picture_is_a_proof_input_of_sixteen_levels(case: Case) -> None:
    spec, arrays = case.make()
    (item,) = (item for item in case.inputs if item.name == spec.input)
    np.testing.assert_array_equal(arrays["image"], item.image[0].numpy() // 16 * 16)


def test_no_other_picture_excites_the_least_excited_scale_more(case: Case) -> None:
    spec, _ = case.make()
    network = DeployedNetwork(case.folded, case.head).eval()
    detect = network.network.model[-1]
    branches = detect.one2one_cv3 if case.head == "one2one" else detect.cv3
    maps: list[torch.Tensor] = []
    for branch in branches:
        branch.register_forward_hook(lambda _, __, scores: maps.append(scores))
    weakest = {}
    for item in case.inputs:
        maps.clear()
        with torch.inference_mode():
            network(item.image // 16 * 16)
        assert [m.shape[-1] for m in maps] == [SIDE // 8, SIDE // 16, SIDE // 32]
        weakest[item.name] = min(float(m.max()) for m in maps)
    assert weakest[spec.input] == max(weakest[item.name] for item in case.inputs if item.kind != "noise")


def test_tolerances_are_ten_times_the_rounding(case: Case) -> None:
    spec, _ = case.make()
    assert spec.box_tolerance_px == pytest.approx(10 * spec.rounding_box_px)
    assert spec.score_tolerance == pytest.approx(10 * spec.rounding_score)
    # A unit in the last place of a coordinate up to 320 is 3e-5; a tolerance of whole pixels would notice little.
    assert 1e-4 <= spec.rounding_box_px < 1e-3
    assert 2e-5 <= spec.rounding_score < 2e-4


def test_a_wrong_fold_does_not_widen_its_own_tolerance(case: Case, tmp_path: Path) -> None:
    wrong = DeployedNetwork(case.folded, case.head).eval()
    wrong.network.get_submodule("model.4.cv1.conv").bias.data *= 1.1
    with pytest.raises(ExportFailed, match="torch, folded repeats"):
        case.make(folded=wrong.network)
    export_onnx(wrong, tmp_path / "wrong.onnx", SIDE, 0)
    with pytest.raises(ExportFailed, match="ONNX Runtime repeats"):
        case.make(graph=tmp_path / "wrong.onnx")


def untrained(architecture: str, classes: int) -> nn.Module:
    """As Ultralytics builds it: all places of one scale are as good as equally confident of every class."""
    torch.manual_seed(0)
    return DetectionModel(architecture, nc=classes, verbose=False).eval().requires_grad_(False)


@pytest.mark.parametrize(
    ("architecture", "classes", "head"),
    # Of 1280 equal pairs of place and class the best 300; of equal neighbours the one that suppresses the others.
    [("yolo26n.yaml", 80, "one2one"), ("yolov6n.yaml", 2, "one2many")],
)
def test_where_rounding_decides_about_all_boxes_the_highest_confidence_is_stored(
    architecture: str, classes: int, head: HeadKind, tmp_path: Path
) -> None:
    case = Case.of(untrained(architecture, classes), head, tmp_path, 128)
    spec, arrays = case.make()
    assert arrays["rows"].shape == (spec.rows, 6) == (0, 6)
    exact = exact_rows(case, arrays["image"])
    assert exact[1, 4] == pytest.approx(exact[0, 4], rel=1e-6), "the confidences differ: this shows nothing"
    assert spec.highest_confidence == spec.threshold == pytest.approx(exact[0, 4], rel=1e-12)
    assert spec.score_tolerance < 1e-3 and spec.box_tolerance_px < 0.01
    wrong = DeployedNetwork(case.folded, head).eval()
    branches = wrong.network.model[-1].one2one_cv3 if head == "one2one" else wrong.network.model[-1].cv3
    for branch in branches:
        branch[-1].bias.data += 0.01
    with pytest.raises(ExportFailed, match=r"torch, folded repeats 0 of 0 boxes .* 0\.0\d+ in the score"):
        case.make(folded=wrong.network)


def test_a_network_that_answers_no_box_is_recorded_as_such(tmp_path: Path) -> None:
    """Suppression passes over confidences below 0.001, where an untrained one2many head begins with 80 classes."""
    spec, arrays = Case.of(untrained("yolov8n.yaml", 80), "one2many", tmp_path, 128).make()
    assert (spec.rows, spec.highest_confidence, len(arrays["rows"])) == (0, 0, 0)


def test_boxes_above_those_that_rounding_decides_are_stored(tmp_path: Path) -> None:
    network = untrained("yolo26n.yaml", 80)
    network.model[-1].one2one_cv3[2][-1].bias.data[7] += 1.0  # 4 x 4 places at 128 px
    case = Case.of(network, "one2one", tmp_path, 128)
    spec, arrays = case.make()
    rows = arrays["rows"]
    exact = exact_rows(case, arrays["image"])
    assert spec.rows == len(rows) == 16 and set(rows[:, 5]) == {7}
    assert spec.highest_confidence is None and spec.threshold == pytest.approx(exact[16, 4], rel=1e-12)
    assert spec.box_tolerance_px < 0.01, "pairs of different boxes were taken for rounding"
    order = np.lexsort(rows[:, :2].T), np.lexsort(exact[:16, :2].T)
    np.testing.assert_allclose(rows[order[0]], exact[:16][order[1]], atol=1e-9)

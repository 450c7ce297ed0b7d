"""A network with BatchNorm layers that cannot be folded, from its checkpoint to the answers over HTTP."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
from ultralytics.utils import ASSETS

from service.bundle.store import Bundle, load_bundle
from tests.api.serving import Serving, serving
from tests.conftest import prepare_with_command
from tests.networks import calibrated_network, save_checkpoint
from tests.ultralytics_reference import SHARE, answered, compare, predict

SIZE = 256
#: A convolution that two BatchNorms read, a block with a BatchNorm behind a concatenation, and a BatchNorm behind a
#: convolution's activation. In another block two convolutions are made to share one.
NETWORK = """
nc: 3
backbone:
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, Conv, [32, 3, 2]]
  - [-1, 1, nn.Conv2d, [32, 32, 3, 1, 1]]
  - [-1, 1, nn.BatchNorm2d, []]
  - [-2, 1, nn.BatchNorm2d, []]
  - [[-1, -2], 1, Concat, [1]]
  - [-1, 1, Conv, [32, 1, 1]]
  - [-1, 1, BottleneckCSP, [32, 32]]
  - [-1, 1, Conv, [64, 3, 2]]
  - [-1, 1, nn.BatchNorm2d, []]
  - [-1, 1, C2f, [64, True]]
  - [-1, 1, Conv, [128, 3, 2]]
  - [-1, 1, C2f, [128, True]]
  - [-1, 1, Conv, [128, 3, 2]]
  - [-1, 1, SPPF, [128, 5]]
head:
  - [-1, 1, nn.Upsample, [None, 2, "nearest"]]
  - [[-1, 12], 1, Concat, [1]]
  - [-1, 1, C2f, [64]]
  - [-1, 1, Conv, [64, 3, 2]]
  - [[-1, 14], 1, Concat, [1]]
  - [-1, 1, C2f, [128]]
  - [[10, 17, 20], 1, Detect, [nc]]
"""
NO_CONV = "its input is not the output of a convolution"
SHARED_CONV = "the output of the convolution model.2 before it is read in 2 places"
#: What stays, and why.
KEPT = {
    "model.3": SHARED_CONV,
    "model.4": SHARED_CONV,
    "model.7.bn": NO_CONV,
    "model.9": NO_CONV,
    "model.10.m.0.cv1.bn": "it is executed 2 times in one pass",
}
#: BatchNorm nodes that stay: one of these layers runs twice.
NODES = len(KEPT) + 1


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unfoldable")
    (folder / "network.yaml").write_text(NETWORK)
    network = calibrated_network(str(folder / "network.yaml"))
    bottleneck = network.get_submodule("model.10.m.0")
    bottleneck.cv2.bn = bottleneck.cv1.bn
    return save_checkpoint(network, folder / "best.pt")


@pytest.fixture(scope="module")
def kept_bundle(checkpoint: Path) -> Bundle:
    root = checkpoint.parent / "bundles"
    prepare_with_command(root, weights=str(checkpoint), imgsz=str(SIZE))
    (path,) = (p for p in root.iterdir() if (p / "manifest.json").is_file())
    return load_bundle(path)


@pytest.fixture(scope="module")
def server(kept_bundle: Bundle) -> Iterator[Serving]:
    with serving(kept_bundle) as running:
        yield running


def get(server: Serving, path: str, **params: str) -> dict[str, Any]:
    answer: dict[str, Any] = server.client.get(path, params=params).raise_for_status().json()
    return answer


def batchnorm_nodes(graph: Path) -> int:
    return sum(node.op_type == "BatchNormalization" for node in onnx.load(graph).graph.node)


def test_they_stay_in_the_served_graph(server: Serving, kept_bundle: Bundle) -> None:
    model = get(server, "/model")
    assert model["fold"]["unfoldable"] == len(KEPT) and model["fold"]["passed"]
    assert batchnorm_nodes(kept_bundle.deployed_graph) == NODES
    assert batchnorm_nodes(kept_bundle.reference_graph) == NODES + model["fold"]["folded"]
    assert model["graphs"]["deployed"]["batch_normalization_nodes"] == NODES


def test_they_are_named_with_the_reason(server: Serving) -> None:
    stats = get(server, "/model/bn-stats", status="unfoldable")["layers"]
    assert {layer["name"]: layer["reason"] for layer in stats} == KEPT
    for layer in stats:
        assert layer["fold"] is None
        read = "model.2" if layer["reason"] == SHARED_CONV else None
        assert (layer["conv"], layer["kind"]) == (read, read and "conv")
    convs = {conv["name"]: conv for block in get(server, "/model/layers")["blocks"] for conv in block["convs"]}
    for name in ("model.2", "model.10.m.0.cv1.conv", "model.10.m.0.cv2.conv"):
        assert convs[name]["status"] == "kept" and convs[name]["batch_norm"] in KEPT
    left = get(server, "/model/fold")["not_folded"]
    assert {entry["name"]: entry["reason"] for entry in left} == KEPT
    assert {entry["status"] for entry in left} == {"unfoldable"}
    warned = get(server, "/model/bn-stats", warning="unfoldable")["warnings"]
    assert {warning["layer"] for warning in warned} == KEPT.keys()


def test_its_boxes_are_those_of_ultralytics(server: Serving, checkpoint: Path) -> None:
    arguments = get(server, "/model")["ultralytics_predict"]
    clear = matched = extra = 0
    for picture in sorted(ASSETS.glob("*.jpg")):
        found = server.client.post("/detect", params={"conf": 0.25}, files={"file": picture.read_bytes()})
        counts = compare(predict(checkpoint, picture, arguments), answered(found.raise_for_status().json()))
        clear, matched, extra = clear + counts[0], matched + counts[1], extra + counts[2]
    assert clear >= 20
    assert matched >= SHARE * clear and extra == 0


def test_a_picture_goes_through_both_graphs_alike(server: Serving) -> None:
    picture = (ASSETS / "bus.jpg").read_bytes()
    answer = server.client.post("/model/fold/check", files={"file": picture}).raise_for_status().json()
    assert answer["agrees"] and answer["matched"] >= 5
    assert answer["deployed"]["batch_normalization_nodes"] == NODES

"""Our reader of ONNX files against the onnx package, and the graph it cuts against the one it was cut from."""

from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from service.bundle.store import Bundle
from service.errors import MeasurementRefused
from service.measurement.onnx_file import count_nodes, write_float_input
from tests.conftest import ROOT


def run(path: Path, fed: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, {session.get_inputs()[0].name: fed})
    return answer


def save(path: Path, nodes: list[onnx.NodeProto], *more_inputs: onnx.ValueInfoProto) -> Path:
    """A graph from "images", uint8 (B, 4, 4, 3), to "y"."""
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", 4, 4, 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    kernel = helper.make_tensor("w", TensorProto.FLOAT, [1, 3, 1, 1], [1.0, 2.0, 3.0])
    graph = helper.make_graph(nodes, "g", [images, *more_inputs], [y], [kernel])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


TRANSPOSE = helper.make_node("Transpose", ["images"], ["planes"], perm=[0, 3, 1, 2])
CAST = helper.make_node("Cast", ["planes"], ["x"], to=TensorProto.FLOAT)
CONV = helper.make_node("Conv", ["x", "w"], ["y"])


def test_nodes_are_counted_as_onnx_counts_them(bundle: Bundle) -> None:
    for path in (bundle.deployed_graph, bundle.reference_graph):
        assert count_nodes(path) == Counter(node.op_type for node in onnx.load(path).graph.node)


def test_the_cut_graph_is_valid_and_lacks_the_preprocessing_only(bundle: Bundle, tmp_path: Path) -> None:
    cut = tmp_path / "cut.onnx"
    write_float_input(bundle.deployed_graph, cut)
    before, after = onnx.load(bundle.deployed_graph), onnx.load(cut)
    onnx.checker.check_model(after, full_check=True)
    lost = Counter(n.op_type for n in before.graph.node) - Counter(n.op_type for n in after.graph.node)
    assert lost == {"Transpose": 1, "Gather": 1, "Cast": 1, "Div": 1, "Constant": 2}
    (taken,) = after.graph.input
    side = bundle.manifest.model.input.height
    kind = taken.type.tensor_type
    assert kind.elem_type == TensorProto.FLOAT
    assert [d.dim_param or d.dim_value for d in kind.shape.dim] == ["batch", 3, side, side]
    assert after.graph.initializer == before.graph.initializer
    assert after.graph.output == before.graph.output


def test_the_cut_graph_answers_the_same_to_what_the_whole_one_makes_of_a_picture(
    bundle: Bundle, tmp_path: Path
) -> None:
    cut, side = tmp_path / "cut.onnx", bundle.manifest.model.input.height
    write_float_input(bundle.deployed_graph, cut)
    names = ("parcel.jpg", "ticket.jpg")
    pictures = [cv2.resize(cv2.imread(str(ROOT / "samples" / name)), (side, side)) for name in names]
    pixels = np.stack(pictures)
    tensor = np.ascontiguousarray((pixels[..., ::-1].astype(np.float32) / np.float32(255)).transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(run(cut, tensor), run(bundle.deployed_graph, pixels))


def test_constants_that_the_network_reads_too_are_kept(tmp_path: Path) -> None:
    one = helper.make_tensor("value", TensorProto.FLOAT, [], [2.0])
    nodes = [
        helper.make_node("Constant", [], ["two"], value=one),
        TRANSPOSE,
        helper.make_node("Cast", ["planes"], ["raw"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["raw", "two"], ["x"]),
        helper.make_node("Conv", ["x", "w"], ["z"]),
        helper.make_node("Mul", ["z", "two"], ["y"]),
    ]
    whole, cut = save(tmp_path / "whole.onnx", nodes), tmp_path / "cut.onnx"
    write_float_input(whole, cut)
    assert count_nodes(cut) == {"Constant": 1, "Conv": 1, "Mul": 1}
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), np.uint8)
    np.testing.assert_array_equal(run(cut, pixels.transpose(0, 3, 1, 2).astype(np.float32) / 2), run(whole, pixels))


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ([TRANSPOSE, helper.make_node("Shape", ["images"], ["n"]), CAST, CONV], "reads images in 2 places"),
        ([TRANSPOSE, CAST, helper.make_node("Relu", ["x"], ["y"])], "begins with Relu"),
        ([TRANSPOSE, helper.make_node("Cast", ["planes"], ["y"], to=TensorProto.FLOAT)], "reads y in 0 places"),
        ([helper.make_node("Conv", ["images", "w"], ["y"])], "does not preprocess"),
    ],
)
def test_a_graph_that_begins_otherwise_is_refused(nodes: list[onnx.NodeProto], reason: str, tmp_path: Path) -> None:
    whole = save(tmp_path / "whole.onnx", nodes)
    with pytest.raises(MeasurementRefused, match=reason):
        write_float_input(whole, tmp_path / "cut.onnx")
    assert not (tmp_path / "cut.onnx").exists()


def test_a_second_input_is_refused(tmp_path: Path) -> None:
    other = helper.make_tensor_value_info("other", TensorProto.FLOAT, [1])
    whole = save(tmp_path / "whole.onnx", [TRANSPOSE, CAST, CONV], other)
    with pytest.raises(MeasurementRefused, match="has 2 inputs"):
        write_float_input(whole, tmp_path / "cut.onnx")


@pytest.mark.parametrize("content", [b"", b"nothing of the sort", b"\x3a\xff\x01\x00", b"\x3a\x02\x0a\x05", b"\x3b"])
def test_other_files_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "other.onnx"
    path.write_bytes(content)
    with pytest.raises(MeasurementRefused, match=r"other\.onnx is not an ONNX file"):
        count_nodes(path)

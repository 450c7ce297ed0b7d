"""Small graphs that are not what a bundle holds."""

from pathlib import Path

import onnx
from onnx import TensorProto, helper

UINT8, FLOAT = TensorProto.UINT8, TensorProto.FLOAT

#: Name, element type and shape of an input that the network's is not.
OTHER_INPUTS = [
    ("x", UINT8, ["b", 32, 32, 3]),
    ("images", FLOAT, ["b", 32, 32, 3]),
    ("images", UINT8, ["b", 3, 32, 32]),
    ("images", UINT8, ["b", 32, 32]),
]


def mean_graph(path: Path, *, name: str, element: int, shape: list[int | str], output: list[int | str]) -> Path:
    """Write a graph that averages its input over the last axis."""
    nodes = [
        helper.make_node("Cast", [name], ["float"], to=FLOAT),
        helper.make_node("ReduceMean", ["float"], ["detections"], axes=[-1], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, element, shape)],
        [helper.make_tensor_value_info("detections", FLOAT, output)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def places_graph(path: Path) -> Path:
    """Write a graph that answers where its input is not zero: a row of four indices for each, so that how many there
    are depends on what is in the picture, not on its size."""
    nodes = [
        helper.make_node("Cast", ["images"], ["float"], to=FLOAT),
        helper.make_node("NonZero", ["float"], ["indices"]),
        helper.make_node("Cast", ["indices"], ["columns"], to=FLOAT),
        helper.make_node("Transpose", ["columns"], ["rows"]),
        helper.make_node("Constant", [], ["first"], value_ints=[0]),
        helper.make_node("Unsqueeze", ["rows", "first"], ["detections"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("images", UINT8, [1, "height", "width", 3])],
        [helper.make_tensor_value_info("detections", FLOAT, [1, "n", 4])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path

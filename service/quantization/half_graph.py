"""A graph of which some nodes compute in fp16, and a twin of it that a processor rounds as they do.

ONNX Runtime has a converter of its own. Between nodes that it leaves in float32 it goes through fp16 all the same, so
corners would be rounded to half a pixel, and weights too large it cuts off without a word.
"""

from collections.abc import Collection, Iterator

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from service.errors import QuantizationError


def halve_graph(model: onnx.ModelProto, nodes: Collection[str]) -> onnx.ModelProto:
    """Have the nodes of these names compute in fp16; what the graph takes and gives stays as it is.

    Raises:
        QuantizationError: the result is not valid.
    """
    floats = _of_type(model, TensorProto.FLOAT)
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    halves: set[str] = set()
    made: dict[tuple[str, int], str] = {}
    copies: list[TensorProto] = []

    def cast(name: str, to: int) -> Iterator[NodeProto]:
        """What gives ``name`` in the other type, once; its own name is then in ``made``."""
        if (name, to) in made:
            return
        other = made[name, to] = f"{name}_{'half' if to == TensorProto.FLOAT16 else 'float'}"
        if name in weights:
            copies.append(numpy_helper.from_array(numpy_helper.to_array(weights[name]).astype(np.float16), other))
        else:
            yield helper.make_node("Cast", [name], [other], name=other, to=to)

    found: list[NodeProto] = []
    for node in map(_copy, graph.node):
        half = node.name in nodes
        for place, name in enumerate(node.input):
            # Sizes and scales of Resize are what they are.
            wants_half = half and not (node.op_type == "Resize" and place > 0)
            if name in floats and wants_half != (name in halves):
                to = TensorProto.FLOAT16 if wants_half else TensorProto.FLOAT
                found += cast(name, to)
                node.input[place] = made[name, to]
        if half:
            halves.update(floats.intersection(node.output))
            _retype_cast(node, TensorProto.FLOAT, TensorProto.FLOAT16)
        found.append(node)
    return _rebuilt(model, found, [*graph.initializer, *copies])


def widen_graph(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph in float32, which rounds to fp16 all that this one has in fp16: weights and what nodes give.

    On a processor ONNX Runtime keeps float32 from one such node to the next, so nothing would be rounded or overflow.

    Raises:
        QuantizationError: the result is not valid.
    """
    halves = _of_type(model, TensorProto.FLOAT16)
    tensors = [
        numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name)
        if tensor.name in halves
        else tensor
        for tensor in model.graph.initializer
    ]
    found: list[NodeProto] = []
    for node in map(_copy, model.graph.node):
        _retype_cast(node, TensorProto.FLOAT16, TensorProto.FLOAT)
        found.append(node)
        for place, name in enumerate(node.output):
            if name in halves:
                exact, rounded = f"{name}_exact", f"{name}_rounded"
                node.output[place] = exact
                found.append(helper.make_node("Cast", [exact], [rounded], name=rounded, to=TensorProto.FLOAT16))
                found.append(helper.make_node("Cast", [rounded], [name], name=f"{name}_wide", to=TensorProto.FLOAT))
    return _rebuilt(model, found, tensors)


def _of_type(model: onnx.ModelProto, kind: int) -> set[str]:
    """Names of all tensors of a type."""
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    values = (*graph.value_info, *graph.input, *graph.output)
    return {value.name for value in values if value.type.tensor_type.elem_type == kind} | {
        tensor.name for tensor in graph.initializer if tensor.data_type == kind
    }


def _copy(node: NodeProto) -> NodeProto:
    copied = NodeProto()
    copied.CopyFrom(node)
    return copied


def _retype_cast(node: NodeProto, given: int, wanted: int) -> None:
    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == given:
            attribute.i = wanted


def _rebuilt(model: onnx.ModelProto, nodes: list[NodeProto], tensors: list[TensorProto]) -> onnx.ModelProto:
    read = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        model.graph.name,
        model.graph.input,
        model.graph.output,
        [tensor for tensor in tensors if tensor.name in read],
    )
    rebuilt = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    try:
        onnx.checker.check_model(rebuilt, full_check=True)
    except Exception as error:  # protobuf and checker errors alike
        raise QuantizationError(f"The graph cannot be converted to fp16: {error}") from error
    return rebuilt

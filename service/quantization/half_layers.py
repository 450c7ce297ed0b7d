"""Which nodes of a graph fp16 takes, and why the other convolutions stay in float32."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from service.bundle.int8 import FloatConvolution
from service.bundle.store import Bundle
from service.quantization.layers import module_path

_LAST = "it gives boxes or scores"


@dataclass(frozen=True)
class HalfLayers:
    """The deployed graph divided.

    Attributes:
        nodes: names of the nodes that compute in fp16.
        convolutions: how many of them are convolutions.
        kept: the other convolutions, and why.
    """

    nodes: frozenset[str]
    convolutions: int
    kept: list[FloatConvolution]


def choose_half_layers(bundle: Bundle, graph: onnx.GraphProto) -> HalfLayers:
    """All from the first convolution to the last ones, these excepted and those that fp16 does not hold.

    What is before is about pixels and what is behind about corners, of which those above 512 px lie half a pixel apart
    in fp16.
    """
    stored = {tensor.name: tensor for tensor in graph.initializer}
    convs = {layer.name: layer.conv for layer in bundle.batchnorm.layers}
    flagged = {convs[layer.name]: layer.weights.fp16_infinite for layer in bundle.health.layers if layer.weights}
    behind, before = _reached(graph.node), _reaching(graph.node)
    nodes: set[str] = set()
    kept: list[FloatConvolution] = []
    convolutions = 0
    for number, node in enumerate(graph.node):
        infinite = sum(_infinite(stored[name]) for name in node.input if name in stored)
        if node.op_type != "Conv":
            if number in behind and number in before and not infinite:
                nodes.add(node.name)
            continue
        conv = module_path(node)
        infinite = max(infinite, flagged.get(conv, 0))  # of the bundle's warning fp16-weight-overflow
        if number in before and not infinite:
            nodes.add(node.name)
            convolutions += 1
        else:
            reason = f"{infinite} of its weights and biases are infinite in fp16" if infinite else _LAST
            kept.append(FloatConvolution(conv=conv, reason=reason))
    return HalfLayers(frozenset(nodes), convolutions, kept)


def _infinite(tensor: onnx.TensorProto) -> int:
    """How many of its values half precision does not hold."""
    values = numpy_helper.to_array(tensor)
    return int((np.abs(values) > np.finfo(np.float16).max).sum()) if tensor.data_type == onnx.TensorProto.FLOAT else 0


def _reached(nodes: Sequence[onnx.NodeProto]) -> set[int]:
    """Places of the nodes that read, directly or not, what a convolution gives."""
    names: set[str] = set()
    places = set()
    for number, node in enumerate(nodes):
        if not names.isdisjoint(node.input):
            places.add(number)
        if number in places or node.op_type == "Conv":
            names.update(node.output)
    return places


def _reaching(nodes: Sequence[onnx.NodeProto]) -> set[int]:
    """Places of the nodes that a convolution reads, directly or not."""
    names: set[str] = set()
    places = set()
    for number, node in reversed([*enumerate(nodes)]):
        if not names.isdisjoint(node.output):
            places.add(number)
        if number in places or node.op_type == "Conv":
            names.update(node.input)
    return places

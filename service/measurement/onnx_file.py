"""Counts and cuts in ONNX files, as far as measuring needs it."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from service.errors import MeasurementRefused
from service.onnx_message import (
    BYTES,
    FLOAT,
    GRAPH_INPUT,
    GRAPH_NODE,
    MODEL_GRAPH,
    NODE_INPUT,
    NODE_OP_TYPE,
    NODE_OUTPUT,
    VALUE_NAME,
    VARINT,
    Field,
    read_fields,
)

_VALUE_TYPE = 2
_TYPE_TENSOR, _TENSOR_ELEMENT, _TENSOR_SHAPE, _SHAPE_DIM, _DIM_VALUE = 1, 1, 2, 1, 1
#: What the deployed graph does to its pictures before the network begins.
_PREPROCESSING = {"Transpose", "Gather", "Cast", "Div"}


@dataclass(frozen=True)
class _Node:
    field: Field
    op_type: str
    inputs: list[str]
    outputs: list[str]


def count_nodes(path: Path) -> Counter[str]:
    """Nodes of the main graph of an ONNX file, by kind.

    Raises:
        MeasurementRefused: it is not an ONNX file.
    """
    return Counter(node.op_type for node in _nodes(_graph(_read(path), path)))


def write_float_input(source: Path, target: Path) -> None:
    """Copy a deployed graph without its first nodes, so that it takes what they would have made of the pictures.

    Args:
        source: takes uint8 (B, S, S, 3) BGR.
        target: is written; takes float32 (B, 3, S, S) RGB in 0..1.

    Raises:
        MeasurementRefused: the graph does not begin with the preprocessing of a deployed one.
        OSError: ``target`` cannot be written.
    """
    model = _read(source)
    graph = _graph(model, source)
    inputs = [field for field in graph if field.number == GRAPH_INPUT]
    if len(inputs) != 1:
        raise MeasurementRefused(f"{source.name} has {len(inputs)} inputs, not 1.")
    removed, value = _preprocessing(_nodes(graph), _only(inputs[0], VALUE_NAME).text, source)
    gone = {id(node.field) for node in removed}
    kept = [
        _float_input(value, field) if field.number == GRAPH_INPUT else bytes(field.whole)
        for field in graph
        if id(field) not in gone
    ]
    encoded = _encode(MODEL_GRAPH, b"".join(kept))
    parts = [encoded if field.number == MODEL_GRAPH else bytes(field.whole) for field in model]
    target.write_bytes(b"".join(parts))


def _preprocessing(nodes: list[_Node], pictures: str, source: Path) -> tuple[list[_Node], str]:
    """The nodes between the input and the first convolution, and the name of what that reads."""
    chain, value = list[_Node](), pictures
    while True:
        readers = [node for node in nodes if value in node.inputs]
        if len(readers) != 1:
            raise MeasurementRefused(f"{source.name} reads {value} in {len(readers)} places, not 1.")
        if readers[0].op_type == "Conv":
            break
        if readers[0].op_type not in _PREPROCESSING:
            raise MeasurementRefused(f"{source.name} begins with {readers[0].op_type}, which no deployed graph does.")
        chain.append(readers[0])
        value = readers[0].outputs[0]
    if not chain:
        raise MeasurementRefused(f"{source.name} does not preprocess its pictures.")
    still_read = {name for node in nodes if node not in chain for name in node.inputs}
    arguments = {name for node in chain for name in node.inputs} - still_read
    constants = [node for node in nodes if node.op_type == "Constant" and node.outputs[0] in arguments]
    return chain + constants, value


def _float_input(name: str, pictures: Field) -> bytes:
    """An input of a graph: float32 (B, 3, S, S), where ``pictures`` is (B, S, S, 3)."""
    tensor = _only(_only(pictures, _VALUE_TYPE), _TYPE_TENSOR)
    batch, height, width, _ = (bytes(f.whole) for f in read_fields(_only(tensor, _TENSOR_SHAPE).value))
    channels = _encode(_SHAPE_DIM, _encode_number(_DIM_VALUE, 3))
    shape = _encode(_TENSOR_SHAPE, batch + channels + height + width)
    kind = _encode(_VALUE_TYPE, _encode(_TYPE_TENSOR, _encode_number(_TENSOR_ELEMENT, FLOAT) + shape))
    return _encode(GRAPH_INPUT, _encode(VALUE_NAME, name.encode()) + kind)


def _read(path: Path) -> list[Field]:
    try:
        return list(read_fields(memoryview(path.read_bytes())))
    except (IndexError, ValueError) as error:
        raise MeasurementRefused(f"{path.name} is not an ONNX file.") from error


def _graph(model: list[Field], path: Path) -> list[Field]:
    try:
        (graph,) = (field for field in model if field.number == MODEL_GRAPH)
        return list(read_fields(graph.value))
    except (IndexError, ValueError) as error:
        raise MeasurementRefused(f"{path.name} is not an ONNX file.") from error


def _nodes(graph: list[Field]) -> list[_Node]:
    return [_node(field) for field in graph if field.number == GRAPH_NODE]


def _node(field: Field) -> _Node:
    parts = list(read_fields(field.value))
    texts = {n: [p.text for p in parts if p.number == n] for n in (NODE_INPUT, NODE_OUTPUT, NODE_OP_TYPE)}
    return _Node(field, texts[NODE_OP_TYPE][0], texts[NODE_INPUT], texts[NODE_OUTPUT])


def _only(message: Field, number: int) -> Field:
    (found,) = (field for field in read_fields(message.value) if field.number == number)
    return found


def _encode(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | BYTES) + _varint(len(value)) + value


def _encode_number(number: int, value: int) -> bytes:
    return _varint(number << 3 | VARINT) + _varint(value)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])

"""Reads and edits ONNX files as far as measuring needs it: serving has no onnx package.

An ONNX file is a protobuf message, which is a sequence of fields. Each has a key (number * 8 + wire type) and a value;
a value of wire type 2 has its length before it and may be a message itself. Numbers are those of onnx.proto.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from service.errors import MeasurementRefused

_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_INPUT = 1, 11
_NODE_INPUT, _NODE_OUTPUT, _NODE_OP_TYPE = 1, 2, 4
_VALUE_NAME, _VALUE_TYPE = 1, 2
_TYPE_TENSOR, _TENSOR_ELEMENT, _TENSOR_SHAPE, _SHAPE_DIM, _DIM_VALUE = 1, 1, 2, 1, 1
_FLOAT = 1

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
#: What the deployed graph does to its pictures before the network begins.
_PREPROCESSING = {"Transpose", "Gather", "Cast", "Div"}


@dataclass(frozen=True)
class _Field:
    """``value`` without key and length, ``whole`` with them; both are views of the file's bytes."""

    number: int
    value: memoryview
    whole: memoryview


@dataclass(frozen=True)
class _Node:
    field: _Field
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
    inputs = [field for field in graph if field.number == _GRAPH_INPUT]
    if len(inputs) != 1:
        raise MeasurementRefused(f"{source.name} has {len(inputs)} inputs, not 1.")
    removed, value = _preprocessing(_nodes(graph), _text(_only(inputs[0], _VALUE_NAME)), source)
    gone = {id(node.field) for node in removed}
    kept = [
        _float_input(value, field) if field.number == _GRAPH_INPUT else bytes(field.whole)
        for field in graph
        if id(field) not in gone
    ]
    encoded = _encode(_MODEL_GRAPH, b"".join(kept))
    parts = [encoded if field.number == _MODEL_GRAPH else bytes(field.whole) for field in model]
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


def _float_input(name: str, pictures: _Field) -> bytes:
    """An input of a graph: float32 (B, 3, S, S), where ``pictures`` is (B, S, S, 3)."""
    tensor = _only(_only(pictures, _VALUE_TYPE), _TYPE_TENSOR)
    batch, height, width, _ = (bytes(f.whole) for f in _fields(_only(tensor, _TENSOR_SHAPE).value))
    channels = _encode(_SHAPE_DIM, _encode_number(_DIM_VALUE, 3))
    shape = _encode(_TENSOR_SHAPE, batch + channels + height + width)
    kind = _encode(_VALUE_TYPE, _encode(_TYPE_TENSOR, _encode_number(_TENSOR_ELEMENT, _FLOAT) + shape))
    return _encode(_GRAPH_INPUT, _encode(_VALUE_NAME, name.encode()) + kind)


def _read(path: Path) -> list[_Field]:
    try:
        return list(_fields(memoryview(path.read_bytes())))
    except (IndexError, ValueError) as error:
        raise MeasurementRefused(f"{path.name} is not an ONNX file.") from error


def _graph(model: list[_Field], path: Path) -> list[_Field]:
    try:
        (graph,) = (field for field in model if field.number == _MODEL_GRAPH)
        return list(_fields(graph.value))
    except (IndexError, ValueError) as error:
        raise MeasurementRefused(f"{path.name} is not an ONNX file.") from error


def _nodes(graph: list[_Field]) -> list[_Node]:
    return [_node(field) for field in graph if field.number == _GRAPH_NODE]


def _node(field: _Field) -> _Node:
    parts = list(_fields(field.value))
    texts = {n: [_text(p) for p in parts if p.number == n] for n in (_NODE_INPUT, _NODE_OUTPUT, _NODE_OP_TYPE)}
    return _Node(field, texts[_NODE_OP_TYPE][0], texts[_NODE_INPUT], texts[_NODE_OUTPUT])


def _only(message: _Field, number: int) -> _Field:
    (found,) = (field for field in _fields(message.value) if field.number == number)
    return found


def _text(field: _Field) -> str:
    return bytes(field.value).decode()


def _fields(message: memoryview) -> Iterator[_Field]:
    """The fields of a message in order.

    Raises:
        ValueError, IndexError: it is no message.
    """
    at = 0
    while at < len(message):
        start = at
        key, at = _number(message, at)
        kind, size = key & 7, 0
        if kind == _VARINT:
            _, end = _number(message, at)
            size = end - at
        elif kind == _BYTES:
            size, at = _number(message, at)
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"unknown wire type {kind}")
        if at + size > len(message):
            raise ValueError("a field is longer than its message")
        yield _Field(key >> 3, message[at : at + size], message[start : at + size])
        at += size


def _number(message: memoryview, at: int) -> tuple[int, int]:
    """A base-128 number, lowest seven bits first, and where it ends."""
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _encode(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(value)) + value


def _encode_number(number: int, value: int) -> bytes:
    return _varint(number << 3 | _VARINT) + _varint(value)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])

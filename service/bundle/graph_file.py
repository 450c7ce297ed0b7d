"""A stored graph as far as two of them are compared: its nodes in order, and what it holds as constants."""

import math
import mmap
import struct
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.onnx_message import (
    ATTRIBUTE_FLOAT,
    ATTRIBUTE_INT,
    ATTRIBUTE_NAME,
    ATTRIBUTE_TENSOR,
    BYTES,
    FIXED32,
    FLOAT,
    GRAPH_INITIALIZER,
    GRAPH_INPUT,
    GRAPH_NODE,
    GRAPH_OUTPUT,
    MODEL_GRAPH,
    NODE_ATTRIBUTE,
    NODE_DOMAIN,
    NODE_INPUT,
    NODE_NAME,
    NODE_OP_TYPE,
    NODE_OUTPUT,
    TENSOR_DIMS,
    TENSOR_ELEMENT,
    TENSOR_NAME,
    TENSOR_RAW,
    VALUE_NAME,
    VARINT,
    Field,
    read_fields,
    read_number,
)

#: A graph's name, its description and the types of values in between: nothing that is computed depends on them.
_NO_CONTENT = {2, 10, 13}
#: The wire types of fields that stand once in a message at most. Of two, who loads the file takes the last.
_TENSOR = {TENSOR_ELEMENT: VARINT, TENSOR_NAME: BYTES, TENSOR_RAW: BYTES}
_NODE = {NODE_NAME: BYTES, NODE_OP_TYPE: BYTES, NODE_DOMAIN: BYTES}
_VALUE = {VALUE_NAME: BYTES}
_ATTRIBUTE = {
    ATTRIBUTE_NAME: BYTES,
    ATTRIBUTE_FLOAT: FIXED32,
    ATTRIBUTE_INT: VARINT,
    ATTRIBUTE_TENSOR: BYTES,
}


@dataclass(frozen=True)
class Tensor:
    """A constant."""

    fields: tuple[Field, ...]

    @property
    def content(self) -> tuple[bytes, ...]:
        """All but its name."""
        return tuple(bytes(field.whole) for field in self.fields if field.number != TENSOR_NAME)

    def floats(self) -> NDArray[np.float32]:
        """Its values, a view of the file.

        Raises:
            ValueError: it is not float32, or not as large as it says.
        """
        dims = [size for field in self.fields if field.number == TENSOR_DIMS for size in _numbers(field)]
        (element,) = (read_number(field.value, 0)[0] for field in self.fields if field.number == TENSOR_ELEMENT)
        (raw,) = (field.value for field in self.fields if field.number == TENSOR_RAW)
        if element != FLOAT or len(raw) != 4 * math.prod(dims):
            raise ValueError("not float32 of the size stated")
        return np.frombuffer(raw, "<f4").reshape(dims)


@dataclass(frozen=True)
class Node:
    """One operation; ``kind`` holds everything that decides what it computes from its inputs."""

    name: str
    op_type: str
    domain: str
    kind: tuple[bytes, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: tuple[Field, ...]

    def attribute(self, name: str) -> tuple[Field, ...]:
        """The parts of an attribute; none where the node lacks it."""
        # Looked into when asked for: most nodes are never asked.
        found = (_parts(field, _ATTRIBUTE) for field in self.attributes)
        return next((parts for parts in found if _text(parts, ATTRIBUTE_NAME) == name), ())

    def number(self, attribute: str, default: float) -> float:
        """An attribute that is a float or an integer."""
        for field in self.attribute(attribute):
            if field.number == ATTRIBUTE_FLOAT:
                value: float = struct.unpack("<f", field.value)[0]
                return value
            if field.number == ATTRIBUTE_INT:
                return read_number(field.value, 0)[0]
        return default


@dataclass(frozen=True)
class Graph:
    """A graph without the nodes that only name a constant or another value.

    Attributes:
        nodes: in their order.
        tensors: constants by name.
        inputs, outputs: names of the values that go in and come out.
        frame: everything else of the file.
    """

    nodes: list[Node]
    tensors: dict[str, Tensor]
    inputs: list[str]
    outputs: list[str]
    frame: tuple[bytes, ...]


def read_graph(path: Path) -> Graph:
    """The graph of an ONNX file, whose bytes stay on disk until they are looked at.

    Raises:
        ValueError, IndexError: it is not an ONNX file.
        OSError: it cannot be read.
    """
    with path.open("rb") as stream:
        model = list(read_fields(memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))))
    (graph,) = (list(read_fields(field.value)) for field in model if field.number == MODEL_GRAPH)
    nodes, tensors, frame = list[Node](), dict[str, Tensor](), list[bytes]()
    ends: dict[int, list[str]] = {GRAPH_INPUT: [], GRAPH_OUTPUT: []}
    frame += [bytes(field.whole) for field in model if field.number != MODEL_GRAPH]
    for field in graph:
        if field.number == GRAPH_NODE:
            nodes.append(_node(field))
        elif field.number == GRAPH_INITIALIZER:
            parts = _parts(field, _TENSOR)
            tensors[_text(parts, TENSOR_NAME)] = Tensor(parts)
        elif field.number not in _NO_CONTENT:
            frame.append(bytes(field.whole))
            if field.number in ends:
                ends[field.number].append(_text(_parts(field, _VALUE), VALUE_NAME))
    return _without_names(nodes, tensors, ends[GRAPH_INPUT], ends[GRAPH_OUTPUT], tuple(frame))


def _without_names(
    nodes: list[Node], tensors: dict[str, Tensor], inputs: list[str], outputs: list[str], frame: tuple[bytes, ...]
) -> Graph:
    """Constants that are nodes become tensors; what an Identity names goes by its first name."""
    kept, first_name = list[Node](), dict[str, str]()
    for node in nodes:
        # A function of the file's own may have any name, in a domain of its own.
        standard = node.domain in ("", "ai.onnx")
        value = node.attribute("value") if standard and node.op_type == "Constant" else ()
        constant = next((part for part in value if part.number == ATTRIBUTE_TENSOR), None)
        if constant is not None:
            tensors[node.outputs[0]] = Tensor(_parts(constant, _TENSOR))
        elif standard and node.op_type == "Identity" and len(node.inputs) == len(node.outputs) == 1:
            first_name[node.outputs[0]] = first_name.get(node.inputs[0], node.inputs[0])
        else:
            read = tuple(first_name.get(name, name) for name in node.inputs)
            kept.append(replace(node, inputs=read))
    return Graph(kept, tensors, inputs, [first_name.get(name, name) for name in outputs], frame)


def _node(field: Field) -> Node:
    parts = _parts(field, _NODE, several={NODE_INPUT: BYTES, NODE_OUTPUT: BYTES, NODE_ATTRIBUTE: BYTES})
    return Node(
        name=_text(parts, NODE_NAME),
        op_type=_text(parts, NODE_OP_TYPE),
        domain=_text(parts, NODE_DOMAIN),
        kind=tuple(sorted(bytes(p.whole) for p in parts if p.number in (NODE_OP_TYPE, NODE_DOMAIN, NODE_ATTRIBUTE))),
        inputs=tuple(part.text for part in parts if part.number == NODE_INPUT),
        outputs=tuple(part.text for part in parts if part.number == NODE_OUTPUT),
        attributes=tuple(part for part in parts if part.number == NODE_ATTRIBUTE),
    )


def _parts(field: Field, once: dict[int, int], several: dict[int, int] | None = None) -> tuple[Field, ...]:
    """The fields of a message whose wire types are known, ``once`` and ``several`` by number.

    Raises:
        ValueError: one is of another wire type, or stands twice.
    """
    parts = tuple(read_fields(field.value))
    kinds, seen = once | (several or {}), set[int]()
    for part in parts:
        if part.kind != kinds.get(part.number, part.kind):
            raise ValueError(f"field {part.number} is of wire type {part.kind}")
        if part.number in seen:
            raise ValueError(f"field {part.number} stands twice")
        if part.number in once:
            seen.add(part.number)
    return parts


def _text(parts: tuple[Field, ...], number: int) -> str:
    return next((part.text for part in parts if part.number == number), "")


def _numbers(field: Field) -> list[int]:
    """The field's value, or its values if they are packed."""
    found, at = list[int](), 0
    while at < len(field.value):
        number, at = read_number(field.value, at)
        found.append(number)
    return found

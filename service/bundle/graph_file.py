"""A stored graph as far as two of them are compared: its nodes in order, and what it holds as constants."""

import math
import mmap
import struct
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.onnx_message import (
    ATTRIBUTE_FLOAT,
    ATTRIBUTE_GRAPH,
    ATTRIBUTE_GRAPHS,
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
    GRAPH_SPARSE,
    MODEL_FUNCTION,
    MODEL_GRAPH,
    NODE_ATTRIBUTE,
    NODE_DOMAIN,
    NODE_INPUT,
    NODE_NAME,
    NODE_OP_TYPE,
    NODE_OUTPUT,
    TENSOR_DESCRIPTION,
    TENSOR_DIMS,
    TENSOR_ELEMENT,
    TENSOR_EXTERNAL,
    TENSOR_LOCATION,
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
#: All that a constant of float32 needs: values in another field, or in another file, are not looked at.
_FLOATS = {TENSOR_DIMS, TENSOR_ELEMENT, TENSOR_NAME, TENSOR_RAW, TENSOR_DESCRIPTION}
_ATTRIBUTE = {
    ATTRIBUTE_NAME: BYTES,
    ATTRIBUTE_FLOAT: FIXED32,
    ATTRIBUTE_INT: VARINT,
    ATTRIBUTE_TENSOR: BYTES,
}


class UnclearGraph(ValueError):
    """What a runtime makes of the file may not be what stands in it for others to read; says which part, in words."""


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
            ValueError: it is not float32, not as large as it says, or has values elsewhere, too.
        """
        if not _FLOATS.issuperset(field.number for field in self.fields):
            raise ValueError("values that are not raw")
        dims = [size for field in self.fields if field.number == TENSOR_DIMS for size in _numbers(field)]
        (element,) = (read_number(field.value, 0)[0] for field in self.fields if field.number == TENSOR_ELEMENT)
        (raw,) = (field.value for field in self.fields if field.number == TENSOR_RAW)
        if element != FLOAT or len(raw) != 4 * math.prod(dims):
            raise ValueError("not float32 of the size stated")
        return np.frombuffer(raw, "<f4").reshape(dims)


@dataclass(frozen=True)
class Node:
    """One operation; ``kind`` holds everything that decides what it computes from its inputs.

    Attributes:
        operator: the name of a standard one alone, of any other with its domain.
        attributes: the parts of each by its name.
    """

    name: str
    operator: str
    kind: tuple[bytes, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, tuple[Field, ...]]

    def number(self, attribute: str, default: float) -> float:
        """An attribute that is a float or an integer."""
        for field in self.attributes.get(attribute, ()):
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
        UnclearGraph: a name is given twice, a constant lies in another file, or something else leaves open what is run.
        ValueError, IndexError: it is not an ONNX file.
        OSError: it cannot be read.
    """
    with path.open("rb") as stream:
        model = list(read_fields(memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))))
    (graph,) = (list(read_fields(field.value)) for field in model if field.number == MODEL_GRAPH)
    if any(field.number == MODEL_FUNCTION for field in model):
        raise UnclearGraph("brings functions of its own")
    nodes, tensors, frame = list[Node](), dict[str, Tensor](), list[bytes]()
    ends: dict[int, list[str]] = {GRAPH_INPUT: [], GRAPH_OUTPUT: []}
    frame += [bytes(field.whole) for field in model if field.number != MODEL_GRAPH]
    for field in graph:
        if field.number == GRAPH_NODE:
            nodes.append(_node(field))
        elif field.number == GRAPH_INITIALIZER:
            _keep(tensors, _text(parts := _parts(field, _TENSOR), TENSOR_NAME), parts)
        elif field.number == GRAPH_SPARSE:
            raise UnclearGraph("holds sparse constants")
        elif field.number not in _NO_CONTENT:
            frame.append(bytes(field.whole))
            if field.number in ends:
                ends[field.number].append(_text(_parts(field, _VALUE), VALUE_NAME))
    given = [*ends[GRAPH_INPUT], *tensors, *(name for node in nodes for name in node.outputs if name)]
    if len(set(given)) != len(given):
        raise UnclearGraph(
            f"gives the name {next(name for name, times in Counter(given).items() if times > 1)!r} twice"
        )
    return _without_names(nodes, tensors, ends[GRAPH_INPUT], ends[GRAPH_OUTPUT], tuple(frame))


def _keep(tensors: dict[str, Tensor], name: str, parts: tuple[Field, ...]) -> None:
    if name in tensors:
        raise UnclearGraph(f"gives the name {name!r} twice")
    if any(part.number in (TENSOR_EXTERNAL, TENSOR_LOCATION) for part in parts):
        raise UnclearGraph(f"leaves {name!r} to another file")
    tensors[name] = Tensor(parts)


def _without_names(
    nodes: list[Node], tensors: dict[str, Tensor], inputs: list[str], outputs: list[str], frame: tuple[bytes, ...]
) -> Graph:
    """Constants that are nodes become tensors; what an Identity names goes by its first name."""
    kept, first_name = list[Node](), dict[str, str]()
    for node in nodes:
        value = node.attributes.get("value", ()) if node.operator == "Constant" else ()
        constant = next((part for part in value if part.number == ATTRIBUTE_TENSOR), None)
        if constant is not None:
            _keep(tensors, node.outputs[0], _parts(constant, _TENSOR))
        elif node.operator == "Identity" and len(node.inputs) == len(node.outputs) == 1:
            first_name[node.outputs[0]] = first_name.get(node.inputs[0], node.inputs[0])
        else:
            read = tuple(first_name.get(name, name) for name in node.inputs)
            kept.append(replace(node, inputs=read))
    return Graph(kept, tensors, inputs, [first_name.get(name, name) for name in outputs], frame)


def _node(field: Field) -> Node:
    parts = _parts(field, _NODE, several={NODE_INPUT: BYTES, NODE_OUTPUT: BYTES, NODE_ATTRIBUTE: BYTES})
    name, domain, operator = (_text(parts, number) for number in (NODE_NAME, NODE_DOMAIN, NODE_OP_TYPE))
    attributes = dict[str, tuple[Field, ...]]()
    for part in parts:
        if part.number == NODE_ATTRIBUTE:
            found = _parts(part, _ATTRIBUTE)
            of = _text(found, ATTRIBUTE_NAME)
            if of in attributes:
                raise UnclearGraph(f"gives {name} the attribute {of!r} twice")
            if any(field.number in (ATTRIBUTE_GRAPH, ATTRIBUTE_GRAPHS) for field in found):
                # It could read any value by its name, also one that folding changes.
                raise UnclearGraph(f"has a graph in {name}")
            attributes[of] = found
    return Node(
        name=name,
        operator=operator if domain in ("", "ai.onnx") else f"{domain}.{operator}",
        kind=tuple(sorted(bytes(p.whole) for p in parts if p.number in (NODE_OP_TYPE, NODE_DOMAIN, NODE_ATTRIBUTE))),
        inputs=tuple(part.text for part in parts if part.number == NODE_INPUT),
        outputs=tuple(part.text for part in parts if part.number == NODE_OUTPUT),
        attributes=attributes,
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

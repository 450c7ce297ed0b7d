"""The fields of ONNX files: serving has no onnx package.

An ONNX file is a protobuf message, which is a sequence of fields. Each has a key (number * 8 + wire type) and a value;
a value of wire type 2 has its length before it and may be a message itself. Numbers are those of onnx.proto.
"""

from collections.abc import Iterator
from dataclasses import dataclass

MODEL_GRAPH, MODEL_FUNCTION = 7, 25
GRAPH_NODE, GRAPH_INITIALIZER, GRAPH_INPUT, GRAPH_OUTPUT, GRAPH_SPARSE = 1, 5, 11, 12, 15
NODE_INPUT, NODE_OUTPUT, NODE_NAME, NODE_OP_TYPE, NODE_ATTRIBUTE, NODE_DOMAIN = 1, 2, 3, 4, 5, 7
ATTRIBUTE_NAME, ATTRIBUTE_FLOAT, ATTRIBUTE_INT, ATTRIBUTE_TENSOR, ATTRIBUTE_GRAPH, ATTRIBUTE_GRAPHS = 1, 2, 3, 5, 6, 11
TENSOR_DIMS, TENSOR_ELEMENT, TENSOR_NAME, TENSOR_RAW, TENSOR_DESCRIPTION = 1, 2, 8, 9, 12
TENSOR_EXTERNAL, TENSOR_LOCATION = 13, 14
VALUE_NAME = 1
FLOAT = 1

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True)
class Field:
    """``value`` without key and length, ``whole`` with them, views of the file's bytes; ``kind`` is the wire type."""

    number: int
    kind: int
    value: memoryview
    whole: memoryview

    @property
    def text(self) -> str:
        """The value as a string."""
        return bytes(self.value).decode()


def read_fields(message: memoryview) -> Iterator[Field]:
    """The fields of a message in order.

    Raises:
        ValueError, IndexError: it is no message.
    """
    at = 0
    while at < len(message):
        start = at
        key, at = read_number(message, at)
        kind, size = key & 7, 0
        if kind == VARINT:
            _, end = read_number(message, at)
            size = end - at
        elif kind == BYTES:
            size, at = read_number(message, at)
        elif kind in (FIXED64, FIXED32):
            size = 8 if kind == FIXED64 else 4
        else:
            raise ValueError(f"unknown wire type {kind}")
        if at + size > len(message):
            raise ValueError("a field is longer than its message")
        yield Field(key >> 3, kind, message[at : at + size], message[start : at + size])
        at += size


def read_number(message: memoryview, at: int) -> tuple[int, int]:
    """A base-128 number, lowest seven bits first, and where it ends."""
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at

"""``fp16.json``: how ``model.fp16.onnx`` was made, and what it answered. A bundle has both files or neither."""

from typing import Literal

from pydantic import Field

from service.bundle.int8 import FloatConvolution
from service.bundle.manifest import GraphSpec, Record


class Fp16Spec(Record):
    """The whole of ``fp16.json``."""

    schema_version: Literal[1] = Field(1, description="Rises with every change that could break a reader.")
    source_version: str = Field(description="Version of the bundle that was halved; all else is as it was there.")
    graph: GraphSpec = Field(description="The graph in fp16; it takes and gives what the deployed one does.")
    convolutions: int = Field(description="Convolutions in fp16.")
    kept_in_float: list[FloatConvolution] = Field(
        description="All others, in the order of the graph. Before the first convolution and behind the last ones all "
        "is float32, too: in fp16 corners of 512 px and more lie half a pixel apart."
    )
    boxes: int = Field(
        description="Boxes that the deployed graph finds in fp32 in the pictures that engines are compared on."
    )
    repeated: int = Field(
        description="Of these, repeated as a choice by measurement asks, on a processor that rounded as fp16 does."
    )
    new: int = Field(description="Boxes found besides.")

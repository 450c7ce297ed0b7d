"""``int8.json``: how ``model.int8.onnx`` was quantized, and what its gate found. A bundle has both files or neither."""

from typing import Literal, Self

from pydantic import Field, model_validator

from service.bundle.latency import Machine
from service.bundle.manifest import GraphSpec, Record, Sha256

#: Convolutions in int8 and what is left of the network in the other, fastest first.
Int8Precision = Literal["int8+bf16", "int8+fp32"]


def spare_boxes(boxes: int, share: float) -> int:
    """How many of ``boxes`` may be missing where ``share`` of them must be there."""
    # Rounded against the representation errors of the share.
    return int(round(boxes * (1 - share), 6))


class FloatConvolution(Record):
    """A convolution that was not quantized."""

    conv: str = Field(description="Module path of the convolution.", examples=["model.10.m.0.attn.qkv.conv"])
    reason: str = Field(description="Why it stays in float, in words.")


class PictureList(Record):
    """Pictures that were used, by their bytes."""

    pictures: int = Field(description="How many there are.")
    sha256: Sha256 = Field(
        description="SHA-256 of the ascending SHA-256 sums of their files, hexadecimal, each followed by a newline."
    )


class GateVerdict(Record):
    """One way to run the quantized graph, held against the deployed graph in fp32 ONNX Runtime."""

    precision: Int8Precision = Field(description="What convolutions multiply in, and what is left of the network.")
    runtime: str = Field(description="The runtime and its release.", examples=["OpenVINO 2026.4.0"])
    boxes: int = Field(description="Boxes of the deployed graph in fp32 above the model's default confidence.")
    repeated: int = Field(description="Of these, repeated as the bar asks.")
    new: int = Field(description="Boxes found besides.")
    repeated_at_least: float = Field(
        description="Lower bound of the share of repeated boxes in other pictures like these: Wilson's, one-sided, at "
        "95 %, as if each box were drawn by itself."
    )
    passed: bool = Field(description="It may be served.")
    reason: str | None = Field(description="Why it may not; null if it may.")


class GateBar(Record):
    """What is asked of a way to run the quantized graph."""

    iou: float = Field(description="Least overlap of a box and its repetition, which has the same class.")
    confidence: float = Field(description="Largest difference of their confidence.")
    share: float = Field(description="Of the boxes that must be repeated; as many as may be missing may be new.")
    least_boxes: int = Field(description="With fewer boxes nothing is decided.")

    def allows(self, verdict: GateVerdict) -> bool:
        """Whether the figures of a verdict keep to it."""
        spare = spare_boxes(verdict.boxes, self.share)
        missing = verdict.boxes - verdict.repeated
        return verdict.boxes >= self.least_boxes and missing <= spare and verdict.new <= spare


class Int8Gate(Record):
    """The judgement on the quantized graph."""

    folder: str = Field(description="Name of the folder that the pictures came from.")
    pictures: PictureList = Field(description="No picture among them was calibrated on.")
    bar: GateBar = Field(description="What was asked.")
    ways: list[GateVerdict] = Field(description="What the machine could do, fastest first.")
    machine: Machine = Field(description="Where it was judged.")

    @model_validator(mode="after")
    def _verdicts_follow_from_figures(self) -> Self:
        for way in self.ways:
            if way.passed and not self.bar.allows(way):
                raise ValueError(f"{way.precision} is said to have passed, but its figures do not keep to the bar")
        if not any(way.passed for way in self.ways):
            raise ValueError("no way to run the quantized graph has passed")
        return self


class Int8Spec(Record):
    """The whole of ``int8.json``."""

    schema_version: Literal[1] = Field(1, description="Rises with every change that could break a reader.")
    source_version: str = Field(description="Version of the bundle that was quantized; all else is as it was there.")
    quantizer: str = Field(description="What quantized it, and its release.", examples=["ONNX Runtime 1.32.0"])
    graph: GraphSpec = Field(description="The quantized graph.")
    weight_bits: Literal[7, 8] = Field(
        description="Bits of the quantized weights. 8 are served only by processors that add products of int8 in 32 "
        "bits (VNNI): others do it in 16, which saturate unless the weights have 7."
    )
    convolutions: int = Field(description="Convolutions in int8: weights by channel, their inputs by tensor.")
    kept_in_float: list[FloatConvolution] = Field(description="All others, in the order of the graph.")
    calibration: PictureList = Field(description="Pictures whose activations set the ranges of int8.")
    gate: Int8Gate = Field(description="Whether the quantized graph finds the same boxes.")

    def best(self, *, bf16: bool, dot_products: bool) -> Int8Precision | None:
        """The fastest way that passed and a processor can go; None if there is none.

        Args:
            bf16, dot_products: as in ``obstacle``.
        """
        ways = (way.precision for way in self.gate.ways)
        return next((way for way in ways if self.obstacle(way, bf16=bf16, dot_products=dot_products) is None), None)

    def obstacle(self, way: Int8Precision, *, bf16: bool, dot_products: bool) -> str | None:
        """Why a processor cannot or may not run the quantized graph this way, in words; None if it may.

        Args:
            bf16: it has instructions for it.
            dot_products: it adds products of int8 in 32 bits.
        """
        if self.weight_bits == 8 and not dot_products:
            return "Its 8-bit weights need VNNI or its like, which this processor lacks."
        if way == "int8+bf16" and not bf16:
            return "This processor has no instructions for bf16."
        verdict = next((verdict for verdict in self.gate.ways if verdict.precision == way), None)
        if verdict is None:
            return "Where the bundle was quantized, this could not be judged."
        return None if verdict.passed else f"It did not pass: {verdict.reason}"

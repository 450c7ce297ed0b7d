"""``manifest.json``: what the bundle is, where it came from and the SHA-256 of every other file in it."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
WeightsSource = Literal["official", "local", "embedded"]
HeadKind = Literal["one2one", "one2many"]


class Record(BaseModel):
    """Base of everything stored in a bundle: immutable, and strict about unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class RectSpec(Record):
    """How far the padding of the square may be left out; Ultralytics' ``rect``."""

    multiple: int = Field(description="What is left of a side is a multiple of so many pixels.", examples=[32])
    shortest: int = Field(description="No side gets shorter, in pixels: the output's rows could not be filled.")


class InputSpec(Record):
    """The tensor the deployed graph takes: (batch, height, width, 3)."""

    height: int = Field(description="Rows of the letterboxed image.", examples=[640])
    width: int = Field(description="Columns of the letterboxed image.", examples=[640])
    layout: Literal["NHWC"] = Field("NHWC", description="Order of the axes: batch, rows, columns, channels.")
    dtype: Literal["uint8"] = Field("uint8", description="Type of the values, 0 to 255.")
    color_order: Literal["BGR"] = Field(
        "BGR", description="Channel order; scaling to 0..1 and RGB happen in the graph."
    )
    rect: RectSpec | None = Field(
        None,
        description="Where set, height and width are the most, and padding is left out of either (YOLOFOLD_RECT). "
        "Null: every picture is padded to the whole square.",
    )


class HeadSpec(Record):
    """How boxes leave the network; the output is always (batch, max_det, 6): x1, y1, x2, y2, confidence, class."""

    kind: HeadKind = Field(description="one2one heads are trained to need no suppression.")
    nms: Literal["none", "graph"] = Field(description="Where non-maximum suppression runs; none for one2one heads.")
    max_det: int = Field(description="Rows of the output.", examples=[300])
    iou: float | None = Field(
        description="Overlap above which suppression drops a box of the same class; null where none runs."
    )
    min_confidence: float = Field(description="Boxes below this never leave the graph.")


class ModelSpec(Record):
    """The network and its classes."""

    name: str = Field(description="The checkpoint's name.", examples=["yolo26n"])
    version: str = Field(description="First 12 digits of the bundle's content hash.", examples=["1f3a9c0b2d4e"])
    task: Literal["detect"] = Field("detect", description="What it is for: finding objects as boxes.")
    architecture: str = Field(description="The Ultralytics YAML the network was built from.", examples=["yolo26n.yaml"])
    parameters: int = Field(description="Weights and biases of the deployed (folded, one head) network.")
    classes: list[str] = Field(description="Class names; the position is the class id.")
    default_confidence: float = Field(
        description="Confidence that boxes must exceed when a request names none.", examples=[0.25]
    )
    input: InputSpec = Field(description="The tensor that the deployed graph takes.")
    head: HeadSpec = Field(description="How boxes leave it.")


class WeightsSpec(Record):
    """The checkpoint the bundle was prepared from."""

    requested: str = Field(description="What was asked for: auto, embedded, a name or a file name.")
    source: WeightsSource = Field(
        description="official: from Ultralytics. local: a file of the operator. embedded: what comes with yolofold."
    )
    file: str = Field(description="The file's name, without its folder.")
    sha256: Sha256 = Field(description="SHA-256 of the file, hexadecimal.")
    bytes: int = Field(description="Size of the file.")
    note: str | None = Field(
        None, description="Why auto fell back to the embedded weights, or that these were recalibrated; else null."
    )


class LayerShift(Record):
    """How far recalibration moved the running law of one BatchNorm, and how much of that chance alone would."""

    name: str
    divergence_mean: float = Field(
        description="Symmetric Kullback-Leibler divergence from the old law, mean over the channels, in nats."
    )
    divergence_max: float
    halves_divergence_mean: float | None = Field(
        description="The same between the two halves of the pictures: what chance does. None where it never runs."
    )


class Recalibration(Record):
    """Where the running statistics of a recalibrated bundle come from."""

    bundle_version: str = Field(description="The bundle that was recalibrated.")
    checkpoint_file: str = Field(description="Its checkpoint, without the folder.")
    checkpoint_sha256: Sha256
    pictures: int = Field(description="Pictures the statistics were estimated on.")
    pictures_sha256: Sha256 = Field(
        description="SHA-256 of the ascending SHA-256 sums of their files, hexadecimal, each followed by a newline."
    )
    prior: float = Field(description="How many pictures the old statistics count for.")
    residual: float = Field(
        description="What layers hold and what they see in the finished network, on these pictures, differ by at most "
        "this: means in standard deviations, variances in their logarithm."
    )
    tolerance: float = Field(description="Bound on the residual.")
    layers: list[LayerShift]


class GraphSpec(Record):
    """Figures counted in an ONNX file, not taken from an exporter's flag."""

    file: str = Field(description="Name of the file in the bundle.")
    opset: int = Field(description="Version of the ONNX operator set.")
    nodes: int = Field(description="Nodes of the graph as stored; an engine may fuse some when it loads it.")
    batch_normalization_nodes: int = Field(description="Of these, BatchNormalization.")
    bytes: int = Field(description="Size of the file.")


class FileRecord(Record):
    """Fingerprint of one file of the bundle."""

    sha256: Sha256
    bytes: int


class BundleManifest(Record):
    """The whole of ``manifest.json``."""

    schema_version: Literal[1] = 1
    created_at: str = Field(description="UTC, ISO 8601.")
    model: ModelSpec
    weights: WeightsSpec
    deployed: GraphSpec
    reference: GraphSpec
    tools: dict[str, str] = Field(description="Versions of the tools that made the bundle.")
    recalibration: Recalibration | None = Field(None, description="None when the checkpoint is as it was trained.")
    files: dict[str, FileRecord] = Field(description="Every other file of the bundle.")

"""Shapes of ``GET /model/fold`` and ``POST /model/fold/check``. What a bundle stores is described there."""

from typing import Literal

from pydantic import BaseModel, Field

from service.api.schemas import Detection, ImageSize, ModelRef
from service.bundle.certificate import EndToEndProof, LayerProof
from service.bundle.manifest import GraphSpec, WeightsSpec
from service.inference.engine import Precision


class CertifiedGraph(GraphSpec):
    """One ONNX file, as the manifest records it and as it was verified when the service started."""

    sha256: str = Field(
        description="SHA-256 of the file, hexadecimal.",
        examples=["9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"],
    )


class CertifiedGraphs(BaseModel):
    """The graph with the checkpoint's BatchNorm and the one that is served."""

    reference: CertifiedGraph = Field(description="The graph that kept its BatchNorm.")
    deployed: CertifiedGraph = Field(description="The graph that is served, or, in int8, that was quantized.")


class LayerFoldProof(LayerProof):
    """One folded layer: its error as observed, beside the bound that float32 arithmetic allows."""

    share: float = Field(description="relative_error / tolerance; at most 1 where it passed.", examples=[0.2])


class NotFolded(BaseModel):
    """A BatchNorm that was not folded."""

    name: str = Field(description="Module path of the BatchNorm.", examples=["model.23.cv2.0.0.bn"])
    status: Literal["dropped", "unfoldable"] = Field(
        description="dropped: it lies in a head that is not served. unfoldable: it is kept in the deployed graph."
    )
    reason: str = Field(description="Why it was not folded, in words.")


class EndToEndSummary(BaseModel):
    """The folded network against the unfolded one, over all proof inputs."""

    tolerance: float = Field(description="Bound on max_relative_difference.", examples=[0.001])
    max_relative_difference: float = Field(
        description="Worst of the decoded boxes and scores, each over its own largest value.", examples=[3e-6]
    )
    max_absolute_difference: float = Field(description="Worst of the decoded boxes (px) and scores.", examples=[2e-4])
    comparison_threshold: float = Field(description="Confidence from which detections are compared.", examples=[0.25])
    detections: int = Field(description="Boxes of the unfolded network above it.", examples=[31])
    matched: int = Field(description="Of these, repeated by the folded network.", examples=[31])
    extra: int = Field(description="Boxes only the folded network has.", examples=[0])
    max_box_difference_px: float = Field(
        description="Largest difference of a corner among the matched boxes, pixels of the input."
    )
    max_confidence_difference: float = Field(description="Largest difference of confidence among the matched boxes.")
    inputs: list[EndToEndProof] = Field(description="The same, picture by picture.")


class StartupCheckAnswer(BaseModel):
    """What the engine of this process answered, when it started, to the picture stored in the bundle."""

    passed: Literal[True] = Field(description="A process in which it fails serves nothing.")
    input: str = Field(description="The stored picture's file name, or the seed of the noise.", examples=["bus.jpg"])
    boxes: int = Field(
        description="Boxes expected: the checkpoint's own, BatchNorm unfolded, computed in float64. 0 where rounding "
        "decides which boxes it answers, as in an untrained network: only its highest confidence is compared.",
        examples=[50],
    )
    matched: int = Field(
        description="Of these, found by the engine; all, or the process would not serve.", examples=[50]
    )
    highest_confidence: float | None = Field(
        description="Compared where no boxes are expected: the highest confidence. 0 where the network answers no box "
        "to any of the pictures it was proved on: the check then sees only that none comes. Else null.",
    )
    max_box_difference_px: float = Field(description="Largest, in pixels of the network's input.", examples=[6e-5])
    max_confidence_difference: float = Field(
        description="Largest among the matched boxes, or of the highest where none is expected.", examples=[6e-7]
    )
    max_score_difference: float = Field(
        description="Of the score before the sigmoid, beyond the 1e-6 of confidence that approximating sigmoids costs.",
        examples=[0.0],
    )
    box_tolerance_px: float = Field(
        description="Ten times the worst rounding of float32 seen in preparation; 1024 times as much on GPUs, which "
        "multiply in TF32, 2048 times as much in fp16, 8192 times in bf16 and 32768 times in int8.",
        examples=[0.001],
    )
    score_tolerance: float = Field(
        description="The same for the score: a confidence p may differ by this times p (1 - p), plus 1e-6.",
        examples=[0.0002],
    )
    duration_ms: float = Field(description="The process's first inference and the comparison.", examples=[70.1])
    engine: str = Field(
        description="What executed the graph, as its runtime names it.", examples=["CPUExecutionProvider"]
    )
    runtime: str = Field(description="The runtime and its release.", examples=["ONNX Runtime 1.32.0"])
    precision: Precision = Field(description="What the convolutions multiplied in.")
    threads: int = Field(description="Threads that one run may use while it is alone.", examples=[2])


class FoldAnswer(BaseModel):
    """The fold certificate of the model being served."""

    model: ModelRef = Field(description="The model being served.")
    passed: Literal[True] = Field(description="A bundle whose certificate did not pass is never served.")
    dtype: Literal["float32"] = Field(description="What both networks were computed in for the proof.")
    checkpoint: WeightsSpec = Field(description="The weights that were folded.")
    graphs: CertifiedGraphs = Field(description="The two files that the proof is about.")
    startup_check: StartupCheckAnswer = Field(
        description="What the engine of this process answered to a stored picture."
    )
    end_to_end: EndToEndSummary = Field(description="The whole folded network against the unfolded one.")
    worst_layer: str | None = Field(
        description="The layer nearest to its bound; null where none was folded.", examples=["model.4.cv1.bn"]
    )
    layers: list[LayerFoldProof] = Field(description="Every folded layer, in the order of the network.")
    not_folded: list[NotFolded] = Field(description="BatchNorm layers that were not folded, and why.")


class CheckTolerance(BaseModel):
    """What two runs may differ by through rounding alone."""

    box_px: float = Field(description="Pixels of the picture.", examples=[0.004])
    score: float = Field(
        description="The score before the sigmoid: a confidence p may differ by this times p (1 - p), plus 1e-6.",
        examples=[0.0004],
    )


class GraphRun(BaseModel):
    """One graph on the picture."""

    file: str = Field(description="Name of the file in the bundle.", examples=["reference.onnx"])
    batch_normalization_nodes: int = Field(description="BatchNormalization nodes of that file.", examples=[96])
    engine: str = Field(description="What executed it, as its runtime names it.", examples=["CPUExecutionProvider"])
    runtime: str = Field(description="The runtime and its release.", examples=["ONNX Runtime 1.32.0"])
    precision: Precision = Field(description="What the convolutions multiplied in.")
    median_ms: float = Field(description="Median of the timed runs of the network alone.", examples=[55.2])
    detections: list[Detection] = Field(description="By falling confidence.")


class FoldCheckAnswer(BaseModel):
    """The caller's picture through both graphs."""

    model: ModelRef = Field(description="The model being served.")
    image: ImageSize = Field(description="Size of the picture sent.")
    conf: float = Field(description="The threshold used.", examples=[0.25])
    agrees: bool = Field(description="Both graphs answer the same, up to rounding.")
    matched: int = Field(description="Boxes of the same class that belong together.", examples=[7])
    only_in_reference: int = Field(description="Boxes that only the graph with BatchNorm found.", examples=[0])
    only_in_deployed: int = Field(description="Boxes that only the served graph found.", examples=[0])
    borderline: int = Field(
        description="Of those in one graph only, how many lie so near the threshold that rounding decides.",
        examples=[0],
    )
    max_box_difference_px: float = Field(description="Among the matched, pixels of the picture.", examples=[6.1e-5])
    max_confidence_difference: float = Field(description="Among the matched.", examples=[6e-7])
    tolerance: CheckTolerance = Field(description="What rounding alone may amount to.")
    runs: int = Field(
        description="Timed runs of each graph, taken in turns after one of each that is not timed.", examples=[5]
    )
    load_ms: float = Field(
        description="Time it took to load the reference graph, and in fp16, bf16 or int8 the deployed one, for this "
        "request.",
        examples=[180.0],
    )
    reference: GraphRun = Field(description="The graph that kept its BatchNorm.")
    deployed: GraphRun = Field(description="The graph that is served.")

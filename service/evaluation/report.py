"""What an evaluation says, as it is written to a file. Every figure states how it was made."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from service.inference.engine import Precision as Arithmetic

Graph = Literal["folded", "unfolded"]


class Part(BaseModel):
    """Base of the report's parts."""

    model_config = ConfigDict(frozen=True)


class DataDescription(Part):
    """The pictures the figures were made with."""

    source: str
    layout: Literal["YOLO", "COCO"]
    split: str | None
    pictures: int
    pictures_without_objects: int
    objects: int = Field(description="Crowd regions not counted.")
    notes: list[str]


class Network(Part):
    """One network that was run."""

    bundle: str = Field(description="Folder of the bundle.")
    name: str
    version: str
    graph: Graph = Field(description="unfolded: reference.onnx, its BatchNorm kept and executed.")
    runtime: str = Field(description="The runtime and its release.")
    provider: str = Field(description="What executed the graph, as the runtime names it.")
    arithmetic: Arithmetic = Field(description="What the network's convolutions multiplied in.")
    default_confidence: float
    lowest_confidence: float = Field(description="Boxes above this entered the average precision.")
    max_det: int = Field(description="Most boxes judged in one picture.")


class Precision(Part):
    """Average precision by COCO's rules (101 recalls); None where there are no objects."""

    objects: int
    ap50_95: float | None = Field(description="Mean over the IoU thresholds 0.50, 0.55 ... 0.95.")
    ap50: float | None = Field(description="At IoU 0.50.")


class OperatingPoint(Part):
    """Boxes strictly above a confidence; a box is right from IoU 0.5 with an object of its class that is still free."""

    confidence: float
    precision: float = Field(description="Share of the boxes that are right.")
    recall: float = Field(description="Share of the objects found.")
    f1: float
    right: int
    wrong: int
    missed: int
    false_boxes_per_empty_picture: float | None = Field(
        description="Boxes in pictures without any object, per such picture; None where there are none."
    )


class OperatingPoints(Part):
    """The confidences of interest, for one class or for all boxes together."""

    default: OperatingPoint = Field(description="At the model's default confidence.")
    requested: OperatingPoint | None = Field(description="At the confidence asked for with --conf.")
    best_f1: OperatingPoint | None = Field(
        description="Where F1 is highest among 0.001, 0.002 ... 0.999; None if no box is right at any."
    )


class ClassFigures(Part):
    """One class."""

    name: str
    sizes: dict[str, Precision] = Field(
        description="all, and small (area up to 32² px), medium (up to 96² px) and large, in pixels of the picture "
        "as it is stored."
    )
    points: OperatingPoints


class Figures(Part):
    """All figures of one network."""

    network: Network
    sizes: dict[str, Precision] = Field(
        description="Means over the classes that have objects of the size (mAP); sizes as for the classes."
    )
    points: OperatingPoints = Field(description="All boxes of all classes counted together.")
    classes: list[ClassFigures]


class Difference(Part):
    """A figure of the first network minus that of the second."""

    estimate: float
    low: float = Field(description="Lower end of the 95 % interval.")
    high: float = Field(description="Upper end of the 95 % interval.")


class BoxAgreement(Part):
    """Boxes of the two networks, paired per picture and class from IoU 0.5, best overlap first."""

    confidence: float = Field(description="Boxes above this in either network are compared.")
    boxes: tuple[int, int] = Field(description="Boxes above it in the first and the second network.")
    pairs: int
    unpaired: tuple[int, int] = Field(
        description="Of these, boxes of each network for which the other has none at any confidence."
    )
    one_side_only: int = Field(description="Pairs of which only one box lies above the confidence.")
    largest_confidence_difference: float
    largest_corner_difference_px: float = Field(description="Pixels of the upright picture, per coordinate.")


class Comparison(Part):
    """Two networks on the same pictures."""

    other: Figures
    map50_95: Difference
    map50: Difference
    resamples: int = Field(description="Resamples of the pictures, the same for both networks (paired bootstrap).")
    boxes: BoxAgreement


class EvaluationReport(Part):
    """The whole of an evaluation."""

    data: DataDescription
    evaluator: str = Field(description="Name and version of the COCO evaluator.")
    figures: Figures
    comparison: Comparison | None

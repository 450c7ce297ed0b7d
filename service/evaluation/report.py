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
    layout: Literal["YOLO", "COCO", "pictures"] = Field(description="pictures: a plain folder, taken with --negatives.")
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
    weights_sha256: str = Field(description="SHA-256 of the checkpoint.")
    input_px: int = Field(description="Side of the square input.")
    rect: bool = Field(description="Padding was left out of the square.")
    head: str = Field(description="The head that answers.")
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
    lenient: OperatingPoint | None = Field(
        description="The lowest of these at which F1 is within 0.005 of the highest: it finds most for that."
    )


class ClassFigures(Part):
    """One class."""

    name: str
    sizes: dict[str, Precision] = Field(
        description="all, and small (area up to 32² px), medium (up to 96² px) and large, in pixels of the picture "
        "as it is stored."
    )
    points: OperatingPoints


class Estimate(Part):
    """A figure and its 95 % interval."""

    estimate: float
    low: float = Field(description="Lower end of the 95 % interval.")
    high: float = Field(description="Upper end of the 95 % interval.")


class AlarmsAbove(Part):
    """False boxes strictly above a confidence."""

    confidence: float
    boxes: int
    boxes_per_picture: Estimate = Field(
        description="Bootstrap over the pictures. Without any box it has no extent: go by the share then."
    )
    pictures_with_boxes: int
    share_of_pictures: Estimate = Field(description="Pictures with boxes; Wilson's score interval.")


class ClassAlarms(Part):
    """False boxes of one class."""

    name: str
    boxes: int = Field(description="Above the default confidence.")
    requested: int | None = Field(description="Above the confidence asked for with --conf.")
    highest_confidence: float | None = Field(description="Of any box of the class; None where there is none at all.")


class FalseBox(Part):
    """One box where there is nothing."""

    picture: str
    name: str
    confidence: float


class FalseAlarms(Part):
    """Boxes in pictures without objects: all of them are wrong."""

    pictures: int
    default: AlarmsAbove = Field(description="At the model's default confidence.")
    requested: AlarmsAbove | None = Field(description="At the confidence asked for with --conf.")
    classes: list[ClassAlarms]
    highest: list[FalseBox] = Field(description="The most confident boxes of all, whatever the threshold.")


class Figures(Part):
    """All figures of one network."""

    network: Network
    absent: str | None = Field(description="Why sizes, points and classes are None, or None where they are not.")
    sizes: dict[str, Precision] | None = Field(
        description="Means over the classes that have objects of the size (mAP); sizes as for the classes."
    )
    points: OperatingPoints | None = Field(description="All boxes of all classes counted together.")
    classes: list[ClassFigures] | None
    false_alarms: FalseAlarms | None = Field(description="None where every picture has objects.")


class Difference(Estimate):
    """A figure of the first network minus that of the second."""


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


class SideDifference(Part):
    """One thing that is not the same on both sides of a comparison."""

    what: str = Field(examples=["arithmetic"])
    first: str
    second: str


class Comparison(Part):
    """Two networks on the same pictures."""

    other: Figures
    differences: list[SideDifference] = Field(
        description="All that differs between the two sides: only `folding` where folding alone is compared."
    )
    map50_95: Difference | None = Field(description="None where no object is labelled.")
    map50: Difference | None = Field(description="None where no object is labelled.")
    false_boxes_per_picture: Difference | None = Field(
        description="In pictures without objects, above the confidence of `boxes`; None where there are none."
    )
    resamples: int = Field(description="Resamples of the pictures, the same for both networks (paired bootstrap).")
    boxes: BoxAgreement


class EvaluationReport(Part):
    """The whole of an evaluation."""

    data: DataDescription
    evaluator: str | None = Field(
        description="Name and version of the COCO evaluator; None where there was no object for it to judge by."
    )
    figures: Figures
    comparison: Comparison | None

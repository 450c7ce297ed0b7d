"""What a recalibration says, as it is written to a file."""

from pydantic import BaseModel, ConfigDict, Field

from service.bundle.manifest import Recalibration
from service.inference.engine import Precision
from service.observatory.diff import BatchNormDiff


class Part(BaseModel):
    """Base of the report's parts."""

    model_config = ConfigDict(frozen=True)


class Engine(Part):
    """What ran a network."""

    runtime: str = Field(description="The runtime and its release.")
    provider: str = Field(description="What executed the graph, as the runtime names it.")
    arithmetic: Precision = Field(description="What the network's convolutions multiplied in.")


class SkippedFile(Part):
    """A file that was left out."""

    file: str
    reason: str


class Data(Part):
    """The pictures."""

    folder: str
    fitted: int = Field(description="Pictures the statistics were estimated on.")
    held_back: int = Field(
        description="Pictures only the boxes were compared on; 0 if they were compared on the fitted."
    )
    repeated: int = Field(description="Files left out because another one holds the same bytes.")
    skipped: list[SkippedFile]


class ClassChanges(Part):
    """Boxes of one class; a box of either network belongs to the other's of its class that overlaps it from IoU 0.5."""

    name: str
    before: int = Field(description="Boxes of the served network above the confidence.")
    after: int = Field(description="Boxes of the recalibrated network above the confidence.")
    kept: int = Field(description="Above the confidence in both.")
    sunk: int = Field(description="Above it in the served network only, and still there below it.")
    gone: int = Field(description="Above it in the served network, and not there at any confidence any more.")
    risen: int = Field(description="Above it in the recalibrated network only, and there before below it.")
    new: int = Field(description="Above it in the recalibrated network, and not there before at any confidence.")
    mean_confidence_change: float | None = Field(
        description="After minus before, over the kept, sunk and risen; None if there are none."
    )


class BoxChanges(Part):
    """How the boxes changed on the same pictures."""

    confidence: float = Field(description="The served model's default; boxes above it in either network are counted.")
    pictures: int
    pictures_changed: int = Field(description="Pictures in which not all such boxes were kept, or others came.")
    total: ClassChanges
    classes: list[ClassChanges]


class RecalibrationReport(Part):
    """The whole of a recalibration."""

    served: str = Field(description="Folder of the bundle that was recalibrated; it is as it was.")
    bundle: str = Field(description="Folder of the recalibrated bundle.")
    data: Data
    recalibration: Recalibration
    batchnorm: BatchNormDiff = Field(description="From the served to the recalibrated bundle.")
    engines: tuple[Engine, Engine] = Field(description="What ran the served and what ran the recalibrated network.")
    boxes: BoxChanges

"""The shape of a batch's answer."""

from pydantic import BaseModel, Field

from service.api.problems import Problem
from service.api.schemas import DetectAnswer, TimingMs

_INDEX = Field(description="Its place in the form, from 0.")
_FILE = Field(description="File name as sent, at most 255 characters of it.", examples=["parcel.jpg"])


class BatchDetection(DetectAnswer):
    """What was found in one picture of a batch: the body that `POST /detect` answers, and which picture it is."""

    index: int = _INDEX
    file: str = _FILE


class BatchProblem(Problem):
    """Why one picture of a batch has no detections; that of the others is not affected."""

    index: int = _INDEX
    file: str = _FILE


class BatchTotals(BaseModel):
    """The batch in figures."""

    images: int = Field(description="Pictures sent.")
    failed: int = Field(description="Of these, pictures with a problem instead of detections.")
    detections: int = Field(description="Objects found in all pictures.")


class BatchTimingMs(TimingMs):
    """Milliseconds of each step, summed over the pictures. They overlap, so `total` can be less than their sum."""

    total: float = Field(description="From the end of the upload to the last picture's end.", examples=[71.3])


class BatchAnswer(BaseModel):
    """What was found in the pictures of one request."""

    results: list[BatchDetection | BatchProblem] = Field(
        description="One for each picture, in the form's order. Only a problem has a `status`."
    )
    totals: BatchTotals = Field(description="Counts over all pictures.")
    timing_ms: BatchTimingMs = Field(description="Where the time went.")

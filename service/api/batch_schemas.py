"""The shape of a batch's answer."""

from typing import Any

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


#: A whole answer: a picture with an object, and a file that is cut off.
EXAMPLE: dict[str, Any] = {
    "results": [
        {
            "index": 0,
            "file": "parcel.jpg",
            "model": {"name": "yolo26n-codes", "version": "4b8c363195ed", "task": "detect"},
            "image": {"width": 1280, "height": 960},
            "detections": [
                {
                    "name": "pdf417",
                    "class": 3,
                    "confidence": 0.95215,
                    "box": {"x1": 485.33, "y1": 318.619, "x2": 942.18, "y2": 466.066},
                }
            ],
            "timing_ms": {"decode": 5.65, "queue": 0.082, "inference": 63.967, "postprocess": 0.184, "total": 70.154},
        },
        {
            "index": 1,
            "file": "half.jpg",
            "type": "urn:yolofold:broken-image",
            "title": "The image is truncated or damaged",
            "status": 422,
            "detail": "The JPEG file ends too early; it looks truncated.",
            "instance": "/detect/batch",
        },
    ],
    "totals": {"images": 2, "failed": 1, "detections": 1},
    "timing_ms": {"decode": 5.65, "queue": 0.082, "inference": 63.967, "postprocess": 0.184, "total": 70.854},
}

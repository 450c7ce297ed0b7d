"""Do two servers say the same about a picture?"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from service.comparison import pairwise_iou

MIN_IOU = 0.95
MAX_CONFIDENCE_DIFFERENCE = 0.02

#: x1, y1, x2, y2 in pixels of the picture.
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Found:
    """One detection."""

    class_id: int
    confidence: float
    xyxy: Box


class WrongAnswer(Exception):
    """The answer cannot be read, or is not the reference's; the text says what is wrong."""


def read_answer(body: bytes) -> list[Found]:
    """Detections of an answer ``{"detections": [{"class", "confidence", "box": {"x1", ...}}, ...]}``.

    Raises:
        WrongAnswer: it has another form.
    """
    try:
        return [
            Found(int(d["class"]), float(d["confidence"]), tuple(float(d["box"][k]) for k in ("x1", "y1", "x2", "y2")))  # type: ignore[arg-type]
            for d in json.loads(body)["detections"]
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise WrongAnswer(f"its answer is not the JSON expected ({error!r}): {body[:200]!r}") from error


def require_same(answer: Sequence[Found], reference: Sequence[Found], threshold: float) -> None:
    """Check that every box of one side has its partner on the other.

    Partners have the same class, an IoU of ``MIN_IOU`` at least and a confidence that differs by no more than
    ``MAX_CONFIDENCE_DIFFERENCE``. A box that is nearer than that to the threshold may lack one: the other side may
    have it just below.

    Raises:
        WrongAnswer: a box has no partner.
    """
    left = list(reference)
    surplus = []
    for found in sorted(answer, key=lambda f: -f.confidence):
        partner = max((r for r in left if _agree(found, r)), key=lambda r: iou(found.xyxy, r.xyxy), default=None)
        if partner is None:
            surplus.append(found)
        else:
            left.remove(partner)
    for whose, boxes in (("it finds", surplus), ("it lacks", left)):
        for box in boxes:
            if box.confidence - threshold > MAX_CONFIDENCE_DIFFERENCE:
                nearest = max((iou(box.xyxy, o.xyxy) for o in (*answer, *reference) if o is not box), default=0.0)
                raise WrongAnswer(
                    f"{whose} class {box.class_id} at {', '.join(f'{side:.0f}' for side in box.xyxy)} with confidence "
                    f"{box.confidence:.3f}, which the other side does not have (nearest box: IoU {nearest:.3f})"
                )


def _agree(a: Found, b: Found) -> bool:
    return (
        a.class_id == b.class_id
        and abs(a.confidence - b.confidence) <= MAX_CONFIDENCE_DIFFERENCE
        and iou(a.xyxy, b.xyxy) >= MIN_IOU
    )


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes, 0 where both are empty."""
    return float(pairwise_iou(np.array([a]), np.array([b]))[0, 0])

"""What the detector found in one picture, as it is answered and counted.

Answers are made on the event loop, so without a pydantic model for each box: 300 of them held it for milliseconds.
"""

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.bundle.manifest import ModelSpec
from service.inference.detections import Detections
from service.inference.detector import DetectionResult


def steps_ms(result: DetectionResult, waited_s: float) -> dict[str, float]:
    """Milliseconds of each stage, of a job that waited so many seconds for a worker."""
    steps = result.timings_ms
    return {
        "decode": steps.decode,
        "queue": waited_s * 1e3 + steps.memory_wait,
        "inference": steps.inference,
        "postprocess": steps.postprocess,
    }


def detect_answer(result: DetectionResult, model: ModelSpec, steps: dict[str, float], began: float) -> dict[str, Any]:
    """Ready to be encoded as ``DetectAnswer``; its total counts from ``began`` on ``time.perf_counter``'s clock."""
    detections = describe_detections(result.detections, model)
    timing = {**steps, "total": (time.perf_counter() - began) * 1e3}
    return {
        "model": {"name": model.name, "version": model.version, "task": model.task},
        "image": {"width": result.width, "height": result.height},
        "detections": detections,
        "timing_ms": {step: round(ms, 3) for step, ms in timing.items()},
    }


def describe_detections(found: Detections, model: ModelSpec) -> list[dict[str, Any]]:
    """Detections as they are answered, each ready to be encoded as ``schemas.Detection``."""
    # Rounded to what the figures mean; float32 noise would triple the answer.
    boxes, confidences = _rounded(found.xyxy, 3), _rounded(found.confidence, 6)
    names = model.classes
    return [
        {
            "name": names[class_id],
            "class": class_id,
            "confidence": confidence,
            "box": {"x1": x1, "y1": y1, "x2": x2, "y2": y2},
        }
        for (x1, y1, x2, y2), confidence, class_id in zip(boxes, confidences, found.class_id.tolist(), strict=True)
    ]


def _rounded(values: NDArray[np.float32], digits: int) -> Any:
    """Nested lists of floats, each the one that ``round`` gives.

    It is the same because float64 holds a float32 times a thousand or a million exactly.
    """
    return np.round(values.astype(np.float64), digits).tolist()

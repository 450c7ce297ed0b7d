"""What the detector found in one picture, as it is answered and counted."""

import time

from service.api.image_request import describe_detections
from service.api.schemas import DetectAnswer, ImageSize, ModelRef, TimingMs
from service.bundle.manifest import ModelSpec
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


def detect_answer(result: DetectionResult, model: ModelSpec, steps: dict[str, float], began: float) -> DetectAnswer:
    """The answer, its total counted from ``began`` on ``time.perf_counter``'s clock."""
    timing = {**steps, "total": (time.perf_counter() - began) * 1e3}
    return DetectAnswer(
        model=ModelRef(name=model.name, version=model.version, task=model.task),
        image=ImageSize(width=result.width, height=result.height),
        detections=describe_detections(result.detections, model),
        timing_ms=TimingMs(**{step: round(ms, 3) for step, ms in timing.items()}),
    )

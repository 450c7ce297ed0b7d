"""Run as a program: the peak memory of one ONNX Runtime arm, printed for ``measure_peak``."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

from service.measurement.peak_memory import report_peak
from service.measurement.runtime_arms import GraphArm, SessionPlan, opencv_tensor, random_images, session_run


def program(arm: GraphArm, imgsz: int, batch: int) -> list[str]:
    """What ``measure_peak`` is to run for an arm."""
    plan = asdict(arm.plan) | {"graph": str(arm.plan.graph.resolve())}
    return [__name__, json.dumps(plan), str(imgsz), str(batch)]


def main(encoded_plan: str, imgsz: str, batch: str) -> None:
    """Load and run the plan that ``program`` encoded."""
    fields = json.loads(encoded_plan)
    plan = SessionPlan(**fields | {"graph": Path(fields["graph"])})
    images = random_images(int(imgsz), int(batch))
    fed = opencv_tensor(images) if plan.feed == "tensor" else images
    report_peak(lambda: session_run(plan, fed))


if __name__ == "__main__":
    main(*sys.argv[1:])

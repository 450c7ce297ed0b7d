"""Run as a program: the peak memory of one OpenVINO arm, printed for ``measure_peak``."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

from service.measurement.openvino_session import OpenVinoPlan, openvino_run
from service.measurement.peak_memory import report_peak
from service.measurement.runtime_arms import random_images


def program(plan: OpenVinoPlan, imgsz: int, batch: int) -> list[str]:
    """What ``measure_peak`` is to run for an arm."""
    return [__name__, json.dumps(asdict(plan) | {"graph": str(plan.graph.resolve())}), str(imgsz), str(batch)]


def main(encoded_plan: str, imgsz: str, batch: str) -> None:
    """Load and run the plan that ``program`` encoded."""
    fields = json.loads(encoded_plan)
    plan, images = OpenVinoPlan(**fields | {"graph": Path(fields["graph"])}), random_images(int(imgsz), int(batch))
    report_peak(lambda: openvino_run(plan, images))


if __name__ == "__main__":
    main(*sys.argv[1:])

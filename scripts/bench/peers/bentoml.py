"""BentoML on ONNX Runtime.

A service of one worker process per core (workers), each with one session of one thread; the picture comes as a file
(pathlib.Path) that OpenCV decodes; access log and usage reports off.
"""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import bentoml
from bentoml.validators import ContentType

from scripts.bench.peers.onnx_detector import OnnxDetector
from scripts.bench.peers.task import HOST, read_task

task = read_task()


@bentoml.service(workers=task.cores, logging={"access": {"enabled": False}})
class Detection:
    """JPEG in a form field, boxes out."""

    def __init__(self) -> None:
        self.detector = OnnxDetector(task)

    @bentoml.api(route="/detect")
    def detect(self, file: Annotated[Path, ContentType("image/jpeg")]) -> dict[str, Any]:
        """Boxes in the picture."""
        return {"detections": self.detector.detect(file.read_bytes())}


if __name__ == "__main__":
    program = str(Path(sys.executable).with_name("bentoml"))
    target = "scripts.bench.peers.bentoml:Detection"
    # Its own command line replaces this process.
    os.environ["BENTOML_DO_NOT_TRACK"] = "True"
    os.execv(program, [program, "serve", target, "--host", HOST, "--port", str(task.port)])

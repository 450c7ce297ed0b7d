"""MLServer on ONNX Runtime.

A custom runtime (MLModel) with a custom handler, in the pool of parallel inference: one worker process per core
(parallel_workers), each with one session of one thread, behind the one process that speaks HTTP; debug off, and with it
the access log; uvloop before 0.22, as its workers ask for an event loop that later ones do not make.
"""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

from fastapi import File
from mlserver import MLModel
from mlserver.handlers import custom_handler

from scripts.bench.peers.onnx_detector import OnnxDetector
from scripts.bench.peers.task import HOST, read_task


class Detection(MLModel):
    """JPEG in a form field, boxes out."""

    async def load(self) -> bool:
        """Load the graph in a worker."""
        self.detector = OnnxDetector(read_task())
        return True

    @custom_handler(rest_path="/detect")
    async def detect(self, file: Annotated[bytes, File()]) -> dict[str, Any]:
        """Boxes in the picture. The bytes, and not the upload, since they have to get to a worker's process."""
        return {"detections": self.detector.detect(file)}


if __name__ == "__main__":
    task = read_task()
    # What would stand in settings.json and model-settings.json.
    os.environ |= {
        "MLSERVER_DEBUG": "false",
        "MLSERVER_HOST": HOST,
        "MLSERVER_HTTP_PORT": str(task.port),
        "MLSERVER_GRPC_PORT": "0",  # any free one
        "MLSERVER_METRICS_PORT": "0",
        "MLSERVER_PARALLEL_WORKERS": str(task.cores),
        "MLSERVER_MODEL_NAME": "detection",
        "MLSERVER_MODEL_IMPLEMENTATION": "scripts.bench.peers.mlserver.Detection",
    }
    program = str(Path(sys.executable).with_name("mlserver"))
    # Its own command line replaces this process.
    os.execv(program, [program, "start", os.environ["MLSERVER_MODEL_REPOSITORY_ROOT"]])

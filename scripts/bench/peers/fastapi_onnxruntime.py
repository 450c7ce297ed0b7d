"""FastAPI + ONNX Runtime.

A good home-made app: one uvicorn worker per core, each with one session of one thread; a plain (not async) endpoint,
which FastAPI runs in its thread pool; access log off.
"""

from typing import Any

import uvicorn
from fastapi import FastAPI, UploadFile

from scripts.bench.peers.onnx_detector import OnnxDetector
from scripts.bench.peers.task import HOST, read_task

app = FastAPI()
task = read_task()


if __name__ != "__main__":  # the workers, not the process that starts them
    detector = OnnxDetector(task)


@app.post("/detect")
def detect(file: UploadFile) -> dict[str, Any]:
    """Boxes in the picture."""
    return {"detections": detector.detect(file.file.read())}


if __name__ == "__main__":
    uvicorn.run(
        "scripts.bench.peers.fastapi_onnxruntime:app",
        host=HOST,
        port=task.port,
        workers=task.cores,
        access_log=False,
        log_level="warning",
    )

"""FastAPI + ONNX Runtime.

A good home-made app: one uvicorn worker per core, each with one session of one thread; a plain (not async) endpoint,
which FastAPI runs in its thread pool; one picture at a time in a worker, as the pool's 40 threads would only get in
each other's way on the one core; access log off.
"""

from threading import Lock
from typing import Any

import uvicorn
from fastapi import FastAPI, UploadFile

from scripts.bench.peers.onnx_detector import OnnxDetector
from scripts.bench.peers.task import HOST, read_task

app = FastAPI()
task = read_task()
lock = Lock()


if __name__ != "__main__":  # the workers, not the process that starts them
    detector = OnnxDetector(task)


@app.post("/detect")
def detect(file: UploadFile) -> dict[str, Any]:
    """Boxes in the picture."""
    jpeg = file.file.read()
    with lock:
        return {"detections": detector.detect(jpeg)}


if __name__ == "__main__":
    uvicorn.run(
        "scripts.bench.peers.fastapi_onnxruntime:app",
        host=HOST,
        port=task.port,
        workers=task.cores,
        access_log=False,
        log_level="warning",
    )

"""Ultralytics predict behind FastAPI.

The same checkpoint in PyTorch, which is what most people write: one uvicorn worker per core, each with its own model
and one torch thread; one prediction at a time in a worker, as Ultralytics' guide to thread-safe inference demands;
predict's arguments are those that select the same head and letterbox.
"""

from threading import Lock
from typing import Any

import uvicorn
from fastapi import FastAPI, UploadFile

from scripts.bench.peers.task import HOST, read_task

app = FastAPI()
task = read_task()
lock = Lock()


if __name__ != "__main__":  # the workers, not the process that starts them
    import cv2
    import numpy as np
    import torch
    from ultralytics import YOLO  # type: ignore[attr-defined]

    torch.set_num_threads(1)
    model = YOLO(task.weights)
    model.predict(np.zeros((64, 64, 3), np.uint8), verbose=False, device="cpu", conf=task.confidence, **task.predict)


@app.post("/detect")
def detect(file: UploadFile) -> dict[str, Any]:
    """Boxes in the picture."""
    picture = cv2.imdecode(np.frombuffer(file.file.read(), np.uint8), cv2.IMREAD_COLOR)
    with lock:
        results: Any = model.predict(picture, verbose=False, device="cpu", conf=task.confidence, **task.predict)
    return {"detections": results[0].summary()}


if __name__ == "__main__":
    uvicorn.run(
        "scripts.bench.peers.ultralytics:app",
        host=HOST,
        port=task.port,
        workers=task.cores,
        timeout_worker_healthcheck=60,  # by default a worker that imports torch for longer than 5 s is ended
        access_log=False,
        log_level="warning",
    )

"""Ultralytics predict on ONNX Runtime behind FastAPI.

The checkpoint as Ultralytics itself exports it (YOLO(checkpoint).export(format="onnx"), once, before its start is
timed) and loads it (YOLO("model.onnx")). One uvicorn worker, since Ultralytics leaves the number of threads to ONNX
Runtime, which takes all cores; one prediction at a time, as its guide to thread-safe inference demands; access log off.
"""

import os
import shutil
from pathlib import Path
from threading import Lock
from typing import Any

import uvicorn
from fastapi import FastAPI, UploadFile

from scripts.bench.peers.task import HOST, Task, read_task

app = FastAPI()
lock = Lock()


def export(task: Task, folder: Path) -> Path:
    """The graph that Ultralytics makes of the checkpoint; made only where it is not there yet."""
    graph = folder / "ultralytics.onnx"
    if not graph.exists():
        from ultralytics import YOLO  # type: ignore[attr-defined]

        checkpoint = folder / "export" / "ultralytics.pt"  # what is made comes to lie beside it
        checkpoint.parent.mkdir(exist_ok=True)
        shutil.copy(task.weights, checkpoint)
        head = {"nms": task.predict.get("nms")}  # the same as predict would select
        made = YOLO(checkpoint).export(format="onnx", imgsz=task.predict["imgsz"], device="cpu", **head)
        Path(made).rename(graph)  # whole, or not at all
    return graph


@app.post("/detect")
def detect(file: UploadFile) -> dict[str, Any]:
    """Boxes in the picture."""
    picture = cv2.imdecode(np.frombuffer(file.file.read(), np.uint8), cv2.IMREAD_COLOR)
    with lock:
        results: Any = model.predict(picture, verbose=False, device="cpu", conf=task.confidence, **task.predict)
    return {"detections": results[0].summary()}


if __name__ == "__main__":
    task = read_task()
    graph = export(task, Path(os.environ["YOLO_CONFIG_DIR"]))

    import cv2
    import numpy as np
    from ultralytics import YOLO  # type: ignore[attr-defined]

    model = YOLO(graph, task="detect")
    model.predict(np.zeros((64, 64, 3), np.uint8), verbose=False, device="cpu", conf=task.confidence, **task.predict)
    uvicorn.run(app, host=HOST, port=task.port, access_log=False, log_level="warning")

"""Roboflow Inference behind FastAPI.

get_model of the inference-cpu package on a local model package (its own server comes as a Docker image and has no such
route): the same graph less its first nodes, which turn bytes into the float planes that Inference makes itself. One
uvicorn worker, since the package leaves the number of threads to ONNX Runtime, which takes all cores; a plain (not
async) endpoint; one inference at a time, since one takes all cores, while other pictures are decoded; no cloud, no
telemetry; access log off.
"""

import json
import os
from pathlib import Path
from threading import Lock
from typing import Any

import uvicorn
from fastapi import FastAPI, UploadFile

from scripts.bench.peers.task import HOST, Task, read_task


def write_package(task: Task, folder: Path) -> None:
    """Lay the graph out as a model package of inference-models."""
    import onnx
    import onnx.utils

    graph = onnx.load(task.graph).graph
    size = graph.input[0].type.tensor_type.shape.dim[1].dim_value
    # Bytes become (N, 3, S, S) RGB from 0 to 1 by the first division, which Inference has done already.
    planes = next(node.output[0] for node in graph.node if node.op_type == "Div")
    folder.mkdir(parents=True, exist_ok=True)
    onnx.utils.extract_model(task.graph, str(folder / "weights.onnx"), [planes], [graph.output[0].name])
    (folder / "class_names.txt").write_text("\n".join(task.classes))
    config = {"model_architecture": "yolo26", "task_type": "object-detection", "backend_type": "onnx"}
    (folder / "model_config.json").write_text(json.dumps(config))
    letterbox = {
        "training_input_size": {"height": size, "width": size},
        "dynamic_spatial_size_supported": False,
        "color_mode": "rgb",
        "resize_mode": "letterbox",
        "padding_value": 114,
        "input_channels": 3,
        "scaling_factor": 255,
    }
    inference = {"network_input": letterbox, "forward_pass": {"max_dynamic_batch_size": 1}}
    (folder / "inference_config.json").write_text(json.dumps(inference))


app = FastAPI()
lock = Lock()


@app.post("/detect")
def detect(file: UploadFile) -> dict[str, Any]:
    """Boxes in the picture."""
    picture = cv2.imdecode(np.frombuffer(file.file.read(), np.uint8), cv2.IMREAD_COLOR)
    with lock:
        found = model.infer(picture, confidence=task.confidence)[0].predictions
    return {
        "detections": [
            {
                "name": box.class_name,
                "class": box.class_id,
                "confidence": box.confidence,
                "box": {
                    "x1": box.x - box.width / 2,
                    "y1": box.y - box.height / 2,
                    "x2": box.x + box.width / 2,
                    "y2": box.y + box.height / 2,
                },
            }
            for box in found
        ]
    }


if __name__ == "__main__":
    task = read_task()
    package = Path(os.environ["MODEL_CACHE_DIR"]) / "package"
    write_package(task, package)
    os.environ["ALLOW_INFERENCE_MODELS_DIRECTLY_ACCESS_LOCAL_PACKAGES"] = "True"

    import cv2
    import numpy as np
    from inference import get_model

    model = get_model(str(package))
    model.infer(np.zeros((64, 64, 3), np.uint8), confidence=task.confidence)
    uvicorn.run(app, host=HOST, port=task.port, access_log=False, log_level="warning")

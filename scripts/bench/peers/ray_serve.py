"""Ray Serve on ONNX Runtime.

A FastAPI ingress with one replica per core (num_replicas), each of one Ray core and with one session of one thread; a
plain (not async) endpoint, which runs in the replica's thread pool; Serve's own HTTP proxy, since HAProxy in its place
listens on all interfaces; Ray started by the program itself, with the smallest object store, no dashboard, no usage
reports; access log off.
"""

import os
import secrets
from typing import Any

import ray
from fastapi import FastAPI, UploadFile
from ray import serve
from ray.serve.config import HTTPOptions
from ray.serve.schema import LoggingConfig

from scripts.bench.peers.onnx_detector import OnnxDetector
from scripts.bench.peers.task import HOST, read_task

#: Ray refuses a smaller one. Pictures and boxes of this size never enter it.
OBJECT_STORE_BYTES = 80_000_000

app = FastAPI()


@serve.ingress(app)
class Detection:
    """JPEG in a form field, boxes out."""

    def __init__(self) -> None:
        self.detector = OnnxDetector(read_task())

    @app.post("/detect")
    def detect(self, file: UploadFile) -> dict[str, Any]:
        """Boxes in the picture."""
        return {"detections": self.detector.detect(file.file.read())}


if __name__ == "__main__":
    task = read_task()
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)  # without, Ray keeps one in the user's home
    ray.init(num_cpus=task.cores, object_store_memory=OBJECT_STORE_BYTES, include_dashboard=False)
    serve.start(http_options=HTTPOptions(host=HOST, port=task.port))
    deployment = serve.deployment(num_replicas=task.cores, ray_actor_options={"num_cpus": 1})(Detection)
    serve.run(deployment.bind(), logging_config=LoggingConfig(enable_access_log=False), blocking=True)

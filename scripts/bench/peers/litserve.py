"""LitServe on ONNX Runtime.

LitAPI with setup, decode_request, predict and encode_response; one worker process per core (workers_per_device), each
with one session of one thread; as many API servers, LitServe's default; no batching, which gains nothing on a processor
that one image fills.
"""

from typing import Any

import litserve as ls
from fastapi import Request

from scripts.bench.peers.onnx_detector import OnnxDetector
from scripts.bench.peers.task import HOST, read_task


class Detection(ls.LitAPI):
    """JPEG in a form field, boxes out."""

    def setup(self, device: str) -> None:
        """Load the graph in a worker."""
        self.detector = OnnxDetector(read_task())

    def decode_request(self, request: Request) -> bytes:
        """The bytes of the form field."""
        return request["file"].file.read()  # type: ignore[no-any-return]

    def predict(self, jpeg: bytes) -> list[dict[str, Any]]:
        """Boxes in the picture."""
        return self.detector.detect(jpeg)

    def encode_response(self, detections: list[dict[str, Any]]) -> dict[str, Any]:
        """The answer's JSON."""
        return {"detections": detections}


if __name__ == "__main__":
    task = read_task()
    server = ls.LitServer(Detection(api_path="/detect"), accelerator="cpu", workers_per_device=task.cores)
    server.run(host=HOST, port=task.port, log_level="warning", generate_client_file=False)

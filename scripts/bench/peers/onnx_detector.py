"""The detector that the peers on ONNX Runtime share: JPEG to boxes, written with OpenCV and numpy as one would."""

from typing import Any

import cv2
import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from scripts.bench.peers.task import Task


class OnnxDetector:
    """One session of one thread; several processes of it give the most images per second."""

    def __init__(self, task: Task) -> None:
        """Load the graph and run it once."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self._session = ort.InferenceSession(task.graph, options, providers=["CPUExecutionProvider"])
        self._task = task
        self._size: int = self._session.get_inputs()[0].shape[1]
        self._session.run(None, {"images": np.zeros((1, self._size, self._size, 3), np.uint8)})

    def detect(self, jpeg: bytes) -> list[dict[str, Any]]:
        """Boxes in pixels of the picture, the most confident first."""
        picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
        if picture is None:
            raise ValueError("not a picture")
        return self.detect_pixels(picture)

    def detect_pixels(self, picture: NDArray[Any]) -> list[dict[str, Any]]:
        """As ``detect``, for (H, W, 3) uint8 BGR."""
        height, width = picture.shape[:2]
        scale = min(self._size / height, self._size / width)
        new_width, new_height = round(width * scale), round(height * scale)
        resized = cv2.resize(picture, (new_width, new_height), interpolation=cv2.INTER_LINEAR)
        left, top = (round((self._size - side) / 2 - 0.1) for side in (new_width, new_height))
        right, bottom = self._size - new_width - left, self._size - new_height - top
        square = cv2.copyMakeBorder(resized, top, bottom, left, right, cv2.BORDER_CONSTANT, value=(114, 114, 114))

        rows = self._session.run(None, {"images": square[None]})[0][0]
        rows = rows[rows[:, 4] > self._task.confidence]
        rows = rows[np.argsort(-rows[:, 4])]
        gain = np.array([new_width / width, new_height / height] * 2)
        boxes = (rows[:, :4] - [left, top, left, top]) / gain
        boxes = np.clip(boxes, 0, [width, height, width, height])
        return [self._describe(box, row) for box, row in zip(boxes.tolist(), rows.tolist(), strict=True)]

    def _describe(self, box: list[float], row: list[float]) -> dict[str, Any]:
        x1, y1, x2, y2 = box
        return {
            "name": self._task.classes[int(row[5])],
            "class": int(row[5]),
            "confidence": row[4],
            "box": {"x1": x1, "y1": y1, "x2": x2, "y2": y2},
        }

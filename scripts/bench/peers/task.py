"""What every peer is told: the model, the threshold, the cores and the port. Standard library only."""

import json
import os
from dataclasses import dataclass
from typing import Any

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Task:
    """What to serve and with how much.

    Attributes:
        port: of the loopback interface.
        cores: what the process may use; the harness has pinned it to as many.
        graph: ONNX file, (N, S, S, 3) uint8 BGR in, (N, 300, 6) float32 rows x1, y1, x2, y2, confidence, class out.
        weights: the .pt file that the graph was made from.
        classes: names by class id.
        confidence: boxes must exceed it.
        predict: arguments with which Ultralytics' predict equals the graph.
    """

    port: int
    cores: int
    graph: str
    weights: str
    classes: list[str]
    confidence: float
    predict: dict[str, Any]

    def environ(self) -> dict[str, str]:
        """The variables that ``read_task`` reads in another process."""
        return {f"BENCH_{name.upper()}": json.dumps(value) for name, value in vars(self).items()}


def read_task() -> Task:
    """The task that the harness put into this process's environment."""
    return Task(**{name: json.loads(os.environ[f"BENCH_{name.upper()}"]) for name in Task.__dataclass_fields__})

"""An engine whose answers are wrong on purpose."""

from collections.abc import Callable

import numpy as np

from service.bundle.store import Bundle
from service.inference.engine import Precision
from service.inference.onnxruntime_engine import OnnxRuntimeEngine


class AlteredEngine:
    """The real engine, with its answers changed as a broken build might."""

    provider, runtime, threads = "CPUExecutionProvider", "ONNX Runtime, altered", 1

    def __init__(self, bundle: Bundle, change: Callable[[np.ndarray], np.ndarray], precision: Precision) -> None:
        self._engine, self._change = OnnxRuntimeEngine(bundle.deployed_graph, "cpu", 1), change
        self.precision = precision

    runs_apart = False

    @property
    def layouts(self) -> tuple["AlteredEngine"]:
        return (self,)

    def run(self, images: np.ndarray) -> np.ndarray:
        return self._change(self._engine.run(images).copy())

    def release_memory(self) -> None:
        self._engine.release_memory()

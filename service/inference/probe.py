"""Runs the probe graph: statistics of a few layers' outputs for one picture."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from service.bundle.probe import OUTPUTS, PICTURE
from service.errors import EngineError


@dataclass(frozen=True)
class ProbeReading:
    """What the probe says about one picture, all float64.

    Attributes:
        mean, variance: (channels,) of each probed layer's output over its positions, layers one after the other as
            in ``probe.json``.
        figures: (12,) of the picture itself, in the order of ``bundle.probe.FIGURES``.
    """

    mean: NDArray[np.float64]
    variance: NDArray[np.float64]
    figures: NDArray[np.float64]


class Probe:
    """``probe.onnx`` in ONNX Runtime, on the processor. Safe to use from several threads."""

    def __init__(self, path: Path, threads: int) -> None:
        """Load the graph.

        Args:
            path: ``probe.onnx`` of a verified bundle.
            threads: intra-op threads, at least 1.

        Raises:
            EngineError: it cannot be loaded or is of another kind.
        """
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions share no public base class
            raise EngineError(f"ONNX Runtime cannot load {path}: {error}") from error
        found = [(t.name, t.type, len(t.shape)) for t in (*self._session.get_inputs(), *self._session.get_outputs())]
        if found != [(PICTURE, "tensor(float)", 4), *((name, "tensor(float)", 1) for name in OUTPUTS)]:
            raise EngineError(f"{path} maps {found}, which is not what a probe takes and gives.")

    def measure(self, picture: NDArray[np.float32]) -> ProbeReading:
        """Statistics of one picture.

        Args:
            picture: (1, 3, H, W) float32, RGB in 0..1, H and W multiples of 32; see ``preprocessing.content``.

        Raises:
            EngineError: the runtime failed.
        """
        try:
            found = self._session.run(list(OUTPUTS), {PICTURE: picture})
        except Exception as error:
            raise EngineError(f"ONNX Runtime failed: {error}") from error
        return ProbeReading(*(values.astype(np.float64) for values in found))

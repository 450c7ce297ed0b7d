"""Runs the probe graph: what the network's first layers make of one picture."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from service.bundle.probe import PROBE_FIGURES, PROBE_INPUT, PROBE_MEANS, PROBE_STRIDE, PROBE_VARIANCES
from service.errors import EngineError

_OUTPUTS = [PROBE_MEANS, PROBE_VARIANCES, PROBE_FIGURES]


@dataclass(frozen=True)
class Reading:
    """Moments over positions of every probed channel, one layer after the other: each (C,) float64."""

    means: NDArray[np.float64]
    variances: NDArray[np.float64]
    figures: NDArray[np.float64]
    """(12,), of the picture itself, in the order of ``bundle.probe.FIGURES``."""


class Probe:
    """``probe.onnx`` in ONNX Runtime on the processor, with one thread. Safe to use from several threads."""

    def __init__(self, graph: Path) -> None:
        """Load the graph.

        Raises:
            EngineError: it cannot be loaded or is no probe.
        """
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        # Pictures come in many sizes; an arena would keep memory for the largest of each.
        options.enable_cpu_mem_arena = False
        # One level higher convolutions work in a layout of blocks of channels: their results are kept twice, and the
        # picture's three planes become sixteen. At 640 px that takes twice the memory, 35 MB, and no less time.
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.log_severity_level = 3
        try:
            self._session = ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions share no public base class
            raise EngineError(f"{graph} cannot be loaded: {error}") from error
        given = [value.name for value in (*self._session.get_inputs(), *self._session.get_outputs())]
        if given != [PROBE_INPUT, *_OUTPUTS]:
            raise EngineError(f"{graph} takes and gives {given}, not {[PROBE_INPUT, *_OUTPUTS]}. Prepare it again.")

    def measure(self, tensor: NDArray[np.float32]) -> Reading:
        """Measure one tensor (3, H, W) that the network would get.

        The sides are cropped about the middle to multiples of 32.

        Raises:
            EngineError: the runtime failed, or a side is below 32.
        """
        height, width = (side // PROBE_STRIDE * PROBE_STRIDE for side in tensor.shape[1:])
        top, left = (tensor.shape[1] - height) // 2, (tensor.shape[2] - width) // 2
        cropped = np.ascontiguousarray(tensor[None, :, top : top + height, left : left + width])
        try:
            found = self._session.run(_OUTPUTS, {PROBE_INPUT: cropped})
        except Exception as error:
            raise EngineError(f"The probe failed: {error}") from error
        return Reading(*(values[0].astype(np.float64) for values in found))

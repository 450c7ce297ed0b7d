"""Runs of an ONNX Runtime session whose input is kept on the session's device from one run to the next.

A plain run takes memory for its input there each time. Here pictures are copied straight to where the graph reads them,
which is the one copy that there has to be, and every run of a shape finds them at the same address.
"""

import threading
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from service.inference.engine import INPUT, OUTPUT

#: Shapes that inputs are kept for: more than there are sizes of batches. A network that takes pictures of many sizes
#: would fill the device.
MOST_SHAPES = 8


@dataclass(frozen=True)
class _Slot:
    """An input on the device and what binds it to the session; for one run at a time."""

    pixels: ort.OrtValue
    binding: ort.IOBinding


class BoundRuns:
    """Takes the place of ``session.run``; safe to call from several threads."""

    def __init__(self, session: ort.InferenceSession, device: Literal["cpu", "cuda"]) -> None:
        """Run ``session``, which reads its input on ``device``."""
        self._session, self._device = session, device
        self._lock = threading.Lock()
        #: Of each shape, the last one run at the end, those that no run uses: as many as there were runs at once.
        self._free: dict[tuple[int, ...], list[_Slot]] = {}

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Rows (B, N, 6) for pictures (B, H, W, 3); they belong to the caller. Raises what ONNX Runtime raises."""
        with self._lock:
            free = self._free[images.shape] = self._free.pop(images.shape, [])
            slot = free.pop() if free else None
            if len(self._free) > MOST_SHAPES:  # its runs that are still under way keep theirs until they end
                del self._free[next(iter(self._free))]
        slot = slot or self._bind(images.shape)
        slot.pixels.update_inplace(np.ascontiguousarray(images))  # returns once they are there
        # Else the last run's rows were taken for memory to write to, and how many there are may depend on the pictures.
        slot.binding.clear_binding_outputs()
        slot.binding.bind_output(OUTPUT, "cpu")
        self._session.run_with_iobinding(slot.binding)
        # Rows are a few KB in the runtime's memory.
        rows = np.array(slot.binding.copy_outputs_to_cpu()[0])
        with self._lock:  # not after an error: whatever state the run left it in, it is not used again
            free.append(slot)
        return rows

    def forget(self) -> None:
        """Give back the inputs that no run uses."""
        with self._lock:
            self._free.clear()

    def _bind(self, shape: tuple[int, ...]) -> _Slot:
        binding = self._session.io_binding()
        pixels = ort.OrtValue.ortvalue_from_shape_and_type(shape, np.uint8, self._device)
        binding.bind_ortvalue_input(INPUT, pixels)
        return _Slot(pixels, binding)

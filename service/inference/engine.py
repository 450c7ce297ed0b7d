"""What the detector asks of whatever runs the network. Each runtime has a module of its own."""

from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from service.bundle.int8 import Int8Precision
from service.errors import EngineError

INPUT, OUTPUT = "images", "detections"
COLUMNS = 6  # x1, y1, x2, y2, confidence, class id

Device = Literal["auto", "cpu", "cuda"]
#: Significant bits of what is multiplied: 24, 11, 11 and 8. Sums are kept in float32. In fp16 layers also hand on what
#: has no more bits, and none above 65504. Of int8 see ``Int8Precision``.
Precision = Literal["fp32", "tf32", "fp16", "bf16", Int8Precision]
#: What float32 is multiplied in without being asked: finer than what folding changes.
FLOAT32: frozenset[Precision] = frozenset({"fp32", "tf32"})


class InferenceEngine(Protocol):
    """Anything that turns letterboxed pictures into rows of detections; safe to call from several threads."""

    @property
    def provider(self) -> str:
        """What executes the graph, as its runtime names it."""
        ...

    @property
    def runtime(self) -> str:
        """The runtime and its release."""
        ...

    @property
    def precision(self) -> Precision:
        """What the network's convolutions multiply in; the rows are float32 in any case."""
        ...

    @property
    def threads(self) -> int:
        """Threads one run may use on the processor while it is alone."""
        ...

    @property
    def runs_apart(self) -> bool:
        """Whether the caller's thread only waits, while threads of the runtime's own or another device work."""
        ...

    @property
    def layouts(self) -> "Sequence[InferenceEngine]":
        """Those that take turns, each to be checked by itself: first the one for a run that is alone, last the one
        for as many as fill the cores; only this engine where there is no difference."""
        ...

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Detect in a batch.

        Args:
            images: (B, H, W, 3) uint8, BGR, letterboxed to the graph's input.

        Returns:
            (B, 300, 6) float32: x1, y1, x2, y2 in pixels of the input, confidence, class id. It belongs to the caller.

        Raises:
            EngineError: the runtime failed.
        """
        ...

    def release_memory(self) -> None:
        """Give back what is only kept for the next run, which takes it anew; for when memory is wanted elsewhere.

        What a run is using meanwhile stays.
        """
        ...


def precision_setting(precision: Precision) -> Literal["fp32", "fp16", "bf16", "int8"] | None:
    """The ``YOLOFOLD_PRECISION`` that asks for it; None for TF32, which comes without one."""
    if precision == "int8+bf16" or precision == "int8+fp32":
        return "int8"
    return None if precision == "tf32" else precision


def require_rows(rows: NDArray[np.float32], batch: int) -> None:
    """Check what a graph answered to ``batch`` pictures.

    Raises:
        EngineError: it is not float32 (batch, N, 6).
    """
    if rows.dtype != np.float32 or rows.ndim != 3 or rows.shape[::2] != (batch, COLUMNS):
        raise EngineError(f"The graph answered {rows.dtype} {rows.shape}, not float32 (B, N, {COLUMNS}).")

"""How OpenVINO is told to load a graph, where it serves and where it is timed. The package is optional."""

from typing import Literal

import openvino as ov

DEVICE = "CPU"
#: What it raises: it has no narrower class, and leaves a failed allocation as it is.
OPENVINO_FAULTS = (RuntimeError, MemoryError)
_ELEMENT_TYPES = {"fp32": ov.Type.f32, "bf16": ov.Type.bf16}


def openvino_properties(precision: Literal["fp32", "bf16"], threads: int, streams: int) -> dict[str, object]:
    """What makes it compute in ``precision``, with ``threads`` for each of ``streams`` runs at once.

    fp32 keeps it from choosing bf16 by itself, which it does wherever there is bf16.
    """
    return {
        "INFERENCE_PRECISION_HINT": _ELEMENT_TYPES[precision],
        "EXECUTION_MODE_HINT": "ACCURACY" if precision == "fp32" else "PERFORMANCE",
        "INFERENCE_NUM_THREADS": threads * streams,
        "NUM_STREAMS": streams,
        # Other processes and the threads that decode pictures want these cores as well.
        "ENABLE_CPU_PINNING": False,
    }


def openvino_reason(error: Exception) -> str:
    """OpenVINO's reason without the source lines it passed through."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = [line for line in lines if line and not line.startswith("Exception from ")]
    return " ".join(said) or str(error)

"""The deployed graph in OpenVINO, on the processor. Imported only when chosen: the package is optional."""

from pathlib import Path
from typing import Literal

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from service.errors import EngineError
from service.inference.engine import INPUT, OUTPUT, Precision, require_rows

_DEVICE = "CPU"
_ELEMENT_TYPES = {"fp32": ov.Type.f32, "bf16": ov.Type.bf16}


class OpenVinoEngine:
    """The deployed graph in OpenVINO."""

    def __init__(self, model_path: Path, precision: Literal["fp32", "bf16"], threads: int, streams: int) -> None:
        """Load the graph and check that it takes and gives what the contract says.

        Args:
            model_path: ``model.onnx`` of a verified bundle.
            precision: fp32 keeps OpenVINO from choosing bf16 by itself, which it does wherever there is bf16.
            threads: threads of one run, at least 1.
            streams: runs at once, at least 1; further ones wait. OpenVINO never takes more threads in all than there
                are cores, so more streams may leave each fewer threads: see ``threads`` for what one really has.

        Raises:
            EngineError: the processor has no bf16, or the graph cannot be loaded or is of another kind.
        """
        core = ov.Core()
        require_bf16(core.get_property(_DEVICE, "OPTIMIZATION_CAPABILITIES"), precision)
        self._precision: Precision = precision
        try:
            self._compiled = core.compile_model(
                str(model_path), _DEVICE, _properties(precision, threads * streams, streams)
            )
        except Exception as error:  # RuntimeError, of no narrower class
            raise EngineError(f"OpenVINO cannot load {model_path}: {_first_line(error)}") from error
        taken = self._compiled.get_property("INFERENCE_PRECISION_HINT")
        if taken != _ELEMENT_TYPES[precision]:
            raise EngineError(f"OpenVINO was told to compute in {precision} and took {taken.get_type_name()}.")
        _check_signature(self._compiled, model_path)
        # A request may be used by one thread at a time, so each run takes one and puts it back. List operations are
        # atomic; there are never more requests than there were runs at once.
        self._idle: list[ov.InferRequest] = []

    @property
    def provider(self) -> str:
        """OpenVINO's name of the device."""
        return _DEVICE

    @property
    def runtime(self) -> str:
        """OpenVINO and its release."""
        return f"OpenVINO {ov.get_version().split('-')[0]}"

    @property
    def precision(self) -> Precision:
        """What OpenVINO was told to compute in, and confirmed."""
        return self._precision

    @property
    def threads(self) -> int:
        """Threads of one run, as OpenVINO set them up."""
        in_all: int = self._compiled.get_property("INFERENCE_NUM_THREADS")
        return max(1, in_all // self.streams)

    @property
    def streams(self) -> int:
        """Runs that are worked on at once, as OpenVINO set them up."""
        return int(self._compiled.get_property("NUM_STREAMS"))

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See ``InferenceEngine.run``."""
        if images.dtype != np.uint8:  # OpenVINO would convert it
            raise EngineError(f"The network takes uint8 pictures, not {images.dtype}.")
        try:
            request = self._idle.pop()
        except IndexError:
            request = self._compiled.create_infer_request()
        try:
            # Not `infer`: started so, it runs on one of the streams' own threads and never on more of them.
            request.start_async({INPUT: images})
            request.wait()
            rows: NDArray[np.float32] = request.get_tensor(OUTPUT).data.copy()  # the next run overwrites the original
        except Exception as error:
            raise EngineError(f"OpenVINO failed: {_first_line(error)}") from error  # and the request is dropped
        self._idle.append(request)
        require_rows(rows, len(images))
        return rows


def require_bf16(capabilities: list[str], precision: Literal["fp32", "bf16"]) -> None:
    """Check that a processor can compute in ``precision``.

    Args:
        capabilities: what OpenVINO says that the processor can do.

    Raises:
        EngineError: bf16 is asked for, and the processor has no instructions for it.
    """
    if precision == "bf16" and "BF16" not in capabilities:
        raise EngineError(
            "YOLOFOLD_PRECISION=bf16, but this processor has no instructions for bf16 (AVX512_BF16, AMX-BF16 or their "
            "like). Set YOLOFOLD_PRECISION=fp32."
        )


def _properties(precision: str, threads: int, streams: int) -> dict[str, object]:
    return {
        "INFERENCE_PRECISION_HINT": _ELEMENT_TYPES[precision],
        "EXECUTION_MODE_HINT": "ACCURACY" if precision == "fp32" else "PERFORMANCE",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": streams,
        # Other processes and the threads that decode pictures want these cores as well.
        "ENABLE_CPU_PINNING": False,
    }


def _check_signature(compiled: ov.CompiledModel, model_path: Path) -> None:
    ports = (*compiled.inputs, *compiled.outputs)
    found = [(sorted(p.get_names()), p.get_element_type().get_type_name(), len(p.get_partial_shape())) for p in ports]
    if found != [([INPUT], "u8", 4), ([OUTPUT], "f32", 3)]:
        raise EngineError(f"{model_path} maps {found}, not u8 {INPUT!r} (B, H, W, 3) to f32 {OUTPUT!r} (B, N, 6).")
    shape = compiled.inputs[0].get_partial_shape()
    if str(shape[3]) != "3":
        raise EngineError(f"{model_path} takes {shape}, not (B, H, W, 3).")


def _first_line(error: Exception) -> str:
    """OpenVINO's reason without the source lines it passed through."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = [line for line in lines if line and not line.startswith("Exception from ")]
    return said[-1] if said else str(error)

"""The deployed graph in TensorRT, which is an execution provider of ONNX Runtime."""

import ctypes
import importlib
from collections.abc import Sequence
from ctypes.util import find_library
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from service.errors import EngineError, fault_in_words
from service.inference.bound_runs import BoundRuns
from service.inference.engine import InferenceEngine, Precision, require_rows
from service.inference.engine_cache import cache_folder, open_cached
from service.inference.onnxruntime_engine import (
    CUDA,
    PROCESSOR,
    Providers,
    check_signature,
    open_session,
    provider_options,
    session_options,
)
from service.machine import first_cuda_device, gpu_driver

TENSORRT = "TensorrtExecutionProvider"
#: Of the graph's input; so ``service.prepare.export`` names it.
_BATCH = "batch"


class TensorRtEngine:
    """The deployed graph in TensorRT; nodes that TensorRT does not take run on CUDA.

    TensorRT builds its engine, which takes minutes, for given shapes. ONNX Runtime would build another one in the
    middle of service once a batch had a new size, so there is one for each size that there will be, and no other is
    run. A profile of several shapes is no way out: the first nodes read uint8, which TensorRT does not take, so that
    its part of the graph has another input, and a profile that does not name that one is an error.
    """

    def __init__(
        self, graph: Path, sha256: str, batches: Sequence[int], root: Path, threads: int, *, half: bool = False
    ) -> None:
        """Load or build an engine for each size of batch.

        Args:
            graph: ``model.onnx`` of a verified bundle, or its graph in fp16.
            sha256: of that file. ONNX Runtime tells engines apart by names in the graph, not by its weights or sizes.
            batches: numbers of pictures in a run.
            root: folder in which the engines are kept.
            threads: of the nodes left to the processor.
            half: the graph computes in fp16 and says so itself.

        Raises:
            EngineError: TensorRT is not installed or cannot start, or the graph cannot be loaded or is of another kind.
        """
        if obstacle := tensorrt_obstacle():
            raise EngineError(f"TensorRT cannot be used: {obstacle}. Set YOLOFOLD_ENGINE=onnxruntime.")
        self._threads, self._half = threads, half
        machine: dict[str, object] = {
            "graph": sha256,
            "gpu": first_cuda_device(),
            "driver": gpu_driver(),
            "onnxruntime": ort.__version__,
            "tensorrt": _load_libraries(),
        }
        self._runs = {
            size: open_cached(
                cache_folder(root, "tensorrt", {**machine, "batch": size}), partial(_open, graph, size, threads)
            )
            for size in batches
        }

    @property
    def provider(self) -> str:
        """ONNX Runtime's name of the execution provider in use."""
        return TENSORRT

    @property
    def runtime(self) -> str:
        """ONNX Runtime and its release."""
        return f"ONNX Runtime {ort.__version__}"

    @property
    def precision(self) -> Precision:
        """As the graph says; float32 is multiplied in TF32."""
        return "fp16" if self._half else "tf32"

    @property
    def threads(self) -> int:
        """Intra-op threads of a session."""
        return self._threads

    @property
    def runs_apart(self) -> bool:
        """True: the GPU works."""
        return True

    @property
    def layouts(self) -> Sequence[InferenceEngine]:
        """This engine."""
        return (self,)

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See ``InferenceEngine.run``. Only batches of the sizes it was made for."""
        runs = self._runs.get(len(images))
        if runs is None:
            raise EngineError(f"TensorRT was prepared for batches of {[*self._runs]}, not of {len(images)}.")
        try:
            rows = runs.run(images)
        except Exception as error:  # its exceptions share no public base class
            raise EngineError(f"TensorRT failed: {error}") from error
        require_rows(rows, len(images))
        return rows

    def release_memory(self) -> None:
        """See ``InferenceEngine.release_memory``."""
        for runs in self._runs.values():
            runs.forget()


def tensorrt_obstacle() -> str | None:
    """Why TensorRT cannot be used in this environment, in words; None if nothing is known against it."""
    if TENSORRT not in ort.get_available_providers():
        return "the installed ONNX Runtime has no TensorRT"
    try:
        _load_libraries()
    except Exception as error:  # whatever is wrong with a library, it is not there to be used
        return f"its libraries cannot be loaded ({fault_in_words(error)})"
    return None


def open_static(graph: Path, batch: int, providers: Providers, threads: int) -> ort.InferenceSession:
    """Load a graph for batches of one size, so that no shape in it is open if pictures are of one size, too.

    Raises:
        EngineError: it cannot be loaded, or is of another kind.
    """
    options = session_options(threads)
    options.add_free_dimension_override_by_name(_BATCH, batch)
    session = open_session(graph, providers, options, fall_back=False)
    check_signature(session, graph)
    return session


def _open(graph: Path, batch: int, threads: int, folder: Path | None) -> BoundRuns:
    """A session whose first provider is TensorRT.

    Without its option for fp16, TensorRT keeps to the types that the graph gives.
    """
    options = {} if folder is None else {"trt_engine_cache_enable": "True", "trt_engine_cache_path": str(folder)}
    session = open_static(graph, batch, [(TENSORRT, options), *provider_options([CUDA, PROCESSOR])], threads)
    if session.get_providers()[0] != TENSORRT:
        raise EngineError(
            "ONNX Runtime could not start TensorRT; its libraries or the driver are missing or do not fit. Set "
            "YOLOFOLD_ENGINE=onnxruntime."
        )
    runs = BoundRuns(session, "cuda")
    # What ONNX Runtime builds at a first run only has to lie in the folder, too, before that gets its name.
    try:
        runs.run(np.zeros((batch, *session.get_inputs()[0].shape[1:]), np.uint8))
    except Exception as error:  # its exceptions share no public base class
        raise EngineError(f"TensorRT failed: {error}") from error
    return runs


@cache  # once in a process
def _load_libraries() -> int:
    """Load TensorRT and give its version, such as 101303.

    Raises:
        OSError: a library is missing or cannot be loaded.
    """
    ort.preload_dlls()
    # What pip installs is on no library path; the package loads all that it holds.
    installed = find_spec("tensorrt_libs") and importlib.import_module("tensorrt_libs").__path__[0]
    found = sorted(Path(installed).glob("libnvinfer.so.*")) if installed else []
    return int(ctypes.CDLL(str(found[0]) if found else find_library("nvinfer") or "libnvinfer.so").getInferLibVersion())

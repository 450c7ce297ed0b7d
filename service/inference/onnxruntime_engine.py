"""The deployed graph in ONNX Runtime, and a graph that kept its BatchNorm."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from service.errors import EngineError
from service.inference.bound_runs import BoundRuns
from service.inference.engine import INPUT, OUTPUT, Device, InferenceEngine, Precision, require_rows
from service.inference.onnxruntime_arena import join_arena, shrink_arena
from service.onnxruntime_folding import FOLDING_OPTIMISERS

#: ONNX Runtime's name of its provider on the processor.
PROCESSOR = "CPUExecutionProvider"
#: And on a GPU.
CUDA = "CUDAExecutionProvider"
#: The doubling arena never gives its surplus back; growing by what was asked keeps memory flat.
_OPTIONS = {CUDA: {"arena_extend_strategy": "kSameAsRequested"}}

#: Names of execution providers with their options, in order of preference.
Providers = Sequence[tuple[str, Mapping[str, str]]]


class OnnxRuntimeEngine:
    """The deployed graph in ONNX Runtime."""

    def __init__(self, model_path: Path, device: Device, threads: int, *, half: bool = False) -> None:
        """Load the graph and check that it takes and gives what the contract says.

        Args:
            model_path: ``model.onnx`` of a verified bundle.
            device: auto takes CUDA where the installed runtime has it.
            threads: intra-op threads, at least 1.
            half: the graph computes in fp16 and says so itself.

        Raises:
            EngineError: CUDA was demanded but is absent, or the graph cannot be loaded or is of another kind.
        """
        self._threads, self._half = threads, half
        self._session = self._open(model_path, choose_providers(device), threads)
        self._provider: str = self._session.get_providers()[0]
        if device == "cuda" and self._provider != CUDA:
            raise EngineError("ONNX Runtime could not start CUDA; its driver or libraries are missing or do not fit.")
        check_signature(self._session, model_path)
        #: On the processor a plain run copies nothing that binding would spare.
        self._bound = BoundRuns(self._session, "cuda") if self._provider == CUDA else None

    def _open(self, model_path: Path, providers: list[str], threads: int) -> ort.InferenceSession:
        return open_session(model_path, provider_options(providers), session_options(threads))

    @property
    def provider(self) -> str:
        """ONNX Runtime's name of the execution provider in use."""
        return self._provider

    @property
    def runtime(self) -> str:
        """ONNX Runtime and its release."""
        return f"ONNX Runtime {ort.__version__}"

    @property
    def precision(self) -> Precision:
        """As the graph says; float32 is multiplied in TF32 by CUDA."""
        if self._half:
            return "fp16"
        return "tf32" if self._provider == CUDA else "fp32"

    @property
    def threads(self) -> int:
        """Intra-op threads of the session."""
        return self._threads

    @property
    def runs_apart(self) -> bool:
        """On a GPU; on the processor the caller's thread is one of a run's."""
        return self.provider != PROCESSOR

    @property
    def layouts(self) -> Sequence[InferenceEngine]:
        """This engine."""
        return (self,)

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See ``InferenceEngine.run``."""
        try:
            rows = self._bound.run(images) if self._bound else self._session.run([OUTPUT], {INPUT: images})[0]
        except Exception as error:  # its exceptions share no public base class
            raise EngineError(f"ONNX Runtime failed: {error}") from error
        require_rows(rows, len(images))
        return rows

    def release_memory(self) -> None:
        """See ``InferenceEngine.release_memory``."""
        if self._bound:
            self._bound.forget()
        shrink_arena()


#: A side that any graph takes whose sides are free, pixels: a multiple of every stride.
_ANY_SIDE = 256


class UnfoldedEngine(OnnxRuntimeEngine):
    """A graph that kept its BatchNorm, run so that ONNX Runtime does not fold it either."""

    def __init__(self, model_path: Path, device: Device, threads: int) -> None:
        """Load the graph and run it once on black. Arguments and errors as for ``OnnxRuntimeEngine``."""
        with tempfile.TemporaryDirectory(prefix="yolofold-") as folder:
            self._profile_prefix = str(Path(folder) / "profile")
            super().__init__(model_path, device, threads)
            sides = self._session.get_inputs()[0].shape[1:3]
            height, width = (side if isinstance(side, int) else _ANY_SIDE for side in sides)
            self.run(np.zeros((1, height, width, 3), np.uint8))
            # What was executed is the one sure sign of what was not folded.
            events = json.loads(Path(self._session.end_profiling()).read_text(encoding="utf-8"))
        kept = {event["name"] for event in events if event.get("args", {}).get("op_name") == "BatchNormalization"}
        self._batch_normalizations = len(kept)

    @property
    def batch_normalizations(self) -> int:
        """BatchNormalization nodes that a run was seen to execute."""
        return self._batch_normalizations

    def _open(self, model_path: Path, providers: list[str], threads: int) -> ort.InferenceSession:
        options = session_options(threads)
        # One level higher a BatchNormalization becomes a 1x1 convolution in the blocked (NCHWc) layout.
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.enable_profiling, options.profile_file_prefix = True, self._profile_prefix
        return open_session(model_path, provider_options(providers), options, FOLDING_OPTIMISERS)


def choose_providers(device: Device) -> list[str]:
    """ONNX Runtime's execution providers for a device, in order of preference.

    Raises:
        EngineError: CUDA was demanded, but the installed runtime has none.
    """
    has_cuda = CUDA in ort.get_available_providers()
    if device == "cuda" and not has_cuda:
        raise EngineError(
            "YOLOFOLD_DEVICE=cuda, but the installed ONNX Runtime has no CUDA provider. "
            "Install onnxruntime-gpu instead of onnxruntime, or set YOLOFOLD_DEVICE=cpu."
        )
    if device == "cpu" or not has_cuda:
        return [PROCESSOR]
    ort.preload_dlls()  # finds the CUDA libraries that pip installed, which are on no library path
    return [CUDA, PROCESSOR]


def session_options(threads: int) -> ort.SessionOptions:
    """What every session of a served graph is opened with."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Spinning threads would take the cores that decode the next picture.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    join_arena(options)
    options.log_severity_level = 3
    return options


def provider_options(names: Sequence[str]) -> Providers:
    """Execution providers with the options that they always get."""
    return [(name, _OPTIONS.get(name, {})) for name in names]


def open_session(
    model_path: Path,
    providers: Providers,
    options: ort.SessionOptions,
    disabled: tuple[str, ...] = (),
    *,
    fall_back: bool = True,
) -> ort.InferenceSession:
    """Load a graph.

    Args:
        disabled: names of optimisers.
        fall_back: do without a provider that does not start, and say so on standard output only.

    Raises:
        EngineError: ONNX Runtime cannot.
    """
    try:
        return ort.InferenceSession(
            str(model_path),
            options,
            providers=list(providers),
            disabled_optimizers=list(disabled),
            enable_fallback=int(fall_back),
        )
    except Exception as error:
        raise EngineError(f"ONNX Runtime cannot load {model_path}: {error}") from error


def check_signature(session: ort.InferenceSession, model_path: Path) -> None:
    """Check that a graph takes pictures and gives rows.

    Raises:
        EngineError: it takes or gives something else.
    """
    inputs, outputs = session.get_inputs(), session.get_outputs()
    found = [(t.name, t.type, len(t.shape)) for t in (*inputs, *outputs)]
    if found != [(INPUT, "tensor(uint8)", 4), (OUTPUT, "tensor(float)", 3)]:
        raise EngineError(f"{model_path} maps {found}, not uint8 {INPUT!r} (B, H, W, 3) to float {OUTPUT!r} (B, N, 6).")
    if inputs[0].shape[3] != 3:
        raise EngineError(f"{model_path} takes {inputs[0].shape}, not (B, H, W, 3).")

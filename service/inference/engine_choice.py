"""Which engine the settings ask for; what cannot be had is refused, never replaced."""

import math
from pathlib import Path

from service.errors import EngineError, SettingsError
from service.inference.by_load_engine import ByLoadEngine
from service.inference.engine import InferenceEngine
from service.inference.onnxruntime_engine import PROCESSOR, OnnxRuntimeEngine
from service.settings import Settings


def open_engine(graph: Path, settings: Settings, *, cores: int, workers: int) -> InferenceEngine:
    """Load the deployed graph as ``YOLOFOLD_ENGINE``, ``_PRECISION``, ``_DEVICE`` and ``_THREADS`` say.

    ``auto`` is no engine: ``service.tuning`` turns it into one of the others.

    Without a precision that is fp32: bf16 does not find the same boxes. Without a number of threads the processor's
    cores are shared out by load.

    Args:
        graph: ``model.onnx`` of a verified bundle.
        cores: what this process may use.
        workers: callers at once.

    Raises:
        SettingsError: the settings contradict each other.
        ValueError: the engine is still ``auto``.
        EngineError: what they ask for is not installed or not possible on this machine, or the graph cannot be loaded.
    """
    if settings.engine == "auto":
        raise ValueError("the engine has not been chosen yet")
    threads, fill = settings.threads_on(cores), min(workers, cores)
    if settings.engine == "openvino":
        alone = _open_openvino(graph, settings, threads, streams=max(1, min(workers, cores // threads)))
        if settings.threads or fill == 1:
            return alone
        return ByLoadEngine(alone, _open_openvino(graph, settings, threads_under_load(cores, fill), streams=fill), fill)
    if settings.precision == "bf16":
        raise SettingsError(
            "YOLOFOLD_PRECISION=bf16, but ONNX Runtime computes this network in fp32 only. Set "
            "YOLOFOLD_ENGINE=openvino, which has bf16 where the processor has it, or YOLOFOLD_PRECISION=fp32."
        )
    engine = OnnxRuntimeEngine(graph, settings.device, threads)
    require_precision(engine, settings)
    if settings.threads or fill == 1 or engine.provider != PROCESSOR:
        return engine
    return ByLoadEngine(engine, OnnxRuntimeEngine(graph, "cpu", threads_under_load(cores, fill)), fill)


def threads_under_load(cores: int, fill: int) -> int:
    """Threads of each of ``fill`` runs that fill the cores: rather one too many of some than a core left idle."""
    return math.ceil(cores / fill)


def require_precision(engine: InferenceEngine, settings: Settings) -> None:
    """Check that an engine computes in the precision that is demanded.

    Raises:
        EngineError: it does not.
    """
    if settings.precision not in (None, "auto", engine.precision):
        raise EngineError(
            f"YOLOFOLD_PRECISION={settings.precision}, but {engine.runtime} multiplies in {engine.precision} with "
            f"{engine.provider}. Leave YOLOFOLD_PRECISION empty to accept that, or YOLOFOLD_DEVICE=cpu."
        )


def _open_openvino(graph: Path, settings: Settings, threads: int, streams: int) -> InferenceEngine:
    if settings.device == "cuda":
        raise SettingsError(
            "YOLOFOLD_ENGINE=openvino, but YOLOFOLD_DEVICE=cuda: OpenVINO runs on the processor here. Set "
            "YOLOFOLD_DEVICE=cpu, or YOLOFOLD_ENGINE=onnxruntime."
        )
    try:
        from service.inference.openvino_engine import OpenVinoEngine  # optional, and 100 MB more once loaded
    except ImportError as error:
        raise EngineError(
            f"YOLOFOLD_ENGINE=openvino, but the package openvino cannot be loaded ({error}). Install it with "
            "`pip install openvino`, or set YOLOFOLD_ENGINE=onnxruntime."
        ) from error
    return OpenVinoEngine(graph, "bf16" if settings.precision == "bf16" else "fp32", threads, streams)

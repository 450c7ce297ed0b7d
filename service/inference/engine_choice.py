"""Which engine the settings ask for; what cannot be had is refused, never replaced."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from service.bundle.int8 import Int8Precision, Int8Spec
from service.bundle.store import Bundle
from service.errors import EngineError, SettingsError
from service.inference.batching_engine import BatchingEngine, batch_sizes
from service.inference.by_load_engine import ByLoadEngine
from service.inference.engine import Device, InferenceEngine
from service.inference.onnxruntime_engine import PROCESSOR, OnnxRuntimeEngine, choose_providers
from service.inference.tensorrt_engine import TensorRtEngine
from service.machine import has_int8_dot_products, threads_under_load
from service.settings import Settings

_FP16_NEEDS_GPU = "YOLOFOLD_PRECISION=fp16 is for GPUs, since a processor would compute in float32 all the same"
_WITHOUT_FP16 = "To do without, leave YOLOFOLD_PRECISION empty."


def open_engine(bundle: Bundle, settings: Settings, *, cores: int, workers: int) -> InferenceEngine:
    """Load the graph that is served as ``YOLOFOLD_ENGINE``, ``_PRECISION``, ``_DEVICE`` and ``_THREADS`` say.

    ``auto`` is no engine: ``service.tuning`` turns it into one of the others.

    Without a precision that is fp32, on a GPU TF32: the others do not find the same boxes. Without a number of threads
    the processor's cores are shared out by load; with batches one run at a time takes them all.

    Args:
        bundle: a verified one; for int8 one that was quantized, for fp16 one that was halved.
        cores: what this process may use.
        workers: callers at once.

    Raises:
        SettingsError: the settings contradict each other.
        ValueError: the engine is still ``auto``.
        EngineError: what they ask for is not installed or not possible on this machine, or the graph cannot be loaded.
    """
    if settings.engine == "auto":
        raise ValueError("the engine has not been chosen yet")
    threads, fill, batch = settings.threads_on(cores), min(workers, cores), settings.max_batch_size
    if settings.engine == "openvino":
        if batch > 1:
            raise SettingsError(
                f"YOLOFOLD_MAX_BATCH_SIZE={batch}, but OpenVINO would prepare itself anew each time the size of a "
                "batch changes, and on a processor one picture fills the cores. Set YOLOFOLD_MAX_BATCH_SIZE=0, or "
                "YOLOFOLD_ENGINE=onnxruntime."
            )
        layouts = [(threads, max(1, min(workers, cores // threads)))]
        if settings.threads or fill == 1:
            return _open_openvino(bundle, settings, layouts)[0]
        layouts.append((threads_under_load(cores, fill), fill))
        wide, narrow = _open_openvino(bundle, settings, layouts)
        return ByLoadEngine(wide, narrow, fill)
    if settings.precision in ("bf16", "int8"):
        has_it = {"bf16": "bf16 where the processor has it", "int8": "int8 for bundles that were quantized"}
        raise SettingsError(
            f"YOLOFOLD_PRECISION={settings.precision}, but ONNX Runtime computes this network in fp32 only and, on a "
            f"GPU, in fp16. Set YOLOFOLD_ENGINE=openvino, which has {has_it[settings.precision]}, or "
            "YOLOFOLD_PRECISION=fp32."
        )
    if settings.engine == "tensorrt":
        tensorrt = _open_tensorrt(bundle, settings, threads, batch)
        return BatchingEngine(tensorrt, batch) if batch > 1 else tensorrt
    if settings.precision == "fp16":
        # Not auto, by which the processor would take the place of a GPU that does not start.
        engine = OnnxRuntimeEngine(require_fp16(bundle, settings.device), "cuda", threads, half=True)
    else:
        engine = OnnxRuntimeEngine(bundle.deployed_graph, settings.device, threads)
    require_precision(engine, settings)
    if batch > 1:
        return BatchingEngine(engine, batch)
    if settings.threads or fill == 1 or engine.provider != PROCESSOR:
        return engine
    shared = OnnxRuntimeEngine(bundle.deployed_graph, "cpu", threads_under_load(cores, fill))
    return ByLoadEngine(engine, shared, fill)


def require_fp16(bundle: Bundle, device: Device) -> Path:
    """The graph in fp16.

    Raises:
        SettingsError: the bundle holds none.
        EngineError: there is no GPU to run it on.
    """
    if choose_providers(device)[0] == PROCESSOR:
        why = "YOLOFOLD_DEVICE=cpu" if device == "cpu" else "the installed ONNX Runtime has no CUDA provider"
        raise EngineError(f"{_FP16_NEEDS_GPU}, and {why}. {_WITHOUT_FP16}")
    if bundle.fp16 is None:
        raise SettingsError(
            f"YOLOFOLD_PRECISION asks for fp16, but {bundle.path} holds no graph in fp16. `python -m service halve` "
            f"makes a bundle that does, to be named by YOLOFOLD_BUNDLE_DIR. {_WITHOUT_FP16}"
        )
    return bundle.fp16_graph


def _open_tensorrt(bundle: Bundle, settings: Settings, threads: int, batch: int) -> InferenceEngine:
    if settings.device == "cpu":
        raise SettingsError(
            "YOLOFOLD_ENGINE=tensorrt, but YOLOFOLD_DEVICE=cpu: TensorRT runs on NVIDIA's GPUs. Set "
            "YOLOFOLD_DEVICE=cuda, or YOLOFOLD_ENGINE=onnxruntime."
        )
    if settings.precision == "fp32":  # said before minutes of building
        raise SettingsError(
            "YOLOFOLD_PRECISION=fp32, but TensorRT multiplies in TF32. Leave YOLOFOLD_PRECISION empty to accept that, "
            "or set YOLOFOLD_ENGINE=onnxruntime and YOLOFOLD_DEVICE=cpu."
        )
    if misfit := tensorrt_misfit(bundle):
        raise SettingsError(
            f"YOLOFOLD_ENGINE=tensorrt, but {misfit}. Set YOLOFOLD_ENGINE=onnxruntime, or serve a bundle that was "
            "prepared with YOLOFOLD_RECT=false and for a one2one head."
        )
    half = settings.precision == "fp16"
    graph = require_fp16(bundle, settings.device) if half else bundle.deployed_graph
    sizes = batch_sizes(batch) if batch > 1 else [1]
    sha256 = bundle.manifest.files[graph.name].sha256
    root = settings.state_dir or bundle.path.resolve().parent
    return TensorRtEngine(graph, sha256, sizes, root, threads, half=half)


def tensorrt_misfit(bundle: Bundle) -> str | None:
    """Why a bundle is nothing for TensorRT, which builds an engine for each shape that it meets; None if it is fit."""
    model = bundle.manifest.model
    if model.input.rect is not None:
        return f"{bundle.path} takes pictures of many sizes, for each of which TensorRT would build an engine"
    if model.head.nms == "graph":
        return (
            f"{bundle.path} suppresses boxes in its graph, and for each number of boxes left TensorRT would build an "
            "engine"
        )
    return None


def require_precision(engine: InferenceEngine, settings: Settings) -> None:
    """Check that an engine computes in the precision that is demanded.

    Raises:
        EngineError: it does not.
    """
    if settings.precision not in (None, engine.precision):
        raise EngineError(
            f"YOLOFOLD_PRECISION={settings.precision}, but {engine.runtime} multiplies in {engine.precision} with "
            f"{engine.provider}. Leave YOLOFOLD_PRECISION empty to accept that, or set YOLOFOLD_DEVICE=cpu."
        )


def _open_openvino(bundle: Bundle, settings: Settings, layouts: Sequence[tuple[int, int]]) -> Sequence[InferenceEngine]:
    """An engine for each of ``layouts``, threads of one run and runs at once."""
    if settings.device == "cuda":
        raise SettingsError(
            "YOLOFOLD_ENGINE=openvino, but YOLOFOLD_DEVICE=cuda: OpenVINO runs on the processor here. Set "
            "YOLOFOLD_DEVICE=cpu, or YOLOFOLD_ENGINE=onnxruntime."
        )
    if settings.precision == "fp16":
        raise SettingsError(f"{_FP16_NEEDS_GPU}, and OpenVINO runs on the processor here. {_WITHOUT_FP16}")
    try:
        from service.inference import openvino_engine  # optional, and 100 MB more once loaded
    except ImportError as error:
        raise EngineError(
            f"YOLOFOLD_ENGINE=openvino, but the package openvino cannot be loaded ({error}). Install it with "
            "`pip install openvino`, or set YOLOFOLD_ENGINE=onnxruntime."
        ) from error
    if settings.precision == "int8":
        bf16 = "BF16" in openvino_engine.processor_capabilities()
        precision = require_int8(bundle, bf16=bf16, dot_products=has_int8_dot_products())
        return openvino_engine.open_engines(bundle.int8_graph, precision, layouts)
    asked: Literal["bf16", "fp32"] = "bf16" if settings.precision == "bf16" else "fp32"
    return openvino_engine.open_engines(bundle.deployed_graph, asked, layouts)


def require_int8(bundle: Bundle, *, bf16: bool, dot_products: bool) -> Int8Precision:
    """The fastest way to run the quantized graph that passed its gate and this processor can go.

    Args:
        bf16: the processor has instructions for it.
        dot_products: it adds products of int8 in 32 bits.

    Raises:
        SettingsError: the bundle was not quantized.
        EngineError: what passed is nothing for this processor.
    """
    if bundle.int8 is None:
        raise SettingsError(
            f"YOLOFOLD_PRECISION asks for int8, but {bundle.path} holds no quantized graph. "
            "`python -m service quantize --data PICTURES` makes a bundle that does, to be named by "
            "YOLOFOLD_BUNDLE_DIR; or set YOLOFOLD_PRECISION=fp32."
        )
    precision = bundle.int8.best(bf16=bf16, dot_products=dot_products)
    if precision is None:
        raise EngineError(
            f"YOLOFOLD_PRECISION asks for int8, but {bundle.path} was quantized for another kind of processor: "
            f"{int8_obstacle(bundle.int8, dot_products)}. Run `python -m service quantize` on this machine, or set "
            "YOLOFOLD_PRECISION=fp32."
        )
    return precision


def int8_obstacle(spec: Int8Spec, dot_products: bool) -> str:
    """Why a processor that no way is left for cannot serve the quantized graph, in words."""
    if spec.weight_bits == 8 and not dot_products:
        return "its 8-bit weights need VNNI or its like, without which sums saturate"
    return "its gate let it pass with bf16 only, for which this processor has no instructions"

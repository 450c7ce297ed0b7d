"""The order of a conversion to fp16: the graph, what it answers when rounded, and a bundle beside the one given."""

from pathlib import Path

import onnx

from service.bundle import store
from service.bundle.beside import beside_name, require_free, write_beside
from service.bundle.fp16 import Fp16Spec
from service.bundle.store import Bundle
from service.errors import QuantizationError, QuantizationRefused, SelfCheckFailed
from service.inference.onnxruntime_engine import OnnxRuntimeEngine
from service.inference.self_check import check_engine
from service.quantization.graph import describe_graph
from service.quantization.half_graph import halve_graph, widen_graph
from service.quantization.half_layers import choose_half_layers
from service.quantization.quantize import Progress
from service.tuning.measure import pictures_compared
from service.tuning.pictures import comparison_pictures
from service.tuning.tolerance import RECURRENCE, Agreement, Reference


def halve(bundle: Bundle, out: Path | None, threads: int, progress: Progress) -> Bundle:
    """Make a bundle that can be served in fp16 as well, if that finds the same boxes. The one given is only read.

    Args:
        out: folder the new bundle becomes; None chooses one beside the bundle given.
        threads: of the network, at least 1.

    Raises:
        QuantizationRefused: rounded as in fp16, the graph does not find the same boxes.
        QuantizationError: the network will not do.
        BundleNameRefused: the folder asked for will not do.
        BundleDirUnusable: the bundle cannot be written where it was asked for.
        EngineError: the runtime failed.
    """
    root = bundle.path.parent if out is None else out.parent
    if out is not None:
        require_free(out)
    store.require_writable(root)
    model = onnx.load(bundle.deployed_graph)
    layers = choose_half_layers(bundle, model.graph)
    if not layers.convolutions:
        raise QuantizationError(f"No convolution of {bundle.path} can be converted to fp16; `bn-stats` says why.")
    with store.scratch_folder(root) as scratch:
        graph, twin = scratch / store.FP16_GRAPH, scratch / "twin.onnx"
        with progress.step("Graph in fp16"):
            half = halve_graph(model, layers.nodes)
            onnx.save(half, graph)
            onnx.save(widen_graph(half), twin)
        with progress.step("Boxes, rounded as in fp16"):
            found = judge_rounded(bundle, twin, threads)
        if found.fault is not None:
            raise QuantizationRefused(
                f"Rounded as in fp16, the network does not find the boxes that it finds in fp32: {found.fault}. Asked "
                f"is: {RECURRENCE['fp16'].words}. No bundle was written."
            )
        spec = Fp16Spec(
            source_version=bundle.manifest.model.version,
            graph=describe_graph(graph, half),
            convolutions=layers.convolutions,
            kept_in_float=layers.kept,
            boxes=found.boxes,
            repeated=found.matched,
            new=found.extra,
        )
        version = store.content_version({"source": spec.source_version, "fp16": store.sha256_file(graph)})
        target = root / beside_name(bundle.manifest.model.name, "fp16", version) if out is None else out
        with progress.step("Bundle"):
            return write_beside(bundle, target, version, {store.FP16_GRAPH: graph, store.FP16: spec})


def judge_rounded(bundle: Bundle, twin: Path, threads: int) -> Agreement:
    """Ask of a graph that rounds as fp16 does what a server and a choice by measurement ask of it.

    Raises:
        QuantizationRefused: the start-up check would not let it serve.
        EngineError: the runtime failed.
    """
    exact = OnnxRuntimeEngine(bundle.deployed_graph, "cpu", threads)
    rounded = OnnxRuntimeEngine(twin, "cpu", threads, half=True)
    try:
        check_engine(bundle, rounded)
    except SelfCheckFailed as error:
        raise QuantizationRefused(f"Rounded as in fp16, the network would not be served: {error}") from error
    pictures = comparison_pictures(bundle)[: pictures_compared(bundle.health.network.macs)]
    answers = [[engine.run(picture[None])[0] for picture in pictures] for engine in (exact, rounded)]
    return Reference(bundle, answers[0]).judge("fp16", answers[1])

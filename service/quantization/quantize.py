"""The order of a quantization: pictures, the quantized graph, its gate, and a bundle beside the one given."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import onnx
import onnxruntime as ort

from service.bundle import store
from service.bundle.beside import beside_name, require_free, write_beside
from service.bundle.int8 import GateVerdict, Int8Gate, Int8Spec
from service.bundle.store import Bundle
from service.errors import QuantizationError, QuantizationRefused
from service.inference.known_pictures import read_fitted
from service.machine import describe_machine, has_int8_dot_products
from service.quantization.gate import BAR, RULE, Gate
from service.quantization.graph import quantize_graph
from service.quantization.layers import choose_convolutions
from service.quantization.pictures import PictureSplit, list_pictures, split_pictures


class Progress(Protocol):
    """Is told which step runs, and inside it how far it has come."""

    def step(self, title: str) -> AbstractContextManager[Callable[[int, int], None]]:
        """Surround a step; the callable inside takes (done, total)."""
        ...


@dataclass(frozen=True)
class Request:
    """What to quantize with.

    Attributes:
        data: folder of pictures like those that will be served.
        calibration: how many of them are calibrated on, at least 1.
        pictures: how many others judge, at least 1; None takes all.
        out: folder the new bundle becomes; None chooses one beside the bundle given.
        max_pixels: larger pictures cannot be served.
        threads: threads of the network, at least 1.
    """

    data: Path
    calibration: int
    pictures: int | None
    out: Path | None
    max_pixels: int
    threads: int


def quantize(bundle: Bundle, request: Request, progress: Progress) -> Bundle:
    """Make a bundle that can be served in int8 as well, if int8 finds the same boxes. The one given is only read.

    Raises:
        QuantizationRefused: int8 does not find the same boxes any way, or there are too few to tell.
        QuantizationError: the pictures or the network will not do, or OpenVINO is missing.
        PictureUnusable: a picture cannot be served, or has changed on the way.
        BundleNameRefused: the folder asked for will not do.
        BundleDirUnusable: the bundle cannot be written where it was asked for.
        EngineError: a runtime failed.
    """
    root = bundle.path.parent if request.out is None else request.out.parent
    if request.out is not None:
        require_free(request.out)
    store.require_writable(root)
    with progress.step("Pictures"):
        split = split_pictures(request.data, request.calibration, request.pictures)
    with progress.step("Boxes in fp32") as advance:
        gate = Gate(bundle, split.gate, request.max_pixels, request.threads, advance)
    with store.scratch_folder(root) as scratch:
        graph = scratch / store.INT8_GRAPH
        bits: Literal[7, 8] = 8 if has_int8_dot_products() else 7
        convolutions = choose_convolutions(bundle, onnx.load(bundle.deployed_graph).graph, bits)
        if not convolutions.quantized:
            raise QuantizationError(f"No convolution of {bundle.path} can be quantized; `bn-stats` says why.")
        with progress.step("Quantize") as advance:
            fitted = read_fitted(split.calibration, bundle.manifest.model.input, request.max_pixels, advance)
            written = quantize_graph(bundle.deployed_graph, graph, fitted, convolutions.kept_nodes, bits)
        with progress.step("Boxes in int8") as advance:
            ways = gate.judge(graph, advance)
        if not any(way.passed for way in ways):
            raise QuantizationRefused(_refusal(ways, len(split.gate)))
        spec = Int8Spec(
            source_version=bundle.manifest.model.version,
            quantizer=f"ONNX Runtime {ort.__version__}",
            graph=written,
            weight_bits=bits,
            convolutions=len(convolutions.quantized),
            kept_in_float=convolutions.kept,
            calibration=list_pictures(split.calibration),
            gate=_describe_gate(split, ways),
        )
        with progress.step("Bundle"):
            return _write(bundle, graph, spec, root, request.out)


def _describe_gate(split: PictureSplit, ways: list[GateVerdict]) -> Int8Gate:
    return Int8Gate(
        folder=split.folder.resolve().name,
        pictures=list_pictures(split.gate),
        bar=BAR,
        ways=ways,
        machine=describe_machine(),
    )


def _refusal(ways: list[GateVerdict], pictures: int) -> str:
    found = "; ".join(
        f"{way.precision} repeats {way.repeated} of {way.boxes} and adds {way.new} ({way.reason})" for way in ways
    )
    return (
        f"int8 does not find the boxes that fp32 finds in {pictures} pictures: {found}. Asked is: {RULE.words}. No "
        "bundle was written. More pictures to calibrate on, or such as are nearer to those that will be served, may "
        "help."
    )


def _write(bundle: Bundle, graph: Path, spec: Int8Spec, root: Path, out: Path | None) -> Bundle:
    version = store.content_version(
        {
            "source": spec.source_version,
            "graph": store.sha256_file(graph),
            "gate": spec.gate.pictures.sha256,
            "passed": " ".join(way.precision for way in spec.gate.ways if way.passed),
            "cpu": spec.gate.machine.cpu,
        }
    )
    target = root / beside_name(bundle.manifest.model.name, "int8", version) if out is None else out
    return write_beside(bundle, target, version, {store.INT8_GRAPH: graph, store.INT8: spec})

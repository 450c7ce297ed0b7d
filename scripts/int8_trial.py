"""What int8 would gain on this machine and what it would lose, against fp32 and bf16: the reason why it is not served.

    .venv/bin/python -m scripts.int8_trial --bundle bundles/NAME --calibration some/pictures --data other/pictures

The served graph is quantized statically: weights per channel, activations by their least and largest value over the
pictures for calibration. The head and attention stay in float, and so do the blocks named by --float. It runs as each
runtime likes it best: OpenVINO with activations quantized where convolutions read them, and all else in bf16 where the
processor has it; ONNX Runtime with activations in int8 from one convolution to the next.

Boxes are judged by the rule that a choice by measurement asks of bf16 (`service/tuning/tolerance.py`), on the pictures
of --data, which should be some hundred and others than those for calibration. Time is that of the network alone, a
caller at a time on all cores: the median of rounds in turn, and as a ratio to the first row, round by round.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

from service.bundle.store import Bundle, load_bundle
from service.inference.engine import INPUT, InferenceEngine
from service.inference.images import decode_image
from service.inference.onnxruntime_engine import OnnxRuntimeEngine
from service.inference.openvino_engine import OpenVinoEngine, processor_capabilities
from service.inference.picture_folder import picture_files
from service.machine import usable_cores
from service.preprocessing.letterbox import letterbox, plan_letterbox
from service.tuning.tolerance import RECURRENCE, Reference

#: What ONNX Runtime computes in int8 between convolutions. OpenVINO decides that by itself.
_BETWEEN_CONVOLUTIONS = ["Sigmoid", "Mul", "Add", "Concat", "MaxPool", "Resize"]
_MAX_PIXELS = 10**9


class Squares(CalibrationDataReader):  # type: ignore[misc]
    """Letterboxed pictures, one after the other, as the quantizer asks for them."""

    def __init__(self, squares: Sequence[NDArray[np.uint8]]) -> None:
        """Hand out ``squares``, (S, S, 3) each."""
        self._left = iter(squares)

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        """The next picture as a batch of one; None after the last."""
        square = next(self._left, None)
        return None if square is None else {INPUT: square[None]}


def read_squares(folder: Path, bundle: Bundle, most: int) -> list[NDArray[np.uint8]]:
    """The first pictures of a folder by name, letterboxed to the bundle's input: (S, S, 3) BGR."""
    squares = []
    for path in picture_files(folder)[:most]:
        image = decode_image(path.read_bytes(), max_pixels=_MAX_PIXELS)
        plan = plan_letterbox(image.shape[1], image.shape[0], bundle.manifest.model.input.height)
        squares.append(letterbox(image, plan))
    return squares


def block_of(node: str) -> int | None:
    """The block of the network that a node belongs to, by its name, such as 3 for ``/network/model.3/conv/Conv``."""
    _, found, rest = node.partition("/model.")
    number = rest.split("/")[0].split(".")[0]
    return int(number) if found and number.isdigit() else None


def kept_in_float(graph: onnx.GraphProto, blocks: Sequence[int]) -> list[str]:
    """Nodes of the head (the last block), of attention, of ``blocks``, and those that belong to none."""
    numbers = {node.name: block_of(node.name) for node in graph.node}
    last = max(number for number in numbers.values() if number is not None)
    kept = {last, None, *blocks}
    return [name for name, number in numbers.items() if number in kept or "/attn/" in name]


def quantize(source: Path, target: Path, squares: Sequence[NDArray[np.uint8]], blocks: Sequence[int], name: str) -> int:
    """Write the graph quantized as ``name``, a runtime, likes it best; returns how many convolutions are."""
    model = onnx.load(source)
    excluded = kept_in_float(model.graph, blocks)
    options: dict[str, object] = {"WeightSymmetric": True, "ActivationSymmetric": False}
    kinds = ["Conv"]
    if name == "openvino":
        options |= {"OpTypesToExcludeOutputQuantization": ["Conv"], "QuantizeBias": False}
    else:
        kinds += _BETWEEN_CONVOLUTIONS
    quantize_static(
        source,
        target,
        Squares(squares),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=kinds,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=excluded,
        calibrate_method=CalibrationMethod.MinMax,
        extra_options=options,
    )
    return sum(node.op_type == "Conv" and node.name not in set(excluded) for node in model.graph.node)


def open_ways(bundle: Bundle, quantized: dict[str, Path]) -> Iterator[tuple[str, InferenceEngine]]:
    """Each way to run the network, the one that others are compared with first."""
    cores, graph = usable_cores(), bundle.deployed_graph
    if "BF16" in processor_capabilities():
        yield "OpenVINO in bf16", OpenVinoEngine(graph, "bf16", cores, 1)
        yield "OpenVINO in int8 and bf16", OpenVinoEngine(quantized["openvino"], "bf16", cores, 1)
    yield "OpenVINO in fp32", OpenVinoEngine(graph, "fp32", cores, 1)
    yield "OpenVINO in int8 and fp32", OpenVinoEngine(quantized["openvino"], "fp32", cores, 1)
    yield "ONNX Runtime in fp32", OnnxRuntimeEngine(graph, "cpu", cores)
    yield "ONNX Runtime in int8 and fp32", OnnxRuntimeEngine(quantized["onnxruntime"], "cpu", cores)


def time_ways(
    engines: dict[str, InferenceEngine], squares: Sequence[NDArray[np.uint8]], rounds: int
) -> dict[str, list[float]]:
    """Seconds of a run, one figure per round, the ways taking turns."""
    taken: dict[str, list[float]] = {name: [] for name in engines}
    for turn in range(rounds):
        names = list(engines) if turn % 2 else list(engines)[::-1]
        for name in names:
            runs = [squares[(turn + offset) % len(squares)] for offset in range(3)]
            begun = time.perf_counter()
            for square in runs:
                engines[name].run(square[None])
            taken[name].append((time.perf_counter() - begun) / len(runs))
    return taken


def main() -> None:
    """Print a row per way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True, help="folder of a bundle")
    parser.add_argument("--calibration", type=Path, required=True, help="folder of pictures; the first 48 are taken")
    parser.add_argument("--data", type=Path, required=True, help="folder of pictures to compare boxes on")
    parser.add_argument("--pictures", type=int, default=240, help="of --data, at most (240)")
    parser.add_argument("--float", type=int, nargs="*", default=[], help="further blocks kept in float, by number")
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    bundle = load_bundle(arguments.bundle)
    calibration = read_squares(arguments.calibration, bundle, 48)
    squares = read_squares(arguments.data, bundle, arguments.pictures)
    plain = OnnxRuntimeEngine(bundle.deployed_graph, "cpu", usable_cores())
    reference = Reference(bundle, [plain.run(square[None])[0] for square in squares])
    with tempfile.TemporaryDirectory() as folder:
        quantized = {name: Path(folder) / f"{name}.onnx" for name in ("openvino", "onnxruntime")}
        for name, path in quantized.items():
            convolutions = quantize(bundle.deployed_graph, path, calibration, arguments.float, name)
        engines = dict(open_ways(bundle, quantized))
    print(f"{convolutions} convolutions in int8; asked of boxes: {RECURRENCE['bf16'].words}.\n")
    taken = time_ways(engines, squares, arguments.rounds)
    first = taken[next(iter(taken))]
    print("| | ms | times as fast as the first | boxes repeated | new | |\n|---|---|---|---|---|---|")
    for name, engine in engines.items():
        judged = reference.judge("bf16", [engine.run(square[None])[0] for square in squares])
        ratio = statistics.median(a / b for a, b in zip(first, taken[name], strict=True))
        print(
            f"| {name} | {statistics.median(taken[name]) * 1e3:.1f} | {ratio:.2f} "
            f"| {judged.matched} of {judged.boxes} | {judged.extra} | {'refused' if judged.fault else 'passes'} |",
            flush=True,
        )


if __name__ == "__main__":
    main()

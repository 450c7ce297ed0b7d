"""Static quantization of an ONNX graph: weights by channel, activations by the range that pictures give them."""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

from service.bundle.manifest import GraphSpec
from service.errors import PictureUnusable, QuantizationError
from service.inference.engine import INPUT


def quantize_graph(
    source: Path,
    target: Path,
    pictures: Iterable[NDArray[np.uint8]],
    kept_nodes: Sequence[str],
    weight_bits: Literal[7, 8],
) -> GraphSpec:
    """Quantize the convolutions of a graph as OpenVINO likes it best: where they read, not from one to the next.

    Weights are symmetric int8 with a scale per output channel. What a convolution reads is uint8 between its least and
    its largest value over the pictures. Biases and all else stay in float.

    Args:
        pictures: letterboxed, (H, W, 3) uint8 BGR.
        kept_nodes: names of convolutions that stay in float.
        weight_bits: with 7, sums of two products fit 16 bits.

    Raises:
        PictureUnusable: whatever gives ``pictures`` found so.
        QuantizationError: ONNX Runtime cannot quantize the graph, or gives one that does not validate.
    """
    with _quiet():
        try:
            quantize_static(
                source,
                target,
                _Pictures(iter(pictures)),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=["Conv"],
                per_channel=True,
                reduce_range=weight_bits == 7,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=list(kept_nodes),
                calibrate_method=CalibrationMethod.MinMax,
                extra_options={
                    "WeightSymmetric": True,
                    "ActivationSymmetric": False,
                    "OpTypesToExcludeOutputQuantization": ["Conv"],
                    "QuantizeBias": False,
                },
            )
            model = onnx.load(target)
            onnx.checker.check_model(model, full_check=True)
        except PictureUnusable:
            raise
        except Exception as error:  # of ONNX Runtime, protobuf and the checker
            raise QuantizationError(f"{source} cannot be quantized: {error}") from error
    return describe_graph(target, model)


def describe_graph(path: Path, model: onnx.ModelProto) -> GraphSpec:
    """Count what is in a graph that lies at ``path``."""
    kinds = Counter(node.op_type for node in model.graph.node)
    return GraphSpec(
        file=path.name,
        opset=next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")),
        nodes=len(model.graph.node),
        batch_normalization_nodes=kinds["BatchNormalization"],
        bytes=path.stat().st_size,
    )


class _Pictures(CalibrationDataReader):  # type: ignore[misc]
    """Letterboxed pictures, one after the other, as the quantizer asks for them."""

    def __init__(self, pictures: Iterator[NDArray[np.uint8]]) -> None:
        """Hand out ``pictures``, (H, W, 3) each."""
        self._left = pictures

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        """The next picture as a batch of one; None after the last."""
        picture = next(self._left, None)
        return None if picture is None else {INPUT: picture[None]}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the quantizer's advice to optimise the graph first, which would rename what is kept in float."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(before)

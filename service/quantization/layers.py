"""Which convolutions int8 takes, and why the others stay in float."""

import math
from dataclasses import dataclass
from typing import Literal

import onnx

from service.bundle.health import MIN_SQNR_DB
from service.bundle.int8 import FloatConvolution
from service.bundle.store import Bundle

#: Steps twice as large make four times the noise.
_DB_OF_A_BIT = 10 * math.log10(4)
_PREFIX, _SUFFIX = "network.", ".weight"


@dataclass(frozen=True)
class Convolutions:
    """The convolutions of the deployed graph.

    Attributes:
        quantized: names of their nodes in the graph.
        kept: those that stay in float, and why.
        kept_nodes: names of their nodes.
    """

    quantized: list[str]
    kept: list[FloatConvolution]
    kept_nodes: list[str]


def choose_convolutions(bundle: Bundle, graph: onnx.GraphProto, weight_bits: Literal[7, 8]) -> Convolutions:
    """Divide the convolutions of the deployed graph, in its order."""
    reasons = _Reasons(bundle, _DB_OF_A_BIT if weight_bits == 7 else 0.0)
    quantized: list[str] = []
    kept: list[FloatConvolution] = []
    kept_nodes: list[str] = []
    for node in graph.node:
        if node.op_type != "Conv":
            continue
        conv = module_path(node)
        reason = reasons.against(conv)
        if reason is None:
            quantized.append(node.name)
        else:
            kept.append(FloatConvolution(conv=conv, reason=reason))
            kept_nodes.append(node.name)
    return Convolutions(quantized, kept, kept_nodes)


def module_path(conv: onnx.NodeProto) -> str:
    """By the name of its weights, such as ``network.model.0.conv.weight``; else that name itself."""
    return str(conv.input[1]).removeprefix(_PREFIX).removesuffix(_SUFFIX)


class _Reasons:
    """What the bundle knows of its layers."""

    def __init__(self, bundle: Bundle, lost_db: float) -> None:
        self._lost_db = lost_db
        self._head = {conv.name for block in bundle.layers.blocks if block.stage == "head" for conv in block.convs}
        convs = {layer.name: layer.conv for layer in bundle.batchnorm.layers}
        self._weights = {convs[layer.name]: layer.weights for layer in bundle.health.layers if layer.weights}

    def against(self, conv: str) -> str | None:
        """Why a convolution stays in float; None if it does not."""
        if conv in self._head:
            return "it lies in the head, which gives boxes and scores"
        if "attn" in conv.split("."):
            return "it lies in attention"
        weights = self._weights.get(conv)
        if weights is None:
            return "no BatchNorm was folded into it, so the bundle does not say what int8 does to its weights"
        kept_db = weights.sqnr_per_channel_db  # None where nothing is lost
        if kept_db is not None and (weights.int8_scheme == "float" or kept_db - self._lost_db < MIN_SQNR_DB):
            return (
                f"its folded weights keep {kept_db - self._lost_db:.1f} dB in int8 with one scale per channel, and "
                f"{MIN_SQNR_DB:g} are asked"
            )
        return None

"""Is the deployed graph the reference graph with its BatchNorm folded, and nothing else? Told from the two files.

A picture shows a wrong fold only where it excites the channel, so every weight is reckoned anew: in float64, from
formulae, by none of the code that folds.
"""

import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.bundle.graph_file import Graph, Node, Tensor, UnclearGraph, read_graph
from service.bundle.store import Bundle
from service.errors import BundleUncertified

_CONVOLUTIONS = ("Conv", "ConvTranspose")
_BATCH_NORM = "BatchNormalization"
#: A fold is rounded to float32 once, and eps, which the reference holds in float32, by at most half as much again.
_ROUNDING = 2.0**-23
_SMALLEST = float(np.finfo(np.float32).smallest_subnormal)


class _Different(Exception):
    """What differs, in words."""


def require_folded_graph(bundle: Bundle) -> None:
    """Check that the graph a bundle deploys is the fold of its reference graph.

    Raises:
        BundleUncertified: it is not.
    """
    flaw = find_graph_flaw(bundle.reference_graph, bundle.deployed_graph, len(bundle.certificate.layers))
    if flaw:
        raise BundleUncertified(f"The certificate in {bundle.path} does not hold: {flaw}. Prepare it again.")


def find_graph_flaw(reference: Path, deployed: Path, folded: int) -> str | None:
    """What keeps ``deployed`` from being ``reference`` with so many BatchNorm ``folded``, in words; None if nothing.

    Args:
        reference, deployed: ONNX files that were exported from the same network.
    """
    graphs = list[Graph]()
    for path in (reference, deployed):
        try:
            graphs.append(read_graph(path))
        except UnclearGraph as error:
            return f"{path.name} {error}"
        except (OSError, ValueError, IndexError):
            return f"{path.name} is not an ONNX file"
    try:
        found = _Comparison(*graphs).count_folded()
    except _Different as difference:
        return f"{deployed.name} is not {reference.name} with its BatchNorm folded: {difference}"
    except (ValueError, IndexError, struct.error):
        return f"{deployed.name} or {reference.name} holds a node that lacks a part, or a damaged one"
    if found != folded:
        return f"{found} BatchNorm of {reference.name} are folded in {deployed.name}, not {folded}"
    return None


class _Comparison:
    """Walks through both graphs at once: the folded BatchNorm are the only nodes that one has and the other lacks."""

    def __init__(self, reference: Graph, deployed: Graph) -> None:
        self._reference, self._deployed = reference, deployed
        self._left: Iterator[Node] = iter(deployed.nodes)
        self._next = next(self._left, None)
        #: By the name of a value of the reference that of the same one of the deployed graph.
        self._same = {name: name for name in reference.inputs}
        #: By what they give in the reference, convolutions whose weights have not been compared.
        self._convs: dict[str, tuple[Node, Node]] = {}
        self._readers = Counter([*(name for node in reference.nodes for name in node.inputs), *reference.outputs])

    def count_folded(self) -> int:
        """How many BatchNorm were folded.

        Raises:
            _Different: anything else differs.
        """
        if self._reference.frame != self._deployed.frame:
            raise _Different("they differ in their inputs, outputs or operator set")
        folded = 0
        for node in self._reference.nodes:
            if node.operator == _BATCH_NORM and not self._stays(node):
                self._fold(node)
                folded += 1
            else:
                self._pair(node)
        if self._next is not None:
            raise _Different(f"{self._next.name} is not in the reference")
        for conv, own in self._convs.values():
            self._require_same_inputs(conv, own)
        if [self._same.get(name) for name in self._reference.outputs] != self._deployed.outputs:
            raise _Different("its output is another value")
        return folded

    def _stays(self, norm: Node) -> bool:
        """The deployed graph goes on with the same BatchNorm."""
        own = self._next
        return own is not None and own.kind == norm.kind and self._same_inputs(norm, own)

    def _pair(self, node: Node) -> None:
        own, self._next = self._next, next(self._left, None)
        if own is None or own.kind != node.kind or len(own.outputs) != len(node.outputs):
            raise _Different(f"where the reference has {node.name} it has {own.name if own else 'nothing'}")
        self._same |= zip(node.outputs, own.outputs, strict=True)
        if node.operator in _CONVOLUTIONS:
            if not self._same_value(node.inputs[0], own.inputs[0]):
                raise _Different(f"{own.name} reads another value")
            self._convs[node.outputs[0]] = node, own
        else:
            self._require_same_inputs(node, own)

    def _require_same_inputs(self, node: Node, own: Node) -> None:
        if not self._same_inputs(node, own):
            raise _Different(f"{own.name} has other weights, constants or inputs")

    def _same_inputs(self, node: Node, own: Node) -> bool:
        return len(node.inputs) == len(own.inputs) and all(map(self._same_value, node.inputs, own.inputs))

    def _same_value(self, name: str, own: str) -> bool:
        constant, held = self._reference.tensors.get(name), self._deployed.tensors.get(own)
        if constant is None or held is None:
            return constant is held and self._same.get(name, "") == own
        return constant.content == held.content

    def _fold(self, norm: Node) -> None:
        """Leave a BatchNorm out and hold the convolution before it to what it should have become."""
        conv, own = self._convs.pop(norm.inputs[0], (None, None))
        if conv is None or own is None or self._readers[norm.inputs[0]] != 1:
            raise _Different(f"{norm.name} is gone, and no convolution can stand for it")
        if len(norm.outputs) != 1 or norm.number("training_mode", 0):
            raise _Different(f"{norm.name} is gone, which works on the statistics of its own input")
        self._same[norm.outputs[0]] = own.outputs[0]
        try:
            wrong = _wrong_channels(
                conv, norm, self._constants(self._reference, conv, norm), self._constants(self._deployed, own)
            )
        except (ValueError, KeyError, IndexError) as error:
            raise _Different(f"{own.name} does not hold weights and a bias that fit {norm.name}") from error
        if len(wrong):
            raise _Different(
                f"the weights of {own.name} are not those of the fold of {norm.name}, in {len(wrong)} of its channels, "
                f"channel {wrong[0]} first"
            )

    @staticmethod
    def _constants(graph: Graph, *nodes: Node) -> list[Tensor]:
        """All that these nodes read besides their first inputs."""
        return [graph.tensors[name] for node in nodes for name in node.inputs[1:] if name]


def _wrong_channels(conv: Node, norm: Node, before: list[Tensor], after: list[Tensor]) -> NDArray[np.intp]:
    """Channels of a convolution whose weights or bias are not those that folding gives.

    Args:
        before: weight, bias if it has one, gamma, beta, mean and variance in the reference.
        after: weight and bias of the folded convolution.

    Raises:
        ValueError: shapes do not fit each other, or something is not float32.
    """
    weight, *bias, gamma, beta, mean, variance = (tensor.floats().astype(np.float64) for tensor in before)
    found, found_bias = (tensor.floats() for tensor in after)
    old_bias = bias[0] if bias else np.zeros_like(gamma)
    shapes = {gamma.shape, beta.shape, mean.shape, variance.shape, old_bias.shape, found_bias.shape}
    if found.shape != weight.shape or shapes != {(len(gamma),)}:
        raise ValueError("other shapes")
    with np.errstate(all="ignore"):  # what is no number compares as wrong
        scale = gamma / np.sqrt(variance + norm.number("epsilon", 1e-5))
        expected = _by_channel(conv, weight) * scale[:, None]
        apart = np.abs(_by_channel(conv, found) - expected)
        right = (apart <= _ROUNDING * np.abs(expected) + _SMALLEST).all(axis=1)
        expected_bias = (old_bias - mean) * scale + beta
        terms = (np.abs(old_bias) + np.abs(mean)) * np.abs(scale) + np.abs(beta)
        right &= np.abs(found_bias - expected_bias) <= _ROUNDING * terms + _SMALLEST
    return np.flatnonzero(~right)


def _by_channel(conv: Node, weight: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """Weights of a convolution as (output channels, all others)."""
    if conv.operator == "Conv":
        return weight.reshape(len(weight), -1)
    # A transposed one stores (in, out / groups, kh, kw): output channels are spread over groups of inputs.
    groups = int(conv.number("group", 1))
    grouped = weight.reshape(groups, len(weight) // groups, weight.shape[1], -1)
    return grouped.transpose(0, 2, 1, 3).reshape(groups * weight.shape[1], -1)

"""Which dead channels can be removed from the folded network, what that changes and what it saves.

A channel is followed from its convolution through the recorded operations to every convolution that reads it. What it
reads is a constant, so its share of each reader's sum can move into that reader's bias: exactly, unless the reader pads
its input with zeros, where the constant is missing at the border. Anything that is not known to keep channels apart
ends the judgement: it is unknown, with the reason.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import nn

from service.bundle.health import ChannelReader, DeadChannel, Savings
from service.prepare.dataflow import ACTIVATIONS, BatchNormSite
from service.prepare.layer_figures import activate
from service.prepare.operations import Operation, OperationGraph

_FLOAT32_BYTES = 4
#: Functions that give every channel on as it is. Maximum pooling pads with minus infinity, so a constant stays one.
_KEEPS_CHANNELS = frozenset({"max_pool2d", "detach", "contiguous", "clone"})
_JOINS, _DIVIDES = frozenset({"cat", "concat", "concatenate"}), frozenset({"chunk", "split"})
#: What else stands in the way more often; everything without a name here is refused just the same.
_OBSTACLES = {
    "add": "It is added to another tensor, whose channel of that number lives on.",
    "mul": "It is multiplied by another tensor.",
    "view": "It is reshaped, as in attention, behind which its channel is not followed.",
}


class _Unknown(Exception):
    """The dataflow does not tell; the text says what is in the way."""


@dataclass
class _Removed:
    """Channels of one convolution that go: its outputs and its inputs."""

    outputs: set[int] = field(default_factory=set)
    inputs: set[int] = field(default_factory=set)


@dataclass
class _Walk:
    """One channel on its way to its readers."""

    pending: list[tuple[int, int, float]]
    readers: list[ChannelReader] = field(default_factory=list)
    borders: list[str] = field(default_factory=list)


class Ledger:
    """Judges dead channels of one folded network."""

    def __init__(self, folded: nn.Module, graph: OperationGraph, positions: dict[str, int]) -> None:
        """
        Args:
            folded: float32; every convolution under the path by which ``graph`` and ``positions`` call it.
            graph: what was recorded of it.
            positions: where each convolution multiplies at the served input size, from ``conv_positions``.
        """
        self._graph, self._positions = graph, positions
        self._convs = {name: folded.get_submodule(name) for name in graph.conv_outputs}
        self._removed: dict[tuple[str, int], dict[str, _Removed]] = {}

    def judge(self, site: BatchNormSite, channel: int, mean: float, std: float) -> DeadChannel:
        """One dead channel of a folded BatchNorm.

        Args:
            mean, std: of the BatchNorm's output under its running statistics. A channel whose folded weights are all
                zero gives exactly its folded bias, whatever they say.
        """
        conv = self._convs[str(site.conv)]
        assert isinstance(conv.weight, nn.Parameter) and isinstance(conv.bias, nn.Parameter)
        try:
            _require_separable(conv)
            constant = not bool(conv.weight[channel].any())
            if constant:
                mean, std = float(conv.bias[channel]), 0.0
            walk = self._follow(str(site.conv), channel, mean)
        except _Unknown as reason:
            return not_judged(site.name, channel, mean, std, str(reason))
        removed = self._removed[site.name, channel] = self._removals(str(site.conv), channel, walk)
        saved = self._savings([removed])
        return DeadChannel(
            layer=site.name,
            channel=channel,
            mean=mean,
            std=std,
            removal=("border" if walk.borders else "exact") if constant else "approximate",
            reason=_reason(walk, constant),
            readers=walk.readers,
            macs=saved.macs,
            bytes=saved.bytes,
        )

    def joint_savings(self, channels: Iterable[DeadChannel]) -> Savings:
        """What removing these judged channels together saves; weights between two of them count once."""
        return self._savings([self._removed[entry.layer, entry.channel] for entry in channels])

    def macs(self) -> int:
        """Multiply-accumulates of every convolution that runs."""
        return sum(self.macs_of_each().values())

    def macs_of_each(self) -> dict[str, int]:
        """Multiply-accumulates of each convolution that runs, by module path."""
        return {name: self._positions[name] * _weights(conv) for name, conv in self._convs.items()}

    def _follow(self, conv: str, channel: int, constant: float) -> _Walk:
        if self._graph.conv_calls[conv] > 1:
            raise _Unknown(f"{conv} runs {self._graph.conv_calls[conv]} times in one pass.")
        walk = _Walk([(self._graph.conv_outputs[conv], channel, constant)])
        while walk.pending:
            value, channel, constant = walk.pending.pop(0)
            if value in self._graph.results:
                raise _Unknown("It leaves the network as part of its answer.")
            for operation in self._graph.readers.get(value, ()):
                self._pass(operation, value, channel, constant, walk)
        return walk

    def _pass(self, operation: Operation, value: int, channel: int, constant: float, walk: _Walk) -> None:
        """Take a channel of ``value`` through one operation that reads it."""
        if operation.conv is not None:
            self._read(operation, channel, constant, walk)
        elif operation.name in ACTIVATIONS:
            walk.pending.append((operation.outputs[0], channel, _activated(operation.name, constant)))
        elif operation.name in _KEEPS_CHANNELS or (operation.name, operation.mode) == ("interpolate", "nearest"):
            walk.pending.append((operation.outputs[0], channel, constant))
        elif operation.name in _JOINS and operation.dim == 1:
            offset = 0
            for part in operation.inputs:
                if part == value:
                    walk.pending.append((operation.outputs[0], offset + channel, constant))
                offset += self._graph.channels[part]
        elif operation.name in _DIVIDES and operation.dim == 1:
            for part in operation.outputs:
                if 0 <= channel < self._graph.channels[part]:
                    walk.pending.append((part, channel, constant))
                channel -= self._graph.channels[part]
        else:
            raise _Unknown(
                _OBSTACLES.get(operation.name, f"It goes through {operation.name!r}, behind which it is not followed.")
            )

    def _read(self, operation: Operation, channel: int, constant: float, walk: _Walk) -> None:
        name = str(operation.conv)
        conv = self._convs[name]
        if not isinstance(conv, nn.Conv2d):
            raise _Unknown(f"The transposed convolution {name} reads it, whose sums differ from place to place.")
        if self._graph.conv_calls[name] > 1:
            raise _Unknown(f"{name} reads it, which runs {self._graph.conv_calls[name]} times in one pass.")
        walk.readers.append(ChannelReader(conv=name, channel=channel, constant=constant))
        weights = _input_weights(name, conv, channel)
        if constant != 0 and weights.any() and _is_padded(conv):
            walk.borders.append(name)
        if _is_depthwise(conv):
            # Its own channel of that number reads nothing else, so it is constant too and goes as well.
            bias = 0.0 if conv.bias is None else float(conv.bias[channel])
            walk.pending.append((operation.outputs[0], channel, constant * float(weights.sum()) + bias))

    def _removals(self, conv: str, channel: int, walk: _Walk) -> dict[str, _Removed]:
        removed: dict[str, _Removed] = defaultdict(_Removed)
        removed[conv].outputs.add(channel)
        for reader in walk.readers:
            depthwise = _is_depthwise(self._convs[reader.conv])
            (removed[reader.conv].outputs if depthwise else removed[reader.conv].inputs).add(reader.channel)
        return dict(removed)

    def _savings(self, removals: list[dict[str, _Removed]]) -> Savings:
        merged: dict[str, _Removed] = defaultdict(_Removed)
        for removal in removals:
            for name, removed in removal.items():
                merged[name].outputs |= removed.outputs
                merged[name].inputs |= removed.inputs
        macs = parameters = 0
        for name, removed in merged.items():
            conv = self._convs[name]
            weights = _weights(conv) - _weights(conv, removed)
            macs += self._positions[name] * weights
            parameters += weights + (0 if conv.bias is None else len(removed.outputs))
        return Savings(channels=len(removals), macs=macs, bytes=_FLOAT32_BYTES * parameters)


def not_judged(layer: str, channel: int, mean: float, std: float, reason: str) -> DeadChannel:
    """The entry of a dead channel of which the dataflow does not tell what its removal would change."""
    return DeadChannel(
        layer=layer,
        channel=channel,
        mean=mean,
        std=std,
        removal="unknown",
        reason=reason,
        readers=[],
        macs=None,
        bytes=None,
    )


def _require_separable(conv: nn.Module) -> None:
    """Refuse a convolution that cannot lose one output channel and keep its inputs."""
    if not isinstance(conv, nn.Conv2d):
        raise _Unknown("Its convolution is transposed.")
    if conv.groups > 1:
        kind = "depthwise" if _is_depthwise(conv) else "grouped"
        raise _Unknown(f"Its convolution is {kind}: the input channels that only it reads would have to go with it.")
    if conv.out_channels == 1:
        raise _Unknown("It is the only channel of its convolution.")


def _weights(conv: nn.Module, removed: _Removed | None = None) -> int:
    """Number of weights of a convolution, without what is removed. Its positions times this are its MACs."""
    assert isinstance(conv, nn.Conv2d | nn.ConvTranspose2d)
    taps = int(np.prod(conv.kernel_size))
    removed = removed or _Removed()
    if conv.groups > 1:
        return taps * conv.in_channels // conv.groups * (conv.out_channels - len(removed.outputs))
    return taps * (conv.in_channels - len(removed.inputs)) * (conv.out_channels - len(removed.outputs))


def _is_depthwise(conv: nn.Module) -> bool:
    return isinstance(conv, nn.Conv2d) and conv.groups == conv.in_channels == conv.out_channels > 1


def _is_padded(conv: nn.Conv2d) -> bool:
    if isinstance(conv.padding, str):
        return conv.padding == "same" and any(size > 1 for size in conv.kernel_size)
    return any(conv.padding)


def _input_weights(name: str, conv: nn.Conv2d, channel: int) -> NDArray[np.float64]:
    """The weights by which a convolution multiplies one of its input channels."""
    if conv.groups > 1 and not _is_depthwise(conv):
        raise _Unknown(f"The grouped convolution {name} reads it, whose groups have to stay equal.")
    own = conv.weight[channel] if _is_depthwise(conv) else conv.weight[:, channel]
    return np.asarray(own.detach().numpy(), np.float64)


def _activated(function: str, constant: float) -> float:
    result = activate(ACTIVATIONS[function], np.array([constant]))
    if result is None:
        raise _Unknown(f"It goes through the activation {ACTIVATIONS[function]}, which is not evaluated here.")
    return float(result[0])


def _reason(walk: _Walk, constant: bool) -> str:
    padded = f"{', '.join(walk.borders)} pads its input with zeros"
    if not constant:
        varies = "It hardly varied in training, but its folded weights are not all zero: another input may move it."
        return (
            f"{varies} It is not zero either, and {padded}, so more changes near borders." if walk.borders else varies
        )
    if walk.borders:
        return f"It is constant but not zero, and {padded}."
    return "It is constant, and every convolution that reads it can take it into its bias."

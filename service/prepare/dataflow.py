"""Which convolution feeds which BatchNorm, observed while the network runs rather than guessed from names."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)

#: Torch functions that are activations, and the name of each.
ACTIVATIONS = {
    "silu": "SiLU",
    "relu": "ReLU",
    "relu_": "ReLU",
    "relu6": "ReLU6",
    "leaky_relu": "LeakyReLU",
    "hardswish": "Hardswish",
    "hardtanh": "ReLU6",
    "gelu": "GELU",
    "mish": "Mish",
    "elu": "ELU",
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "prelu": "PReLU",
}
IDENTITY = "Identity"


@dataclass(frozen=True)
class BatchNormSite:
    """Where one executed BatchNorm2d sits.

    Attributes:
        name: its module path.
        conv: module path of the convolution whose output it normalises, None when there is no single one.
        activation: function its output goes through first; "Identity" when that is not an activation.
        obstacle: why it cannot be folded into ``conv``, None when it can.
        calls: how often it runs in one pass; what runs several times has an obstacle.
        behind: every convolution whose output it normalises; several where it runs several times.
    """

    name: str
    conv: str | None
    activation: str
    obstacle: str | None
    calls: int = 1
    behind: tuple[str, ...] = ()


@dataclass(frozen=True)
class Dataflow:
    """What one forward pass showed.

    Attributes:
        sites: executed BatchNorms in execution order, by module path.
        conv_activations: activation behind each executed convolution without a BatchNorm, by module path.
    """

    sites: dict[str, BatchNormSite]
    conv_activations: dict[str, str]


@dataclass
class _Trace:
    # Tensors are identified by id(), so every one seen is kept alive until the trace is read.
    alive: list[Any] = field(default_factory=list)
    consumers: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    conv_of_output: dict[int, str] = field(default_factory=dict)
    conv_outputs: dict[str, int] = field(default_factory=dict)
    inputs: dict[str, int] = field(default_factory=dict)
    convs: dict[str, list[str | None]] = field(default_factory=lambda: defaultdict(list))
    outputs: dict[str, int] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)


class _ConsumerRecorder(TorchFunctionMode):
    """Notes, for each tensor, the functions that read it and give a tensor back (shape queries do not count)."""

    def __init__(self, trace: _Trace) -> None:
        super().__init__()
        self._trace = trace

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(True for _ in tensors_in(result)):
            inputs = list(tensors_in((args, kwargs or {})))
            self._trace.alive.extend((inputs, result))
            for tensor in inputs:
                self._trace.consumers[id(tensor)].append(getattr(func, "__name__", str(func)))
        return result


def observe_dataflow(network: nn.Module, side: int = 64) -> Dataflow:
    """Run ``network`` once on a (1, 3, side, side) float32 blank and record what feeds each BatchNorm2d.

    The network must be in eval mode and is left as it was. ``side`` must be a multiple of its largest stride.
    """
    trace = _Trace()
    handles = list(_register(network, trace))
    try:
        with torch.no_grad(), _ConsumerRecorder(trace):
            result = network(torch.zeros(1, 3, side, side))
    finally:
        for handle in handles:
            handle.remove()
    for tensor in tensors_in(result):
        trace.consumers[id(tensor)].append("network output")
    modules = dict(network.named_modules())
    sites = {name: _site(name, modules[name], trace) for name in trace.inputs}
    normalised = {conv for site in sites.values() for conv in site.behind}
    plain = {n: _activation(trace, out) for n, out in trace.conv_outputs.items() if n not in normalised}
    return Dataflow(sites, plain)


def _register(network: nn.Module, trace: _Trace) -> Iterator[RemovableHandle]:
    for name, module in network.named_modules():
        if isinstance(module, CONVOLUTIONS):
            yield module.register_forward_hook(_conv_hook(name, trace))
        elif isinstance(module, nn.BatchNorm2d):
            yield module.register_forward_hook(_batchnorm_hook(name, trace))


def _conv_hook(name: str, trace: _Trace) -> Any:
    def hook(_: nn.Module, __: Any, output: torch.Tensor) -> None:
        trace.calls[name] += 1
        trace.alive.append(output)
        trace.conv_of_output[id(output)] = name
        trace.conv_outputs[name] = id(output)

    return hook


def _batchnorm_hook(name: str, trace: _Trace) -> Any:
    def hook(_: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        trace.calls[name] += 1
        trace.alive.extend((inputs, output))
        trace.inputs[name], trace.outputs[name] = id(inputs[0]), id(output)
        trace.convs[name].append(trace.conv_of_output.get(id(inputs[0])))

    return hook


def _site(name: str, batchnorm: nn.Module, trace: _Trace) -> BatchNormSite:
    found = dict.fromkeys(trace.convs[name])
    conv = next(iter(found)) if len(found) == 1 else None
    behind = tuple(other for other in found if other is not None)
    activation = _activation(trace, trace.outputs[name])
    return BatchNormSite(name, conv, activation, _obstacle(name, conv, batchnorm, trace), trace.calls[name], behind)


def _obstacle(name: str, conv: str | None, batchnorm: nn.Module, trace: _Trace) -> str | None:
    if getattr(batchnorm, "running_var", None) is None:
        return "it keeps no running statistics, so it normalises by each batch's own"
    if trace.calls[name] > 1:
        return f"it is executed {trace.calls[name]} times in one pass"
    if conv is None:
        return "its input is not the output of a convolution"
    if trace.calls[conv] > 1:
        return f"the convolution {conv} before it is executed {trace.calls[conv]} times in one pass"
    readers = len(trace.consumers[trace.inputs[name]])
    if readers > 1:
        return f"the output of the convolution {conv} before it is read in {readers} places"
    return None


def _activation(trace: _Trace, output: int) -> str:
    readers = trace.consumers.get(output) or [IDENTITY]
    return ACTIVATIONS.get(readers[0], IDENTITY)


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """Every tensor in nested dictionaries, lists and tuples, in order."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_in(item)

"""The functions a network runs, recorded as a graph: which values each one reads and which it gives."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from service.prepare.dataflow import CONVOLUTIONS, tensors_in

#: Where ``dim`` stands among the positional arguments.
_DIM_POSITION = {"cat": 1, "concat": 1, "concatenate": 1, "chunk": 2, "split": 2}
_MODE_POSITION = 3  # of ``interpolate``
#: Functions that look at the type of a tensor only: how many of their first arguments' values they really read.
_VALUES_READ = {"type_as": 1, "new_full": 0, "new_zeros": 0, "new_ones": 0, "zeros_like": 0, "full_like": 0}


@dataclass(frozen=True)
class Operation:
    """One call of a torch function. Values are numbered in the order in which they appear.

    Attributes:
        name: the function's name, such as "conv2d" or "silu".
        inputs: the values it reads, in the order of its arguments; of a convolution only what it convolves,
            and nothing of which a function looks at the type only.
        outputs: the values it gives.
        conv: module path of the convolution whose weights it uses, None for every other function.
        dim: the dimension it works along, counted from the front; None where that has no meaning.
        mode: how ``interpolate`` fills the gaps.
    """

    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    conv: str | None
    dim: int | None
    mode: str | None


@dataclass(frozen=True)
class OperationGraph:
    """What one run showed.

    Attributes:
        operations: in the order in which they ran.
        readers: the operations that read each value.
        channels: size of dimension 1 of each value that has four dimensions.
        results: the values the network answers with.
        conv_outputs: the value each convolution gave, by module path; the last one of several calls.
        conv_calls: how often each convolution ran.
    """

    operations: list[Operation] = field(default_factory=list)
    readers: dict[int, list[Operation]] = field(default_factory=lambda: defaultdict(list))
    channels: dict[int, int] = field(default_factory=dict)
    results: set[int] = field(default_factory=set)
    conv_outputs: dict[str, int] = field(default_factory=dict)
    conv_calls: Counter[str] = field(default_factory=Counter)


def record_operations(network: nn.Module, run: Callable[[], object]) -> OperationGraph:
    """Call ``run``, which runs ``network`` once without gradients, and record every torch function it calls."""
    recorder = _Recorder(network)
    with torch.no_grad(), recorder:
        result = run()
    recorder.graph.results.update(recorder.number(tensor) for tensor in tensors_in(result))
    return recorder.graph


def conv_positions(network: nn.Module, run: Callable[[], object]) -> dict[str, int]:
    """Positions (height times width) at which each convolution multiplies, summed over its calls while ``run`` runs.

    They are those of its output, of a transposed convolution those of its input; times the number of its weights
    they give its multiply-accumulates.
    """
    positions: Counter[str] = Counter()

    def count(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            places = args[0] if isinstance(module, nn.ConvTranspose2d) else output
            positions[name] += places.shape[-2] * places.shape[-1]

        return hook

    convs = [(name, module) for name, module in network.named_modules() if isinstance(module, CONVOLUTIONS)]
    handles = [module.register_forward_hook(count(name)) for name, module in convs]
    try:
        with torch.inference_mode():
            run()
    finally:
        for handle in handles:
            handle.remove()
    return dict(positions)


class _Recorder(TorchFunctionMode):
    """Numbers tensors by identity. All of them are kept alive until the end, or an id could come back."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.graph = OperationGraph()
        self._numbers: dict[int, int] = {}
        self._given = 0
        self._alive: dict[int, torch.Tensor] = {}
        self._conv_of_weight = {
            id(module.weight): name for name, module in network.named_modules() if isinstance(module, CONVOLUTIONS)
        }

    def number(self, tensor: torch.Tensor) -> int:
        """The number of the value that ``tensor`` holds now."""
        return self._numbers[id(tensor)] if id(tensor) in self._numbers else self._renumber(tensor)

    def _renumber(self, tensor: torch.Tensor) -> int:
        self._given += 1
        self._alive[id(tensor)] = tensor
        self._numbers[id(tensor)] = self._given
        if tensor.ndim == 4:
            self.graph.channels[self._given] = tensor.shape[1]
        return self._given

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", str(func))
        read = list(tensors_in((args, kwargs)))
        inputs = tuple(self.number(tensor) for tensor in read)
        result = func(*args, **kwargs)
        given = list(tensors_in(result))
        if given or name == "__setitem__":
            changed = {id(tensor) for tensor in read} & {id(tensor) for tensor in given}
            if name == "__setitem__":
                changed.add(id(args[0]))
            for identity in changed:
                self._note_shared_memory(identity)
            self._record(name, args, kwargs, inputs, given)
        return result

    def _record(
        self, name: str, args: Any, kwargs: Mapping[str, Any], inputs: tuple[int, ...], given: list[torch.Tensor]
    ) -> None:
        conv = self._conv_of_weight.get(id(args[1])) if name.startswith("conv") and len(args) > 1 else None
        outputs = tuple(self._renumber(tensor) for tensor in given)
        inputs = inputs[: 1 if conv is not None else _VALUES_READ.get(name)]
        if conv is not None:
            self.graph.conv_outputs[conv] = outputs[0]
            self.graph.conv_calls[conv] += 1
        self._append(Operation(name, inputs, outputs, conv, _dim(name, args, kwargs), _mode(name, args, kwargs)))

    def _note_shared_memory(self, identity: int) -> None:
        """A tensor changed in place also changes every other that shares its memory: what reads those is unknown."""
        memory = self._alive[identity].untyped_storage().data_ptr()
        for other, tensor in self._alive.items():
            if other != identity and tensor.untyped_storage().data_ptr() == memory:
                self._append(Operation("change of shared memory", (self._numbers[other],), (), None, None, None))

    def _append(self, operation: Operation) -> None:
        self.graph.operations.append(operation)
        for value in dict.fromkeys(operation.inputs):
            self.graph.readers[value].append(operation)


def _dim(name: str, args: Any, kwargs: Mapping[str, Any]) -> int | None:
    if name not in _DIM_POSITION:
        return None
    position = _DIM_POSITION[name]
    dim = int(kwargs.get("dim", args[position] if len(args) > position else 0))
    return dim % next(iter(tensors_in(args))).ndim


def _mode(name: str, args: Any, kwargs: Mapping[str, Any]) -> str | None:
    if name != "interpolate":
        return None
    return str(kwargs.get("mode", args[_MODE_POSITION] if len(args) > _MODE_POSITION else "nearest"))

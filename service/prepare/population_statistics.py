"""BatchNorm statistics of given pictures, such that each layer's are those of the network they end up in.

Precise BN (Wu and Johnson 2021, arXiv:2105.07576) lets every layer normalise by its own batch and pools what it saw.
A layer's pooled statistics are then those of inputs that each batch normalised in its own way, not of what it receives
once the pooled statistics are stored: with the embedded YOLO26n and 32 pictures in batches of 8 some channels were out
by 0.7 in the measure of ``distance``. Storing and measuring anew, all layers at once, made it worse: the deep layers
ran away. So the network is settled block by block. All pictures go through a block, its layers' statistics are stored,
and the same again until that changes nothing; then what it gives them is the input of the next. Within a block each
layer depends on those before it alone, so every round makes one more layer final and there are no more rounds than
layers.

Mean and variance are the population's over all pictures and positions: the mean of the pictures' means, and the mean of
their variances plus the variance of their means, where each picture weighs as much as it has positions. That is the
biased variance, the one BatchNorm divides by in training; torch's running average would hold n / (n - 1) times as much,
with n in the ten thousands.
"""

import copy
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from service.errors import RecalibrationError
from service.prepare.checkpoint import blocks
from service.prepare.dataflow import observe_dataflow
from service.prepare.verify import network_input

#: What the statistics a layer holds may differ from those of its input in the finished network: of any channel, the
#: mean by this share of a standard deviation, the logarithm of the variance by this much.
TOLERANCE = 1e-3
#: When a block has settled: leaves room for the rounding of float32 between here and the proof.
_SETTLED = 1e-5
#: Pictures in one forward pass, at most.
_BATCH = 4

#: Gives the letterboxed pictures, uint8 (H, W, 3) BGR, anew at each call and always the same. Sizes may differ.
Fitted = Callable[[], Iterable[NDArray[np.uint8]]]
#: Runs the network, or a part of it, on every picture, batch by batch, and says of each how many it held.
_Run = Callable[[], Iterable[int]]


@dataclass(frozen=True)
class Statistics:
    """Mean and variance of each channel of one BatchNorm's input, float64 (channels,)."""

    mean: torch.Tensor
    var: torch.Tensor


@dataclass(frozen=True)
class Recalibrated:
    """A network with new statistics.

    Attributes:
        network: a copy; only running means and variances differ from the original's.
        halves: what each half of the pictures shows by itself in the copy, by BatchNorm: how far the two lie apart
            tells what is chance. Pictures belong to them in turn, those of one size after those of another. Layers
            that never run are missing.
        residual: largest difference, in the measure of ``distance``, between what a layer holds and what storing its
            statistics once more would give.
    """

    network: nn.Module
    halves: dict[str, tuple[Statistics, Statistics]]
    residual: float


@dataclass(frozen=True)
class _Target:
    """What the statistics of a layer are to become, given those measured."""

    before: Mapping[str, Statistics]
    prior: float
    pictures: int

    def __call__(self, name: str, halves: "_Halves") -> Statistics:
        return blend(self.before[name], (halves[0] + halves[1]).statistics(), self.prior, self.pictures)


def recalibrate_network(
    network: nn.Module,
    fitted: Fitted,
    *,
    pictures: int,
    prior: float,
    scratch: Path,
    advance: Callable[[int, int], None],
) -> Recalibrated:
    """Estimate the statistics of every BatchNorm2d that runs, and store them in a copy.

    Both heads of a network that has two are estimated: each reads the neck alone, so neither disturbs the other, and
    either can be deployed from the checkpoint. A BatchNorm that never runs keeps what it has.

    Args:
        network: an Ultralytics network, float32, eval mode, all its heads, nothing folded. Left as it is.
        fitted: the pictures, letterboxed as they will be when served. Their grey border is part of what the network
            will see and hence of the statistics.
        pictures: how many ``fitted`` gives.
        prior: how many pictures the old statistics count for; see ``blend``.
        scratch: a folder for what the blocks give, of all pictures: some 14 MB each for a scale n network at 640 px.
        advance: told the blocks done, and how many there are.

    Raises:
        RecalibrationError: the network's activations are not finite numbers, or a BatchNorm runs more than once.
    """
    working = copy.deepcopy(network)
    layers = _layers(working)
    before = {name: stored(layer) for name, layer in layers.items()}
    target = _Target(before, prior, pictures)
    with torch.inference_mode():
        _require_single_runs(working)
        _settle_blocks(working, layers, _Values(scratch), fitted, target, advance)
        proof = _measure(layers, lambda: _run_network(working, fitted()))
    residual = _residual(layers, proof, target)
    if not residual <= TOLERANCE:
        raise RecalibrationError(
            f"The statistics stored differ from those of the finished network by {residual:.3g}, more than {TOLERANCE}."
        )
    # The working copy has run and holds what Ultralytics' head keeps of its last input.
    clean = copy.deepcopy(network)
    for name, layer in _layers(clean).items():
        _store(layer, stored(layers[name]))
    halves = {name: (a.statistics(), b.statistics()) for name, (a, b) in proof.items()}
    return Recalibrated(clean, halves, residual)


def _require_single_runs(network: nn.Module) -> None:
    """A layer that runs twice feeds itself: what it receives would change with what it is given to hold."""
    for site in observe_dataflow(network).sites.values():
        if site.calls > 1:
            raise RecalibrationError(
                f"{site.name} runs {site.calls} times for a picture; its statistics cannot be settled."
            )


def _run_network(network: nn.Module, fitted: Iterable[NDArray[np.uint8]]) -> Iterator[int]:
    """Run every picture and keep no answer: together they would fill the memory."""
    for batch in _batches(fitted):
        network(batch)
        yield len(batch)


def blend(source: Statistics, target: Statistics, prior: float, pictures: int) -> Statistics:
    """Old statistics counting for ``prior`` pictures, new ones for as many as they were estimated on.

    N / (N + n) source + n / (N + n) target, means and variances alike (Schneider et al. 2020, arXiv:2006.16971).
    """
    own = pictures / (prior + pictures)
    return Statistics((1 - own) * source.mean + own * target.mean, (1 - own) * source.var + own * target.var)


def distance(held: Statistics, other: Statistics, eps: float) -> float:
    """Largest difference of any channel: of the means in standard deviations, or of the logarithms of the variances.

    ``eps`` is added to the variances as the BatchNorm itself adds it. NaN if any of them is.
    """
    var, other_var = held.var + eps, other.var + eps
    means = (held.mean - other.mean).abs() / var.sqrt()
    return float(torch.maximum(means, (other_var / var).log().abs()).max())


def stored(layer: nn.BatchNorm2d) -> Statistics:
    """The running statistics a BatchNorm holds."""
    assert layer.running_mean is not None and layer.running_var is not None
    return Statistics(layer.running_mean.double().clone(), layer.running_var.double().clone())


def _store(layer: nn.BatchNorm2d, statistics: Statistics) -> None:
    assert layer.running_mean is not None and layer.running_var is not None
    layer.running_mean.copy_(statistics.mean)
    layer.running_var.copy_(statistics.var)


def _layers(network: nn.Module) -> dict[str, nn.BatchNorm2d]:
    return {name: module for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)}


# --- block by block ----------------------------------------------------------------------------------------


class _Values:
    """What blocks gave for each batch of pictures, on disk: all of it would not fit into memory. The input is -1."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._counts: dict[int, int] = {}

    def write(self, block: int, values: Iterable[torch.Tensor]) -> None:
        for number, value in enumerate(values):
            np.save(self._path(block, number), value.numpy(), allow_pickle=False)
            self._counts[block] = number + 1

    def read(self, sources: list[int]) -> Iterator[list[torch.Tensor]]:
        """For each batch what the blocks ``sources`` gave."""
        for number in range(self._counts[sources[0]]):
            yield [torch.from_numpy(np.load(self._path(block, number))) for block in sources]

    def keep_only(self, wanted: set[int]) -> None:
        for block in set(self._counts) - wanted:
            for number in range(self._counts.pop(block)):
                self._path(block, number).unlink()

    def _path(self, block: int, number: int) -> Path:
        return self._folder / f"block{block}-{number}.npy"


def _settle_blocks(
    network: nn.Module,
    layers: Mapping[str, nn.BatchNorm2d],
    values: _Values,
    fitted: Fitted,
    target: _Target,
    advance: Callable[[int, int], None],
) -> None:
    everything = blocks(network)
    values.write(-1, _batches(fitted()))
    for block in everything:
        prefix = f"model.{block.i}."
        own = {name: layer for name, layer in layers.items() if name.startswith(prefix)}
        _settle(own, lambda block=block: _run_block(block, values), target)  # type: ignore[misc]
        if block is not everything[-1]:
            values.write(block.i, _outputs(block, values))
        values.keep_only({source for later in everything[block.i + 1 :] for source in _sources(later)})
        advance(block.i + 1, len(everything))


def _run_block(block: Any, values: _Values) -> Iterator[int]:
    """Only the statistics are wanted here, so what the block gives is let go of at once."""
    for inputs in values.read(_sources(block)):
        _call(block, inputs)
        yield len(inputs[0])


def _outputs(block: Any, values: _Values) -> Iterator[torch.Tensor]:
    for inputs in values.read(_sources(block)):
        yield _call(block, inputs)


def _call(block: Any, inputs: list[torch.Tensor]) -> Any:
    """Ultralytics hands a block that reads several others a list."""
    return block(inputs[0] if isinstance(block.f, int) else inputs)


def _sources(block: Any) -> list[int]:
    """Indices of the blocks whose output a block reads; Ultralytics counts back from the block with negative ones."""
    wanted = [block.f] if isinstance(block.f, int) else block.f
    return [source if source >= 0 else block.i + source for source in wanted]


def _settle(layers: Mapping[str, nn.BatchNorm2d], run: _Run, target: _Target) -> None:
    """Store the statistics that the layers of one block measure until that changes nothing."""
    for _ in range(len(layers) + 1):
        measured = _measure(layers, run)
        residual = _residual(layers, measured, target)
        if residual <= _SETTLED:
            return
        for name, halves in measured.items():
            _store(layers[name], target(name, halves))
    if layers:
        raise RecalibrationError(
            f"The statistics of the block around {next(iter(layers))} do not settle: {residual:.3g} is left after "
            f"{len(layers) + 1} rounds. Its activations may not be finite numbers."
        )


def _residual(layers: Mapping[str, nn.BatchNorm2d], measured: "Mapping[str, _Halves]", target: _Target) -> float:
    differences = [
        distance(stored(layers[name]), target(name, halves), layers[name].eps) for name, halves in measured.items()
    ]
    # Unlike Python's, this maximum does not lose NaN.
    return float(np.max(differences, initial=0.0))


# --- measuring ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Moments:
    """Sums over positions: their number, and of each channel's values and squares, float64 (channels,)."""

    positions: int
    values: torch.Tensor
    squares: torch.Tensor

    def __add__(self, other: "_Moments") -> "_Moments":
        return _Moments(self.positions + other.positions, self.values + other.values, self.squares + other.squares)

    def statistics(self) -> Statistics:
        mean = self.values / self.positions
        return Statistics(mean, (self.squares / self.positions - mean.square()).clamp_min(0))


_NOTHING = _Moments(0, torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64))
_Halves = tuple[_Moments, _Moments]


def _moments(features: torch.Tensor) -> _Moments:
    """Moments of float32 (B, channels, H, W), of which B may be 0."""
    if not len(features):
        return _NOTHING
    # Variances about each picture's own mean first: squares of values far from zero would lose the digits that count.
    var, mean = torch.var_mean(features.double(), (2, 3), correction=0)
    positions = features.shape[2] * features.shape[3]
    return _Moments(positions * len(features), positions * mean.sum(0), positions * (var + mean.square()).sum(0))


def _measure(layers: Mapping[str, nn.BatchNorm2d], run: _Run) -> dict[str, _Halves]:
    """What each layer receives while ``run`` runs, from the pictures at even and from those at odd places."""
    behind = 0  # pictures of the batches before
    found: dict[str, _Halves] = defaultdict(lambda: (_NOTHING, _NOTHING))

    def watch(name: str) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
        def hook(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            even, odd = found[name]
            first = behind % 2
            found[name] = even + _moments(inputs[0][first::2]), odd + _moments(inputs[0][1 - first :: 2])

        return hook

    handles = [layer.register_forward_pre_hook(watch(name)) for name, layer in layers.items()]
    try:
        for pictures in run():
            behind += pictures
    finally:
        for handle in handles:
            handle.remove()
    return dict(found)


def _batches(fitted: Iterable[NDArray[np.uint8]]) -> Iterator[torch.Tensor]:
    """Pictures as the network takes them, float32 (B, 3, H, W), those of one size together."""
    waiting: dict[tuple[int, ...], list[NDArray[np.uint8]]] = defaultdict(list)
    for pixels in fitted:
        batch = waiting[pixels.shape]
        batch.append(pixels)
        if len(batch) == _BATCH:
            yield _as_input(waiting.pop(pixels.shape))
    for batch in waiting.values():
        yield _as_input(batch)


def _as_input(batch: list[NDArray[np.uint8]]) -> torch.Tensor:
    return network_input(torch.from_numpy(np.stack(batch)))

"""Two checkpoints' BatchNorm layers compared: what training on moved, what it left alone, and where they diverged."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from service.bundle.batchnorm import BatchNormLayer, Stage
from service.bundle.manifest import Record
from service.bundle.store import Bundle

Array = NDArray[np.float64]
Movement = Literal["identical", "statistics-frozen", "affine-frozen", "moved"]

_ARRAYS = ("gamma", "beta", "running_mean", "running_var")
#: A layer has diverged from this mean divergence on: it is what every mean moving by one standard deviation gives.
DIVERGED = 1.0
_STAGES: tuple[Stage, ...] = ("backbone", "neck", "head")
#: Movements that leave the running statistics where they were.
_STILL: tuple[Movement, ...] = ("identical", "statistics-frozen")


@dataclass(frozen=True)
class Side:
    """One of the two: its BatchNorm layers and their float32 arrays (channels,) under ``"<layer>/<array>"``."""

    label: str
    layers: Sequence[BatchNormLayer]
    arrays: Mapping[str, NDArray[np.float32]]


class LayerDiff(Record):
    """One BatchNorm in both checkpoints, from the first to the second."""

    name: str = Field(description="Module path of the BatchNorm.")
    stage: Stage = Field(description="Part of the network it lies in.")
    dropped: bool = Field(description="It belongs to a head that one of the two does not deploy.")
    channels: int = Field(description="Its channels.")
    movement: Movement = Field(
        description="statistics-frozen: running_mean and running_var are the same. affine-frozen: gamma and beta are."
    )
    eps_changed: bool = Field(description="eps is another one, so that the same arrays scale differently.")
    divergence_mean: float = Field(
        description="Symmetric Kullback-Leibler divergence of the running laws, mean over the channels, in nats."
    )
    divergence_max: float = Field(description="The same of the channel that moved most.")
    furthest_channel: int = Field(description="Channel of divergence_max.")
    gamma_change_rms: float = Field(description="Root mean square of the change of gamma.")
    gamma_change_max: float = Field(description="Largest absolute change of gamma.")
    beta_change_rms: float = Field(description="Root mean square of the change of beta.")
    beta_change_max: float = Field(description="Largest absolute change of beta.")


class Incomparable(Record):
    """A BatchNorm that cannot be compared."""

    name: str = Field(description="Module path of the BatchNorm.")
    reason: str = Field(description="What the two do not have in common.")


class Verdict(Record):
    """One conclusion in words."""

    code: Literal[
        "identical", "frozen", "partly-frozen", "affine-frozen", "diverged", "furthest", "eps", "heads", "incomparable"
    ] = Field(description="Stable name of the kind of conclusion.")
    message: str = Field(description="The conclusion, with its figures.")


class BatchNormDiff(Record):
    """The whole comparison."""

    schema_version: Literal[1] = Field(1, description="Rises with every change that could break a reader.")
    first: str = Field(description="Name and version of the model that is the point of departure.")
    second: str = Field(description="Name and version of the model that it is compared with.")
    verdicts: list[Verdict] = Field(
        description="What follows: first what cannot be compared, then whether the two deploy different heads, then "
        "whether eps is another one, then what was frozen, then how far the rest moved."
    )
    layers: list[LayerDiff] = Field(description="In the order of the first checkpoint.")
    incomparable: list[Incomparable] = Field(
        description="Layers that only one of the two has, or that differ in width."
    )


def side_of_bundle(bundle: Bundle) -> Side:
    """A bundle as one side of a comparison."""
    layers = bundle.batchnorm.layers
    found = bundle.all_batchnorm_arrays([layer.name for layer in layers], _ARRAYS)
    arrays = {f"{layer}/{key}": values for layer, own in found.items() for key, values in own.items()}
    return Side(f"{bundle.manifest.model.name} {bundle.manifest.model.version}", layers, arrays)


def compare_batchnorm(first: Side, second: Side) -> BatchNormDiff:
    """Compare layers of the same name and width."""
    theirs = {layer.name: layer for layer in second.layers}
    incomparable = list(_incomparable(first, second))
    refused = {item.name for item in incomparable}
    layers = [_compare(layer, theirs[layer.name], first, second) for layer in first.layers if layer.name not in refused]
    return BatchNormDiff(
        first=first.label,
        second=second.label,
        verdicts=list(_verdicts(layers, incomparable, _deployed_by_one(layers, first, second))),
        layers=layers,
        incomparable=incomparable,
    )


def symmetric_divergence(mean_a: Array, var_a: Array, mean_b: Array, var_b: Array) -> Array:
    """KL(a || b) + KL(b || a) of normal distributions: 1/2 [(va + d^2) / vb + (vb + d^2) / va] - 1, d = ma - mb.

    Args:
        mean_a, var_a, mean_b, var_b: (channels,); variances above 0.

    Returns:
        (channels,) in nats.
    """
    squared = (mean_a - mean_b) ** 2
    return 0.5 * ((var_a + squared) / var_b + (var_b + squared) / var_a) - 1.0


def _incomparable(first: Side, second: Side) -> Iterator[Incomparable]:
    ours, theirs = ({layer.name: layer for layer in side.layers} for side in (first, second))
    for name in dict.fromkeys((*ours, *theirs)):
        if name not in theirs or name not in ours:
            missing = second.label if name in ours else first.label
            yield Incomparable(name=name, reason=f"{missing} does not have it")
        elif ours[name].channels != theirs[name].channels:
            yield Incomparable(name=name, reason=f"{ours[name].channels} channels against {theirs[name].channels}")


def _compare(layer: BatchNormLayer, other: BatchNormLayer, first: Side, second: Side) -> LayerDiff:
    before, after = ({key: side.arrays[f"{layer.name}/{key}"] for key in _ARRAYS} for side in (first, second))
    wide_before, wide_after = ({key: a.astype(np.float64) for key, a in arrays.items()} for arrays in (before, after))
    # With eps, as the BatchNorm itself adds it: a channel without variance would be infinitely far from any other.
    divergence = symmetric_divergence(
        wide_before["running_mean"],
        wide_before["running_var"] + layer.eps,
        wide_after["running_mean"],
        wide_after["running_var"] + other.eps,
    )
    gamma, beta = (wide_after[key] - wide_before[key] for key in ("gamma", "beta"))
    return LayerDiff(
        name=layer.name,
        stage=layer.stage,
        dropped="dropped" in (layer.status, other.status),
        channels=layer.channels,
        movement=_movement(before, after),
        eps_changed=layer.eps != other.eps,
        divergence_mean=float(divergence.mean()),
        divergence_max=float(divergence.max()),
        furthest_channel=int(divergence.argmax()),
        gamma_change_rms=float(np.sqrt(np.square(gamma).mean())),
        gamma_change_max=float(np.abs(gamma).max()),
        beta_change_rms=float(np.sqrt(np.square(beta).mean())),
        beta_change_max=float(np.abs(beta).max()),
    )


def _movement(before: Mapping[str, NDArray[np.float32]], after: Mapping[str, NDArray[np.float32]]) -> Movement:
    statistics = all(_same(before[key], after[key]) for key in ("running_mean", "running_var"))
    affine = all(_same(before[key], after[key]) for key in ("gamma", "beta"))
    if statistics:
        return "identical" if affine else "statistics-frozen"
    return "affine-frozen" if affine else "moved"


def _same(a: NDArray[np.float32], b: NDArray[np.float32]) -> bool:
    """Equal, or equal but for the rounding to half precision with which one of the two was saved."""
    if np.array_equal(a, b):
        return True
    with np.errstate(over="ignore"):
        half_a, half_b = a.astype(np.float16), b.astype(np.float16)
    saved_in_half = np.array_equal(half_a.astype(np.float32), a) or np.array_equal(half_b.astype(np.float32), b)
    return saved_in_half and np.array_equal(half_a, half_b)


def _deployed_by_one(layers: Sequence[LayerDiff], first: Side, second: Side) -> int:
    """How many of the layers belong to the head of one of the two alone."""
    before, after = ({layer.name: layer.status == "dropped" for layer in side.layers} for side in (first, second))
    return sum(before[layer.name] != after[layer.name] for layer in layers)


def _verdicts(
    layers: Sequence[LayerDiff], incomparable: Sequence[Incomparable], deployed_by_one: int
) -> Iterator[Verdict]:
    if incomparable:
        first = incomparable[0]
        message = f"{_layers(len(incomparable))} cannot be compared, such as {first.name}: {first.reason}."
        yield Verdict(code="incomparable", message=message)
    if deployed_by_one:
        message = (
            f"The two deploy different heads: what follows leaves out {_layers(deployed_by_one)} that only one of them "
            "deploys."
        )
        yield Verdict(code="heads", message=message)
    deployed = [layer for layer in layers if not layer.dropped]
    if not deployed:
        return
    if other_eps := [layer for layer in deployed if layer.eps_changed]:
        message = (
            f"eps is another one in {_layers(len(other_eps))}, such as {other_eps[0].name}, which changes the scale."
        )
        yield Verdict(code="eps", message=message)
    if all(layer.movement == "identical" for layer in deployed):
        same = "BatchNorm is" if not other_eps else "gamma, beta and the running statistics are"
        yield Verdict(code="identical", message=f"{same} the same in all {_layers(len(deployed))}.")
        return
    yield from _frozen(deployed)
    yield from _divergence(deployed)


def _frozen(layers: Sequence[LayerDiff]) -> Iterator[Verdict]:
    still = [layer for layer in layers if layer.movement in _STILL]
    if len(still) == len(layers):
        message = f"BatchNorm was frozen: the running statistics are the same in all {_layers(len(layers))}."
        yield Verdict(code="frozen", message=f"{message} gamma or beta did move.")
    elif still:
        parts = (f"{_count(still, stage)} of {_count(layers, stage)} in the {stage}" for stage in _STAGES)
        message = f"BatchNorm was partly frozen: the running statistics are the same in {', '.join(parts)}."
        yield Verdict(code="partly-frozen", message=message)
    if all(layer.movement in ("identical", "affine-frozen") for layer in layers):
        message = f"Only the running statistics moved: gamma and beta are the same in all {_layers(len(layers))}."
        yield Verdict(code="affine-frozen", message=f"{message} That is what recalibration does.")


def _divergence(layers: Sequence[LayerDiff]) -> Iterator[Verdict]:
    # Rounding to half precision moves the figure, but nobody moved the layer.
    if not any(layer.divergence_mean > 0 and (layer.eps_changed or layer.movement not in _STILL) for layer in layers):
        return
    medians = {
        stage: float(np.median([layer.divergence_mean for layer in layers if layer.stage == stage]))
        for stage in _STAGES
        if _count(layers, stage)
    }
    ordered = sorted(medians, key=medians.__getitem__, reverse=True)
    furthest = max(layers, key=lambda layer: layer.divergence_mean)
    stages = ", ".join(f"{medians[stage]:.2g} in the {stage}" for stage in ordered)
    yield Verdict(
        code="furthest",
        message=f"The {ordered[0]} moved most. Median divergence: {stages}. The layer furthest away is {furthest.name} "
        f"with {furthest.divergence_mean:.2g}, its channel {furthest.furthest_channel} with "
        f"{furthest.divergence_max:.2g}.",
    )
    diverged = [layer for layer in layers if layer.divergence_mean >= DIVERGED]
    if diverged:
        own = {stage: [layer for layer in diverged if layer.stage == stage] for stage in _STAGES}
        parts = [f"{len(found)} in the {stage}, first {found[0].name}" for stage, found in own.items() if found]
        message = f"{_layers(len(diverged))} diverged (mean divergence of at least {DIVERGED:g}): {'; '.join(parts)}."
        yield Verdict(code="diverged", message=message)


def _count(layers: Sequence[LayerDiff], stage: Stage) -> int:
    return sum(layer.stage == stage for layer in layers)


def _layers(count: int) -> str:
    return f"{count} layer" if count == 1 else f"{count} layers"

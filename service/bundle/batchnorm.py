"""``bn_stats.json``: what every BatchNorm2d held before it was folded. Per-channel arrays lie in ``bn_stats.npz``."""

from typing import Literal

from pydantic import Field

from service.bundle.manifest import Record

ConvKind = Literal["conv", "depthwise", "pointwise", "grouped", "transposed"]
Stage = Literal["backbone", "neck", "head"]
FoldStatus = Literal["folded", "dropped", "unfoldable"]
ConvStatus = Literal["folded", "plain", "dropped", "kept"]

#: Per-channel float32 arrays of every layer, stored in ``bn_stats.npz`` under ``"<layer>/<array>"``.
ARRAYS = ("gamma", "beta", "running_mean", "running_var", "scale", "shift")

#: A channel whose normalised output has at most this standard deviation under the training statistics is dead.
DEAD_STD = 1e-3


class Distribution(Record):
    """Summary of one per-channel array; std is the population's, percentiles interpolate linearly."""

    min: float = Field(description="Smallest value.")
    p05: float = Field(description="5th percentile.")
    p25: float = Field(description="25th percentile.")
    p50: float = Field(description="Median.")
    p75: float = Field(description="75th percentile.")
    p95: float = Field(description="95th percentile.")
    max: float = Field(description="Largest value.")
    mean: float = Field(description="Arithmetic mean.")
    std: float = Field(description="Standard deviation, divided by the number of values.")


class BatchNormLayer(Record):
    """One BatchNorm2d as the checkpoint holds it."""

    name: str = Field(description="Module path of the BatchNorm.", examples=["model.0.bn"])
    conv: str | None = Field(
        description="Module path of the convolution it normalises; null when there is no single one.",
        examples=["model.0.conv"],
    )
    kind: ConvKind | None = Field(description="That convolution's kind; null when there is no single one.")
    activation: str | None = Field(
        description="Function applied to its output, Identity for none; null when it is not executed."
    )
    stage: Stage = Field(description="Part of the network it lies in; the head is its last block.")
    block: str = Field(description="Type of the top-level block it lies in.", examples=["C3k2"])
    channels: int = Field(description="Channels that it normalises: the length of every array.")
    eps: float = Field(description="Added to running_var before the square root is taken.")
    momentum: float | None = Field(
        description="Weight of each new batch in the running statistics; null for a plain average over all batches."
    )
    num_batches_tracked: int | None = Field(
        description="Batches that the checkpoint says it was trained on; null where it does not count them."
    )
    num_batches_tracked_trusted: Literal[False] = Field(
        False, description="EMA training freezes the counter, so 0 does not mean untrained."
    )
    affine: bool = Field(description="False: gamma is 1 and beta is 0, not learned.")
    status: FoldStatus = Field(
        description="folded: into its convolution. dropped: it runs only in a head that is not deployed. unfoldable:"
        " kept as it is."
    )
    reason: str | None = Field(description="Why it was dropped or cannot be folded; null when folded.")
    gamma: Distribution = Field(description="Learned factor of the normalised value, over the channels.")
    beta: Distribution = Field(
        description="Learned offset after it, over the channels: the mean of its output over the training data."
    )
    running_mean: Distribution = Field(description="Mean of its input in training, over the channels.")
    running_var: Distribution = Field(description="Variance of its input in training, over the channels.")
    scale: Distribution = Field(description="gamma / sqrt(running_var + eps), per channel.")
    shift: Distribution = Field(description="beta - running_mean * scale, per channel.")
    dead_channels: list[int] = Field(description="Output is constant: |gamma| sqrt(var / (var + eps)) <= 0.001.")
    eps_dominated_channels: list[int] = Field(description="running_var < eps: eps, not the data, sets the scale.")


class BatchNormTotals(Record):
    """Counts over all layers."""

    layers: int = Field(description="BatchNorm layers of the checkpoint, both heads included.")
    channels: int = Field(description="Channels of all of them together.")
    folded: int = Field(description="Layers folded into their convolution.")
    dropped: int = Field(description="Layers that run only in a head that is not deployed.")
    unfoldable: int = Field(description="Layers that stay in the deployed graph.")
    dead_channels: int = Field(description="In layers that are not dropped.")
    eps_dominated_channels: int = Field(description="In layers that are not dropped.")


class BatchNormReport(Record):
    """The whole of ``bn_stats.json``."""

    schema_version: Literal[1] = 1
    totals: BatchNormTotals
    layers: list[BatchNormLayer]


class ConvRecord(Record):
    """One convolution of the checkpoint, before folding."""

    name: str = Field(description="Module path of the convolution.")
    kind: ConvKind = Field(
        description="conv: dense. pointwise: dense 1x1. depthwise: one group per input channel. grouped: other "
        "groups. transposed: upsampling."
    )
    in_channels: int = Field(description="Channels it reads.")
    out_channels: int = Field(description="Channels it gives.")
    kernel: tuple[int, int] = Field(description="Rows and columns of its kernel.")
    stride: tuple[int, int] = Field(description="Steps over rows and columns.")
    groups: int = Field(description="Groups its channels are divided into; 1 for a dense one.")
    bias: bool = Field(
        description="Whether it has a bias of its own in the checkpoint; folding adds one to all that are folded."
    )
    batch_norm: str | None = Field(description="The BatchNorm2d folded (or foldable) into it; null when it has none.")
    activation: str | None = Field(
        description="Function applied to its output, after the BatchNorm if there is one, Identity for none; null when "
        "it is not executed."
    )
    status: ConvStatus = Field(
        description="folded: with its BatchNorm. plain: it never had one. dropped: it runs only in a head that is not "
        "deployed. kept: its BatchNorm cannot be folded."
    )


class BlockRecord(Record):
    """One top-level block of the network, in execution order."""

    index: int = Field(description="Its place in the network, from 0; what `inputs` refers to.")
    name: str = Field(description="Module path of the block.", examples=["model.0"])
    type: str = Field(description="Class of the module in Ultralytics.", examples=["C3k2"])
    stage: Stage = Field(description="Part of the network it belongs to; the last block is the head.")
    inputs: list[int] = Field(description="Indices of the blocks it reads; -1 is the one before it.")
    parameters: int = Field(description="Weights and biases before folding, unused head included.")
    convs: list[ConvRecord] = Field(description="Its convolutions, in the order of its modules.")


class LayerTree(Record):
    """The whole of ``layers.json``."""

    schema_version: Literal[1] = Field(1, description="Rises with every change that could break a reader.")
    blocks: list[BlockRecord] = Field(description="In the order of execution.")

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

    min: float
    p05: float
    p25: float
    p50: float
    p75: float
    p95: float
    max: float
    mean: float
    std: float


class BatchNormLayer(Record):
    """One BatchNorm2d as the checkpoint holds it."""

    name: str = Field(description="Module path of the BatchNorm.", examples=["model.0.bn"])
    conv: str | None = Field(description="Module path of the convolution it normalises.", examples=["model.0.conv"])
    kind: ConvKind | None = Field(description="That convolution's kind; None when there is no single one.")
    activation: str | None = Field(description="Function applied to its output; None when it is not executed.")
    stage: Stage
    block: str = Field(description="Type of the top-level block it lies in.", examples=["C3k2"])
    channels: int
    eps: float
    momentum: float | None = Field(description="None means a cumulative average.")
    num_batches_tracked: int | None
    num_batches_tracked_trusted: Literal[False] = Field(
        False, description="EMA training freezes the counter, so 0 does not mean untrained."
    )
    affine: bool = Field(description="False: gamma is 1 and beta is 0, not learned.")
    status: FoldStatus
    reason: str | None = Field(description="Why it was dropped or cannot be folded; None when folded.")
    gamma: Distribution
    beta: Distribution
    running_mean: Distribution
    running_var: Distribution
    scale: Distribution = Field(description="gamma / sqrt(running_var + eps), per channel.")
    shift: Distribution = Field(description="beta - running_mean * scale, per channel.")
    dead_channels: list[int] = Field(description="Output is constant: |gamma| sqrt(var / (var + eps)) <= 0.001.")
    eps_dominated_channels: list[int] = Field(description="running_var < eps: eps, not the data, sets the scale.")


class BatchNormTotals(Record):
    """Counts over all layers."""

    layers: int
    channels: int
    folded: int
    dropped: int
    unfoldable: int
    dead_channels: int = Field(description="In layers that are not dropped.")
    eps_dominated_channels: int = Field(description="In layers that are not dropped.")


class BatchNormReport(Record):
    """The whole of ``bn_stats.json``."""

    schema_version: Literal[1] = 1
    totals: BatchNormTotals
    layers: list[BatchNormLayer]


class ConvRecord(Record):
    """One convolution of the checkpoint, before folding."""

    name: str
    kind: ConvKind
    in_channels: int
    out_channels: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    groups: int
    bias: bool
    batch_norm: str | None = Field(description="The BatchNorm2d folded (or foldable) into it, None when it has none.")
    activation: str | None
    status: ConvStatus = Field(description="plain: never had a BatchNorm. kept: its BatchNorm cannot be folded.")


class BlockRecord(Record):
    """One top-level block of the network, in execution order."""

    index: int
    name: str = Field(examples=["model.0"])
    type: str = Field(examples=["C3k2"])
    stage: Stage
    inputs: list[int] = Field(description="Indices of the blocks it reads; -1 is the one before it.")
    parameters: int = Field(description="Weights and biases before folding, unused head included.")
    convs: list[ConvRecord]


class LayerTree(Record):
    """The whole of ``layers.json``."""

    schema_version: Literal[1] = 1
    blocks: list[BlockRecord]

"""``bn_health.json``: what the BatchNorm figures mean for whoever trains, quantizes, prunes or deploys the network."""

from typing import Literal, NamedTuple

from pydantic import Field

from service.bundle.batchnorm import DEAD_STD, Distribution
from service.bundle.manifest import Record

#: Part of what names a bundle, so that one with other health figures has another name.
SCHEMA_VERSION: Literal[1] = 1

#: Per-channel float32 arrays of every layer, in ``bn_stats.npz`` beside those of ``batchnorm.ARRAYS``.
HEALTH_ARRAYS = ("law_mean", "law_std", "expected_low", "expected_high")

#: |gamma| from which down a channel counts as weak; network slimming (arXiv:1708.06519) prunes by |gamma|.
WEAK_GAMMA = 0.01
#: A layer has collapsed when at least this share of its channels is dead or weak.
COLLAPSED_SHARE = 0.5
#: running_var below this share of eps: the normalised output has less than a tenth of the deviation |gamma| promises.
TINY_VARIANCE_OF_EPS = 0.01
#: Half-width of the expected range in standard deviations, as in data-free quantization (arXiv:1906.04721).
RANGE_STDS = 6.0
#: Least signal-to-noise ratio of int8 weights: 30 dB is an error of 3 % of the weights' root mean square.
MIN_SQNR_DB = 30.0
#: Largest over median channel peak from which on per-tensor int8 leaves the median channel less than 8 of 127 steps.
WIDE_RANGE_RATIO = 16.0
#: Share of a layer's weights below half precision's normal numbers from which on it is worth a word.
SUBNORMAL_SHARE = 0.05

Severity = Literal["critical", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = ("critical", "warning", "info")
WarningCode = Literal[
    "collapsed-layer",
    "frozen-batchnorm",
    "frozen-statistics",
    "uncalibrated-batchnorm",
    "fp16-variance-overflow",
    "fp16-weight-overflow",
    "dead-channels",
    "tiny-variance",
    "unfoldable",
    "int8-keep-float",
    "int8-wide-range",
    "eps-dominated",
    "fp16-underflow",
    "half-precision-statistics",
]
Int8Scheme = Literal["per_tensor", "per_channel", "float"]
Removal = Literal["exact", "border", "approximate", "unknown"]


class WarningKind(NamedTuple):
    """One row of the table of warnings."""

    severity: Severity
    meaning: str
    action: str


#: Every warning there is. critical: answers are wrong or will be after an ordinary export. warning: act before
#: pruning, quantizing or training on. info: good to know.
WARNING_KINDS: dict[WarningCode, WarningKind] = {
    "collapsed-layer": WarningKind(
        "critical",
        f"At least {COLLAPSED_SHARE:.0%} of the layer's channels are dead or have |gamma| of at most {WEAK_GAMMA:g}.",
        "Look at the learning rate and weight decay of this training; train again or prune the layer.",
    ),
    "frozen-batchnorm": WarningKind(
        "critical",
        "Statistics, gamma and beta are all exactly as a new BatchNorm has them: nothing was ever trained or loaded.",
        "Check that the checkpoint was loaded into this layer and that it was not frozen by mistake.",
    ),
    "uncalibrated-batchnorm": WarningKind(
        "critical",
        "running_mean is 0 and running_var is 1 in every channel, exactly as in a new BatchNorm, although gamma or "
        "beta differ or cannot be learned: the statistics were never updated.",
        "Run some training batches through the network in train mode, without gradients, before using it.",
    ),
    "fp16-variance-overflow": WarningKind(
        "critical",
        "running_var is infinite in half precision (above 65504), which silences the channel.",
        "Fold in float32 before any cast, as this service does; never save this checkpoint in half precision.",
    ),
    "fp16-weight-overflow": WarningKind(
        "critical",
        "Folded weights or biases are infinite in half precision (above 65504).",
        "Keep this layer in float32 or bfloat16.",
    ),
    "dead-channels": WarningKind(
        "warning",
        f"Channels hardly move over the training data (standard deviation of at most {DEAD_STD:g}).",
        "Prune those whose removal is exact; the ledger (detail=full) says which and what that saves.",
    ),
    "tiny-variance": WarningKind(
        "warning",
        f"running_var is below {TINY_VARIANCE_OF_EPS:g} eps: the channel's input hardly varied in training, and its "
        "scale is gamma / sqrt(eps), which amplifies whatever differs in deployment.",
        "Check what feeds these channels: dead channels before them, or training images that are all alike.",
    ),
    "frozen-statistics": WarningKind(
        "warning",
        "momentum is 0: no training batch changes running_mean and running_var, however long it goes on.",
        "Set the momentum (0.03 in Ultralytics) before training on, unless they were frozen on purpose.",
    ),
    "unfoldable": WarningKind(
        "warning",
        "The BatchNorm stays in the deployed graph.",
        "Give it a convolution of its own, read by nothing else, if its cost matters.",
    ),
    "int8-keep-float": WarningKind(
        "warning",
        f"Folded weights keep less than {MIN_SQNR_DB:g} dB in int8, even with one scale per channel.",
        "Keep this layer in float when quantizing.",
    ),
    "int8-wide-range": WarningKind(
        "warning",
        f"The widest folded channel is at least {WIDE_RANGE_RATIO:g} times as wide as the median one: with one scale "
        "for the whole tensor most channels get few steps.",
        "Quantize this layer with one scale per channel.",
    ),
    "eps-dominated": WarningKind(
        "info",
        "running_var is below eps, so eps and not the data sets the scale.",
        "Keep the layer's own eps when exporting; a default of 1e-5 would change these channels most.",
    ),
    "fp16-underflow": WarningKind(
        "info",
        f"At least {SUBNORMAL_SHARE:.0%} of the folded weights are subnormal or zero in half precision.",
        "Compare detections before serving this layer in half precision; bfloat16 keeps such numbers.",
    ),
    "half-precision-statistics": WarningKind(
        "info",
        "Every BatchNorm value of the checkpoint fits half precision exactly: it was saved so, and rounded by up to "
        "0.05 %.",
        "Fold the training run's float32 checkpoint if you need more digits.",
    ),
}


class BatchNormWarning(Record):
    """Something that deserves attention, in words."""

    code: WarningCode = Field(description="Stable name of the kind of warning.")
    severity: Severity = Field(
        description="critical: answers are wrong, or will be after an ordinary export. warning: act before pruning, "
        "quantizing or training on. info: good to know."
    )
    layer: str | None = Field(description="The BatchNorm concerned; null for the whole network.")
    message: str = Field(description="What was found and what it means.")
    action: str = Field(description="What to do about it.")


class FoldedWeights(Record):
    """Weights of a convolution before and after its BatchNorm was folded into them, and how they take fewer bits."""

    before_min: float = Field(description="Smallest weight in the checkpoint.")
    before_max: float = Field(description="Largest weight in the checkpoint.")
    after_min: float = Field(description="Smallest weight after folding.")
    after_max: float = Field(description="Largest weight after folding.")
    range_ratio: float | None = Field(
        description="Largest over median of the output channels' max |weight|, folded; null when the median is 0."
    )
    sqnr_per_tensor_db: float | None = Field(
        description="Signal-to-quantization-noise ratio of the folded weights in symmetric int8 with one scale, dB; "
        "null when nothing is lost."
    )
    sqnr_per_channel_db: float | None = Field(description="The same with one scale per output channel.")
    int8_scheme: Int8Scheme = Field(
        description=f"Coarsest scheme that keeps {MIN_SQNR_DB:g} dB, one scale for the tensor only where range_ratio "
        f"is below {WIDE_RANGE_RATIO:g}; float if neither keeps it."
    )
    fp16_infinite: int = Field(description="Folded weights and biases that are infinite in half precision.")
    fp16_subnormal: int = Field(description="Nonzero ones that become subnormal there.")
    fp16_zero: int = Field(description="Nonzero ones that become zero there.")
    small_share: float = Field(description="Share of the folded weights and biases that are in the last two.")


class RemovalCounts(Record):
    """Dead channels by what removing them does to the network's output; the ledger has each of them."""

    exact: int = Field(description="Nothing, but for rounding.")
    border: int = Field(description="Changes it near borders of the picture only.")
    approximate: int = Field(
        description="Changes it a little everywhere: the channel still varies. More near borders, where the ledger "
        "says so."
    )
    unknown: int = Field(description="Not judged; the ledger says why.")


class LayerHealth(Record):
    """What one BatchNorm's figures mean. Shares are fractions of its channels."""

    name: str = Field(description="Module path of the BatchNorm.")
    execution_index: int | None = Field(description="Place in the order of execution; null when it is not executed.")
    abs_gamma: Distribution = Field(description="|gamma| over the channels.")
    weak_share: float = Field(description=f"Channels that are dead or have |gamma| of at most {WEAK_GAMMA:g}.")
    collapsed: bool = Field(description=f"weak_share is at least {COLLAPSED_SHARE:g}.")
    dead_share: float = Field(description="Channels whose output hardly varies, see `dead_channels`.")
    eps_dominated_share: float = Field(description="Channels whose running_var is below eps.")
    removal: RemovalCounts | None = Field(description="Its dead channels, counted; null when it was dropped.")
    tiny_variance_channels: list[int] = Field(description=f"running_var < {TINY_VARIANCE_OF_EPS:g} eps.")
    law_std: Distribution = Field(
        description="|gamma| sqrt(var / (var + eps)): deviation of the layer's output over the training data, still "
        "true of the folded convolution; its mean is beta."
    )
    expected_low: float | None = Field(
        description=f"Least of beta - {RANGE_STDS:g} law_std over the channels, after the activation; null when the "
        "activation is not SiLU, ReLU or the identity."
    )
    expected_high: float | None = Field(description=f"Largest of beta + {RANGE_STDS:g} law_std, likewise.")
    fp16_infinite_variances: list[int] = Field(description="Channels whose running_var is infinite in half precision.")
    fp16_subnormal_variances: int = Field(description="Channels whose nonzero running_var is subnormal or zero there.")
    half_precision: bool = Field(description="Every value of the layer fits half precision exactly.")
    initial_statistics: bool = Field(description="running_mean is exactly 0 and running_var exactly 1 everywhere.")
    initial_affine: bool = Field(description="gamma is exactly 1 and beta exactly 0 everywhere.")
    memory_batches: float | None = Field(
        description="Batches that running statistics remember, (2 - momentum) / momentum; null for a plain average "
        "and where momentum is 0, so that no batch changes them."
    )
    weights: FoldedWeights | None = Field(description="Its convolution's weights; null when it was not folded.")


class ChannelReader(Record):
    """A convolution that reads a dead channel."""

    conv: str = Field(description="Module path of the convolution.")
    channel: int = Field(description="Which of its input channels.")
    constant: float = Field(description="The value it reads there, away from borders.")


class DeadChannel(Record):
    """One entry of the ledger. Savings count this channel alone; those of neighbours overlap."""

    layer: str = Field(description="Module path of the BatchNorm.")
    channel: int = Field(description="Its place in the layer, from 0.")
    mean: float = Field(description="Mean of its output, before the activation.")
    std: float = Field(description="Standard deviation of its output; 0 when its folded weights are all zero.")
    removal: Removal = Field(
        description="What removing it does to the output. exact: nothing. border: changes near borders of the "
        "picture. approximate: small changes everywhere, and larger ones near borders if the reason says so. unknown: "
        "not judged."
    )
    reason: str = Field(description="Why, in words.")
    readers: list[ChannelReader] = Field(description="Empty when unknown.")
    macs: int | None = Field(
        description="Multiply-accumulates saved per picture of the served size; null when unknown."
    )
    bytes: int | None = Field(description="Bytes saved in float32, biases included; null when unknown.")


class Savings(Record):
    """What removing several channels together saves."""

    channels: int = Field(description="Channels removed.")
    macs: int = Field(description="Per picture of the served size.")
    bytes: int = Field(description="In float32.")


class NetworkHealth(Record):
    """Figures over all layers that are not dropped."""

    abs_gamma: Distribution = Field(description="|gamma| over all their channels.")
    macs: int = Field(description="Multiply-accumulates of all convolutions per picture of the served size.")
    removable_exactly: Savings = Field(description="Dead channels whose removal is exact.")
    removable: Savings = Field(description="Dead channels whose removal is exact, wrong at borders or approximate.")
    collapsed_layers: int = Field(description="Layers of which at least half the channels are dead or weak.")
    keep_in_float: list[str] = Field(description="Layers whose folded weights int8 does not hold.")


class BatchNormHealth(Record):
    """The whole of ``bn_health.json``."""

    schema_version: Literal[1] = SCHEMA_VERSION
    network: NetworkHealth
    layers: list[LayerHealth] = Field(description="In the order of ``bn_stats.json``.")
    ledger: list[DeadChannel] = Field(
        description="Every dead channel of a layer that is not dropped, by layer and channel."
    )
    warnings: list[BatchNormWarning] = Field(description="By severity, then layer, then code.")

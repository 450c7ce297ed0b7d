"""Turns a layer's figures into warnings in words. Their kinds are one table, ``bundle.health.WARNING_KINDS``."""

from collections.abc import Iterator, Sequence

from service.bundle.batchnorm import BatchNormLayer
from service.bundle.health import (
    SEVERITIES,
    SUBNORMAL_SHARE,
    WARNING_KINDS,
    WIDE_RANGE_RATIO,
    BatchNormWarning,
    FoldedWeights,
    LayerHealth,
    NetworkHealth,
    RemovalCounts,
    WarningCode,
)

Finding = tuple[WarningCode, str]


def collect_warnings(
    layers: Sequence[BatchNormLayer], health: Sequence[LayerHealth], network: NetworkHealth
) -> list[BatchNormWarning]:
    """Warnings for every layer that is not dropped, by severity, then in the order of the layers, then by code.

    Args:
        layers, health: the same layers in the same order.
    """
    found = [_warning(code, None, detail) for code, detail in _network_findings(layers, health, network)]
    for layer, figures in zip(layers, health, strict=True):
        if layer.status != "dropped":
            found += [_warning(code, layer.name, detail) for code, detail in sorted(_findings(layer, figures))]
    return sorted(found, key=lambda warning: SEVERITIES.index(warning.severity))  # stable: keeps the order within


def _warning(code: WarningCode, layer: str | None, detail: str) -> BatchNormWarning:
    kind = WARNING_KINDS[code]
    return BatchNormWarning(
        code=code, severity=kind.severity, layer=layer, message=f"{detail} {kind.meaning}", action=kind.action
    )


def _network_findings(
    layers: Sequence[BatchNormLayer], health: Sequence[LayerHealth], network: NetworkHealth
) -> Iterator[Finding]:
    if all(figures.half_precision for figures in health) and not all(_is_new(figures) for figures in health):
        yield "half-precision-statistics", f"All {len(layers)} layers."


def _is_new(figures: LayerHealth) -> bool:
    return figures.initial_statistics and figures.initial_affine


def _findings(layer: BatchNormLayer, figures: LayerHealth) -> Iterator[Finding]:
    if layer.reason is not None:
        yield "unfoldable", f"It cannot be folded: {layer.reason}."
    if layer.momentum == 0:
        yield "frozen-statistics", f"All {layer.channels} channels."
    yield from _channel_findings(layer, figures)
    yield from _initial_findings(layer, figures)
    if figures.weights is not None:
        yield from _weight_findings(figures.weights)


def _channel_findings(layer: BatchNormLayer, figures: LayerHealth) -> Iterator[Finding]:
    if figures.collapsed:
        yield "collapsed-layer", f"{figures.weak_share:.0%} of {layer.channels} channels."
    if layer.dead_channels:
        counts = "" if figures.removal is None else f", {_removal_words(figures.removal)}"
        yield "dead-channels", f"{_of(len(layer.dead_channels), layer)}{counts}."
    tiny = figures.tiny_variance_channels
    if tiny:
        yield "tiny-variance", f"{_of(len(tiny), layer)}, the least {layer.running_var.min:.2g} at eps {layer.eps:g}."
    if count := len(layer.eps_dominated_channels) - len(tiny):
        yield "eps-dominated", f"{_of(count, layer)} not counted as tiny-variance."
    if figures.fp16_infinite_variances:
        count = len(figures.fp16_infinite_variances)
        yield "fp16-variance-overflow", f"{_of(count, layer)}, the largest {layer.running_var.max:.3g}."


def _initial_findings(layer: BatchNormLayer, figures: LayerHealth) -> Iterator[Finding]:
    if not figures.initial_statistics:
        return
    if figures.initial_affine and layer.affine:
        yield "frozen-batchnorm", f"All {layer.channels} channels."
    else:
        yield "uncalibrated-batchnorm", f"All {layer.channels} channels."


def _weight_findings(weights: FoldedWeights) -> Iterator[Finding]:
    if weights.fp16_infinite:
        yield "fp16-weight-overflow", f"{weights.fp16_infinite} of them, with weights up to {_peak(weights):.3g}."
    if weights.small_share >= SUBNORMAL_SHARE:
        yield "fp16-underflow", f"{weights.small_share:.1%} of them."
    if weights.int8_scheme == "float":
        yield "int8-keep-float", f"{weights.sqnr_per_channel_db:.1f} dB."
    elif weights.range_ratio is not None and weights.range_ratio >= WIDE_RANGE_RATIO:
        kept = "nothing lost" if weights.sqnr_per_tensor_db is None else f"{weights.sqnr_per_tensor_db:.1f} dB"
        yield "int8-wide-range", f"{weights.range_ratio:.0f} times; one scale for the tensor keeps {kept}."


def _peak(weights: FoldedWeights) -> float:
    return max(-weights.after_min, weights.after_max)


def _of(count: int, layer: BatchNormLayer) -> str:
    return f"{count} of {layer.channels} channels"


def _removal_words(counts: RemovalCounts) -> str:
    parts = [f"{count} {name}" for name, count in counts.model_dump().items() if count]
    return "removal " + ", ".join(parts)

"""Which BatchNorm layers are asked for, and in which order."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from service.bundle.batchnorm import BatchNormLayer, FoldStatus, Stage
from service.bundle.health import SEVERITIES, BatchNormWarning, LayerHealth, Severity, WarningCode
from service.bundle.store import Bundle
from service.errors import LayerNotFound
from service.nearest import near_matches
from service.observatory.pruning import Prunable

SortKey = Literal[
    "checkpoint",
    "execution",
    "name",
    "channels",
    "abs_gamma",
    "min_var",
    "max_var",
    "dead_share",
    "eps_dominated_share",
    "weak_share",
    "prunable_share",
    "range_ratio",
    "sqnr_per_tensor",
    "sqnr_per_channel",
    "severity",
]
SortOrder = Literal["asc", "desc"]


@dataclass(frozen=True)
class Selection:
    """What is asked for; None means no restriction.

    Attributes:
        layer: name of a BatchNorm or of its convolution.
        stage, status: of the layer.
        warning: layers with a warning of this code.
        severity: layers with a warning at least as severe.
        sort, order: layers for which the figure does not exist come last either way.
    """

    layer: str | None = None
    stage: Stage | None = None
    status: FoldStatus | None = None
    warning: WarningCode | None = None
    severity: Severity | None = None
    sort: SortKey = "checkpoint"
    order: SortOrder = "asc"


@dataclass(frozen=True)
class LayerView:
    """One layer with all that the bundle knows of it."""

    position: int
    layer: BatchNormLayer
    health: LayerHealth
    warnings: list[BatchNormWarning]
    prunable_share: float


def select_layers(bundle: Bundle, selection: Selection, prunable: Prunable) -> list[LayerView]:
    """The layers asked for, in the order asked for; equal ones in the order of the checkpoint.

    Raises:
        LayerNotFound: no layer has the name asked for; carries the closest names.
    """
    layers = bundle.batchnorm.layers
    wanted = None if selection.layer is None else find_layer(layers, selection.layer)
    views = [
        LayerView(
            position=position,
            layer=layer,
            health=health,
            warnings=[w for w in bundle.health.warnings if w.layer == layer.name],
            prunable_share=prunable.share_of_layer[layer.name],
        )
        for position, (layer, health) in enumerate(zip(layers, bundle.health.layers, strict=True))
        if wanted is None or layer is wanted
    ]
    return _sorted([view for view in views if _fits(view, selection)], selection)


def select_warnings(bundle: Bundle, selection: Selection, views: Sequence[LayerView]) -> list[BatchNormWarning]:
    """The warnings asked for of these layers. Those of the whole network belong to every answer about all layers."""
    names = {view.layer.name for view in views}
    whole = selection.layer is None and selection.stage is None and selection.status is None
    return [
        warning
        for warning in bundle.health.warnings
        if _asked_for(warning, selection) and (whole if warning.layer is None else warning.layer in names)
    ]


def find_layer(layers: Sequence[BatchNormLayer], name: str) -> BatchNormLayer:
    """The layer whose BatchNorm or convolution is called ``name``.

    Raises:
        LayerNotFound: there is none; carries the closest names.
    """
    for layer in layers:
        if name in (layer.name, layer.conv):
            return layer
    raise LayerNotFound(name, near_matches(name, [layer.name for layer in layers]))


def _fits(view: LayerView, selection: Selection) -> bool:
    if selection.stage not in (None, view.layer.stage) or selection.status not in (None, view.layer.status):
        return False
    if selection.warning is None and selection.severity is None:
        return True
    return any(_asked_for(warning, selection) for warning in view.warnings)


def _asked_for(warning: BatchNormWarning, selection: Selection) -> bool:
    if selection.warning not in (None, warning.code):
        return False
    return selection.severity is None or _rank(warning.severity) <= _rank(selection.severity)


def _rank(severity: Severity) -> int:
    return SEVERITIES.index(severity)


def _sorted(views: list[LayerView], selection: Selection) -> list[LayerView]:
    figure = _FIGURES.get(selection.sort)
    if selection.sort == "name":
        ordered = sorted(views, key=lambda view: _natural(view.layer.name))
    elif figure is None:
        ordered = list(views)
    else:
        sign = -1 if selection.order == "desc" else 1
        known = [(value, view) for view in views if (value := figure(view)) is not None]
        missing = [view for view in views if figure(view) is None]
        return [view for _, view in sorted(known, key=lambda pair: sign * pair[0])] + missing
    return ordered[::-1] if selection.order == "desc" else ordered


def _natural(name: str) -> list[tuple[int, str]]:
    """A key by which model.2 comes before model.10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"\.", name)]


def _severity(view: LayerView) -> float | None:
    """0 for the most severe; None without a warning."""
    return min((_rank(warning.severity) for warning in view.warnings), default=None)


_FIGURES: dict[SortKey, Callable[[LayerView], float | None]] = {
    "execution": lambda view: view.health.execution_index,
    "channels": lambda view: view.layer.channels,
    "abs_gamma": lambda view: view.health.abs_gamma.p50,
    "min_var": lambda view: view.layer.running_var.min,
    "max_var": lambda view: view.layer.running_var.max,
    "dead_share": lambda view: view.health.dead_share,
    "eps_dominated_share": lambda view: view.health.eps_dominated_share,
    "weak_share": lambda view: view.health.weak_share,
    "prunable_share": lambda view: view.prunable_share,
    "range_ratio": lambda view: None if view.health.weights is None else view.health.weights.range_ratio,
    "sqnr_per_tensor": lambda view: None if view.health.weights is None else view.health.weights.sqnr_per_tensor_db,
    "sqnr_per_channel": lambda view: None if view.health.weights is None else view.health.weights.sqnr_per_channel_db,
    "severity": _severity,
}

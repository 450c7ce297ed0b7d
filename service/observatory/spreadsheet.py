"""The BatchNorm figures as comma-separated values (RFC 4180): a row per layer, or a row per channel."""

import csv
import io
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from service.bundle.batchnorm import ARRAYS
from service.bundle.health import HEALTH_ARRAYS
from service.bundle.store import Bundle
from service.observatory.document import Detail
from service.observatory.pruning import PruneRule, find_prunable
from service.observatory.selection import LayerView, Selection, select_layers

_DISTRIBUTIONS = ("gamma", "beta", "running_mean", "running_var", "scale", "shift")
_WEIGHTS = (
    "before_min",
    "before_max",
    "after_min",
    "after_max",
    "range_ratio",
    "sqnr_per_tensor_db",
    "sqnr_per_channel_db",
    "int8_scheme",
    "fp16_infinite",
    "fp16_subnormal",
    "fp16_zero",
    "small_share",
)

#: Columns of the table of layers and where each comes from; an empty cell stands for what does not exist.
_COLUMNS: dict[str, Callable[[LayerView], Any]] = {
    "name": lambda v: v.layer.name,
    "conv": lambda v: v.layer.conv,
    "kind": lambda v: v.layer.kind,
    "activation": lambda v: v.layer.activation,
    "stage": lambda v: v.layer.stage,
    "block": lambda v: v.layer.block,
    "execution_index": lambda v: v.health.execution_index,
    "channels": lambda v: v.layer.channels,
    "eps": lambda v: v.layer.eps,
    "momentum": lambda v: v.layer.momentum,
    "status": lambda v: v.layer.status,
    "reason": lambda v: v.layer.reason,
    "dead_channels": lambda v: len(v.layer.dead_channels),
    "removable_exactly": lambda v: v.health.removal and v.health.removal.exact,
    "eps_dominated_channels": lambda v: len(v.layer.eps_dominated_channels),
    "tiny_variance_channels": lambda v: len(v.health.tiny_variance_channels),
    "weak_share": lambda v: v.health.weak_share,
    "prunable_share": lambda v: v.prunable_share,
    "collapsed": lambda v: v.health.collapsed,
    "abs_gamma_p05": lambda v: v.health.abs_gamma.p05,
    "abs_gamma_p25": lambda v: v.health.abs_gamma.p25,
    "abs_gamma_median": lambda v: v.health.abs_gamma.p50,
    "abs_gamma_p75": lambda v: v.health.abs_gamma.p75,
    "abs_gamma_p95": lambda v: v.health.abs_gamma.p95,
    "law_std_median": lambda v: v.health.law_std.p50,
    "expected_low": lambda v: v.health.expected_low,
    "expected_high": lambda v: v.health.expected_high,
    "fp16_infinite_variances": lambda v: len(v.health.fp16_infinite_variances),
    "half_precision": lambda v: v.health.half_precision,
    "initial_statistics": lambda v: v.health.initial_statistics,
    "initial_affine": lambda v: v.health.initial_affine,
    "warnings": lambda v: " ".join(warning.code for warning in v.warnings),
}


def bn_stats_csv(bundle: Bundle, selection: Selection, rule: PruneRule, detail: Detail) -> str:
    """The layers asked for as CSV with a header: a row per layer, with full detail a row per channel.

    Raises:
        LayerNotFound: no layer has the name asked for.
    """
    views = select_layers(bundle, selection, find_prunable(bundle, rule))
    return _write(_channel_rows(bundle, views) if detail == "full" else _layer_rows(views))


def _layer_rows(views: Iterable[LayerView]) -> Iterator[list[Any]]:
    extremes = [f"{name}_{end}" for name in _DISTRIBUTIONS for end in ("min", "max")]
    yield [*_COLUMNS, *extremes, *(f"weights_{name}" for name in _WEIGHTS)]
    for view in views:
        distributions = [getattr(view.layer, name) for name in _DISTRIBUTIONS]
        yield [
            *(figure(view) for figure in _COLUMNS.values()),
            *(value for found in distributions for value in (found.min, found.max)),
            *(getattr(view.health.weights, name, None) for name in _WEIGHTS),
        ]


def _channel_rows(bundle: Bundle, views: Iterable[LayerView]) -> Iterator[list[Any]]:
    names = (*ARRAYS, *HEALTH_ARRAYS)
    removal = {(entry.layer, entry.channel): entry.removal for entry in bundle.health.ledger}
    found = bundle.all_batchnorm_arrays([view.layer.name for view in views], names)
    yield ["layer", "channel", *names, "dead", "removal"]
    for view in views:
        dead = set(view.layer.dead_channels)
        for channel, values in enumerate(zip(*(found[view.layer.name][name] for name in names), strict=True)):
            numbers = ["" if value != value else value for value in values]
            yield [view.layer.name, channel, *numbers, channel in dead, removal.get((view.layer.name, channel))]


def _write(rows: Iterable[list[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()

"""The BatchNorm figures for a terminal: a table with sparklines, one layer in depth, the warnings in words."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from service.bundle.batchnorm import ARRAYS
from service.bundle.health import HEALTH_ARRAYS, WARNING_KINDS, BatchNormWarning, DeadChannel, Severity
from service.bundle.store import Bundle
from service.observatory.diff import BatchNormDiff
from service.observatory.pruning import Prunable, PruneRule, find_prunable
from service.observatory.selection import LayerView, Selection, select_layers, select_warnings

_BARS = " ▁▂▃▄▅▆▇█"
_BINS, _WIDE_BINS = 12, 48
_MOST_LISTED = 40
#: Least width of a table, in characters: rich leaves whole columns out where a pipe or a terminal has less.
_LEAST_WIDTH = 140
_STYLES: dict[Severity, str] = {"critical": "bold red", "warning": "yellow", "info": "cyan"}


def print_bn_stats(console: Console, bundle: Bundle, selection: Selection, rule: PruneRule) -> None:
    """Print the layers asked for, then the warnings; with ``selection.layer`` everything about that one layer.

    Raises:
        LayerNotFound: no layer has the name asked for.
    """
    prunable = find_prunable(bundle, rule)
    views = select_layers(bundle, selection, prunable)
    if selection.layer is not None:
        for view in views:
            console.print(_layer_in_depth(bundle, view))
    else:
        _print_table(console, _table(bundle, views))
        console.print(_summary(bundle, len(views), prunable), highlight=False)
    console.print(_warnings(select_warnings(bundle, selection, views)))


def print_warning_kinds(console: Console) -> None:
    """Print the table of every warning there is."""
    table = Table("Code", "Severity", "What it means", "What to do", box=None, pad_edge=False)
    for code, kind in WARNING_KINDS.items():
        table.add_row(code, Text(kind.severity, _STYLES[kind.severity]), kind.meaning, kind.action)
    console.print(table)


def print_bn_diff(console: Console, diff: BatchNormDiff) -> None:
    """Print the verdicts, then a line per layer, the furthest first."""
    for verdict in diff.verdicts:
        console.print(Text(verdict.code, "bold"), verdict.message, highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("BatchNorm", no_wrap=True)
    table.add_column("Stage")
    for title in ("Divergence", "furthest channel", "d gamma rms", "max", "d beta rms", "max"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("Movement")
    for layer in sorted(diff.layers, key=lambda layer: -layer.divergence_mean):
        table.add_row(
            layer.name,
            layer.stage,
            f"{layer.divergence_mean:.3g}",
            f"{layer.divergence_max:.3g} ({layer.furthest_channel})",
            f"{layer.gamma_change_rms:.2g}",
            f"{layer.gamma_change_max:.2g}",
            f"{layer.beta_change_rms:.2g}",
            f"{layer.beta_change_max:.2g}",
            layer.movement + (", dropped" if layer.dropped else ""),
        )
    _print_table(console, table)


def _print_table(console: Console, table: Table) -> None:
    """Print a table with all its columns. Lines that the terminal is too narrow for go on in the next."""
    width = console.width
    console.width = max(width, _LEAST_WIDTH)
    try:
        console.print(table)
    finally:
        console.width = width


def sparkline(values: NDArray[np.floating], low: float, high: float, bins: int = _BINS) -> str:
    """A histogram of values (n,) over [low, high] in block characters; only an empty bin is blank.

    Values outside the interval, and those that are no numbers, are left out.
    """
    finite = values[np.isfinite(values)].astype(np.float64)
    counts, _ = np.histogram(finite, bins, (low, high if high > low else low + 1.0))
    heights = np.ceil(counts / max(int(counts.max()), 1) * (len(_BARS) - 1)).astype(int)
    return "".join(_BARS[height] for height in heights)


def _table(bundle: Bundle, views: Sequence[LayerView]) -> Table:
    arrays = bundle.all_batchnorm_arrays([view.layer.name for view in views], ("gamma",))
    gammas = bundle.health.network.abs_gamma
    highest = min(gammas.max, 2 * gammas.p95)  # a single large one would squeeze all others into the first bar
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("BatchNorm", "Block"):
        table.add_column(title, no_wrap=True)
    table.add_column("Ch", justify="right")
    table.add_column(f"|gamma| 0 to {highest:.2g}" + ("+" if highest < gammas.max else ""), no_wrap=True)
    for title in ("min var", "Dead", "eps", "Prune", "int8 dB"):
        table.add_column(title, justify="right", no_wrap=True)
    for title in ("Status", "Warnings"):
        table.add_column(title)
    for view in views:
        layer, weights = view.layer, view.health.weights
        table.add_row(
            layer.name,
            layer.block,
            str(layer.channels),
            sparkline(np.minimum(np.abs(arrays[layer.name]["gamma"]), highest), 0.0, highest),
            f"{layer.running_var.min:.2g}",
            _count(len(layer.dead_channels)),
            _count(len(layer.eps_dominated_channels)),
            f"{view.prunable_share:.0%}",
            ""
            if weights is None
            else f"{_decibel(weights.sqnr_per_tensor_db)}/{_decibel(weights.sqnr_per_channel_db)}",
            layer.status,
            _codes(view.warnings),
        )
    return table


def _summary(bundle: Bundle, shown: int, prunable: Prunable) -> str:
    network = bundle.health.network
    saved = network.removable_exactly
    return (
        f"{shown} of {bundle.batchnorm.totals.layers} layers. {network.macs / 1e9:.2f} G multiply-accumulates.\n"
        f"|gamma| of at most {prunable.threshold:.3g}: {prunable.channels} channels ({prunable.share:.1%}).\n"
        f"Dead channels removable exactly: {saved.channels}, saving {saved.macs / 1e6:.1f} M multiply-accumulates and "
        f"{saved.bytes / 1e3:.1f} kB.\n"
        f"Layers to keep in float for int8: {', '.join(network.keep_in_float) or 'none'}."
    )


def _count(number: int) -> str:
    return str(number) if number else "."


def _decibel(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def _codes(warnings: Sequence[BatchNormWarning]) -> Text:
    return Text(" ").join(Text(warning.code, _STYLES[warning.severity]) for warning in warnings)


def _warnings(warnings: Sequence[BatchNormWarning]) -> RenderableType:
    if not warnings:
        return Text("No warnings.")
    lines = []
    for warning in warnings[:_MOST_LISTED]:
        line = Text(f"{warning.severity} {warning.code}", _STYLES[warning.severity])
        lines.append(line.append(f" {warning.layer or 'whole network'}: {warning.message} {warning.action}", "default"))
    if len(warnings) > _MOST_LISTED:
        lines.append(Text(f"{len(warnings) - _MOST_LISTED} more; --severity, --warning and --json show them."))
    return Group(*lines)


def _layer_in_depth(bundle: Bundle, view: LayerView) -> RenderableType:
    ledger = [entry for entry in bundle.health.ledger if entry.layer == view.layer.name]
    figures = Table(box=None, pad_edge=False, show_header=False)
    for name, value in _figures(view):
        figures.add_row(name, value)
    parts: list[RenderableType] = [figures, _histograms(bundle, view.layer.name)]
    if ledger:
        parts.append(_ledger(ledger))
    return Group(*parts)


def _figures(view: LayerView) -> Iterator[tuple[str, str]]:
    layer, health = view.layer, view.health
    yield (
        "BatchNorm",
        f"{layer.name} behind {layer.conv or 'no single convolution'}, then {layer.activation or 'nothing'}",
    )
    yield "Place", f"{layer.block}, {layer.stage}; {layer.status}" + (f": {layer.reason}" if layer.reason else "")
    yield (
        "Channels",
        f"{layer.channels}; {len(layer.dead_channels)} dead, {len(layer.eps_dominated_channels)} eps-dominated",
    )
    memory = "" if health.memory_batches is None else f", statistics remember about {health.memory_batches:.0f} batches"
    yield "Training", f"eps {layer.eps:g}, momentum {layer.momentum}{memory}"
    yield (
        "Trust",
        f"num_batches_tracked is {layer.num_batches_tracked}, which says nothing after EMA training; "
        + ("values are rounded to half precision" if health.half_precision else "values are float32"),
    )
    if health.expected_low is not None:
        yield "Activations", f"expected in {health.expected_low:.3g} to {health.expected_high:.3g}"
    if (weights := health.weights) is not None:
        yield (
            "Weights",
            f"{weights.before_min:.3g} to {weights.before_max:.3g} before, "
            + (f"{weights.after_min:.3g} to {weights.after_max:.3g} after folding"),
        )
        yield (
            "int8",
            f"{_decibel(weights.sqnr_per_tensor_db)} dB per tensor, {_decibel(weights.sqnr_per_channel_db)} dB "
            + (f"per channel: {weights.int8_scheme.replace('_', ' ')}"),
        )
        yield (
            "Half precision",
            f"{weights.fp16_infinite} infinite, {weights.fp16_subnormal} subnormal, "
            + (f"{weights.fp16_zero} lost of the folded weights"),
        )


def _histograms(bundle: Bundle, name: str) -> Table:
    table = Table("Array", "Least", "Histogram", "Largest", box=None, pad_edge=False)
    for key, values in bundle.batchnorm_arrays(name, (*ARRAYS, *HEALTH_ARRAYS)).items():
        finite = values[np.isfinite(values)]
        if len(finite):
            low, high = float(finite.min()), float(finite.max())
            table.add_row(key, f"{low:.4g}", sparkline(finite, low, high, _WIDE_BINS), f"{high:.4g}")
    return table


def _ledger(entries: Sequence[DeadChannel]) -> Table:
    table = Table("Dead", "Mean", "Deviation", "Removal", "MACs", "Bytes", "Reason", box=None, pad_edge=False)
    for entry in entries:
        saved = ("" if figure is None else f"{figure:,}" for figure in (entry.macs, entry.bytes))
        table.add_row(str(entry.channel), f"{entry.mean:.3g}", f"{entry.std:.2g}", entry.removal, *saved, entry.reason)
    return table

"""Curves as SVG, drawn by matplotlib (among the development requirements: Ultralytics brings it)."""

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scripts.cost.measuring import Memory, Point
from scripts.cost.overload import Overload
from scripts.cost.spots import Curve

mpl.rcParams["svg.hashsalt"] = "yolofold"  # the same figures give the same file
_RATE, _LATENCY = "#0969da", "#bc4c00"
_SIZE_IN = (6.4, 3.4)
_COLUMNS = 2


def draw_curve(curve: Curve, points: Sequence[Point], target: Path) -> None:
    """Images per second with their range (left axis), p50 and p99 in milliseconds (right axis)."""
    figure = Figure(figsize=_SIZE_IN, layout="constrained")
    _plot_curve(figure.subplots(), curve, points)
    _save(figure, target)


def draw_memory(memory: Memory, target: Path) -> None:
    """Megabytes against minutes."""
    figure = Figure(figsize=_SIZE_IN, layout="constrained")
    _plot_memory(figure.subplots(), memory)
    _save(figure, target)


def draw_overload(loads: Sequence[Overload], target: Path) -> None:
    """Answers per second and refusals as shares (left axis), how long a 503 takes in milliseconds (right axis)."""
    figure = Figure(figsize=_SIZE_IN, layout="constrained")
    _plot_overload(figure.subplots(), loads)
    _save(figure, target)


def draw_sheet(
    curves: Sequence[tuple[Curve, Sequence[Point]]],
    overload: Sequence[Overload],
    memory: Memory | None,
    target: Path,
) -> None:
    """All charts on one sheet, two in a row; none of memory where that was not watched."""
    charts = len(curves) + 1 + (memory is not None)
    rows = -(-charts // _COLUMNS)
    figure = Figure(figsize=(_COLUMNS * _SIZE_IN[0], rows * _SIZE_IN[1]), layout="constrained")
    axes = list(figure.subplots(rows, _COLUMNS, squeeze=False).flat)
    for place, (curve, points) in zip(axes, curves, strict=False):
        _plot_curve(place, curve, points)
    _plot_overload(axes[len(curves)], overload)
    if memory is not None:
        _plot_memory(axes[len(curves) + 1], memory)
    for place in axes[charts:]:
        place.remove()
    _save(figure, target)


def _plot_curve(left: Axes, curve: Curve, points: Sequence[Point]) -> None:
    places = range(len(points))
    rates = [point.images_per_s for point in points]
    spread = [
        [point.images_per_s - point.least for point in points],
        [point.greatest - point.images_per_s for point in points],
    ]
    left.errorbar(places, rates, spread, color=_RATE, marker="o", capsize=3)
    left.set_xticks(places, [point.label for point in points])
    left.set(title=curve.title, xlabel=curve.axis, ylim=(0, None))
    left.set_ylabel("images per second", color=_RATE)
    right = left.twinx()
    right.plot(places, [point.p50_ms for point in points], color=_LATENCY, marker="s", linestyle="-", label="p50")
    right.plot(places, [point.p99_ms for point in points], color=_LATENCY, marker="^", linestyle=":", label="p99")
    right.set_ylabel("ms from request to answer", color=_LATENCY)
    right.set_ylim(0, None)
    right.legend(loc="best", frameon=False)


def _plot_overload(left: Axes, loads: Sequence[Overload]) -> None:
    places = range(len(loads))
    shares = [load.answered_share for load in loads]
    spread = [
        [load.answered_share - load.least for load in loads],
        [load.greatest - load.answered_share for load in loads],
    ]
    left.errorbar(places, shares, spread, color=_RATE, marker="o", capsize=3, label="answered, of the capacity")
    left.plot(places, [load.refused_share for load in loads], color=_RATE, marker="v", linestyle=":", label="refused")
    left.set_xticks(places, [str(load.factor) for load in loads])
    left.set(title="Overload", xlabel="requests per second, times the capacity", ylim=(0, None))
    left.set_ylabel("share", color=_RATE)
    left.legend(loc="lower left", frameon=False)
    right = left.twinx()
    for name, marker, line in (("refused_p50_ms", "s", "-"), ("refused_p99_ms", "^", ":")):
        late = [math.nan if (ms := getattr(load, name)) is None else ms for load in loads]
        right.plot(places, late, color=_LATENCY, marker=marker, linestyle=line, label=name.split("_")[1])
    right.set_ylabel("ms from request to 503", color=_LATENCY)
    right.set_ylim(0, None)
    right.legend(loc="lower right", frameon=False)


def _plot_memory(axes: Axes, memory: Memory) -> None:
    axes.plot([second / 60 for second in memory.seconds], memory.megabytes, color=_RATE)
    axes.set(title="Memory under load", xlabel="minutes", ylabel="resident MB", ylim=(0, None))


def _save(figure: Figure, target: Path) -> None:
    figure.savefig(target, metadata={"Date": None})

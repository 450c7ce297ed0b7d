"""A recalibration as a person reads it in a terminal."""

import shlex
import sys
from collections.abc import Iterator

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from service.bundle.manifest import LayerShift
from service.recalibration.report import ClassChanges, Engine, RecalibrationReport

_WIDTH = 100
_MOST_LAYERS, _MOST_SKIPPED = 10, 10


def print_report(report: RecalibrationReport) -> None:
    """Print the report to standard output."""
    # A file or a pipe has no width of its own.
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    for part in _parts(report):
        console.print(part, highlight=False, soft_wrap=not isinstance(part, Table))
        console.print()


def _parts(report: RecalibrationReport) -> Iterator[RenderableType]:
    yield Text("\n".join(_introduction(report)))
    yield _layer_table(report)
    yield Text("\n".join(_layer_lines(report)))
    yield _box_table(report)
    yield Text("\n".join(_box_lines(report)))
    yield Text("\n".join(_advice(report)))


def _introduction(report: RecalibrationReport) -> Iterator[str]:
    data, made = report.data, report.recalibration
    yield f"Pictures   {data.fitted} fitted and {data.held_back} held back of {data.folder}"
    if data.repeated:
        yield f"           {data.repeated} repeated ones left out"
    if data.skipped:
        yield f"           {len(data.skipped)} skipped, which cannot be read:"
        yield from (f"           {one.file}: {one.reason}" for one in data.skipped[:_MOST_SKIPPED])
        if len(data.skipped) > _MOST_SKIPPED:
            yield "           ..."
    old = made.prior / (made.prior + made.pictures)
    yield f"Prior      {made.prior:g} pictures: the old statistics count {old:.1%}, the new ones {1 - old:.1%}"
    yield (
        f"Proof      in the finished network every layer sees the statistics it holds, within {made.residual:.1g} of "
        f"{made.tolerance:g} allowed"
    )


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", overflow="fold")
    return table


def _layer_table(report: RecalibrationReport) -> Table:
    """The layers whose law moved most, beside what chance does."""
    layers = sorted(report.recalibration.layers, key=lambda layer: -layer.divergence_mean)
    table = _table(
        f"Symmetric divergence of old and new law in nats, mean over the channels; {_MOST_LAYERS} of {len(layers)}",
        *("BatchNorm", "moved", "furthest channel", "by chance"),
    )
    for layer in layers[:_MOST_LAYERS]:
        chance = _chance(layer, report)
        cells = (
            f"{layer.divergence_mean:.2g}",
            f"{layer.divergence_max:.2g}",
            "-" if chance is None else f"{chance:.2g}",
        )
        table.add_row(layer.name, *cells)
    return table


def _chance(layer: LayerShift, report: RecalibrationReport) -> float | None:
    """The divergence expected if the old law were true and only the choice of pictures moved it.

    Two halves of n pictures lie apart with four times the variance that the estimate from all n has, small
    divergences go with the square of what they measure, and a prior shortens the way from the old law to the new.
    """
    if layer.halves_divergence_mean is None:
        return None
    made = report.recalibration
    return layer.halves_divergence_mean / 4 * (made.pictures / (made.prior + made.pictures)) ** 2


def _layer_lines(report: RecalibrationReport) -> Iterator[str]:
    judged = [
        (layer.divergence_mean, chance)
        for layer in report.recalibration.layers
        if (chance := _chance(layer, report)) is not None
    ]
    clear = sum(moved > 2 * chance for moved, chance in judged)
    yield f"{clear} of {len(judged)} layers moved by more than twice what the choice of pictures alone would."
    yield from (verdict.message for verdict in report.batchnorm.verdicts)


def _box_table(report: RecalibrationReport) -> Table:
    boxes = report.boxes
    which = "held back" if report.data.held_back else "fitted"
    table = _table(
        f"Boxes above {boxes.confidence:g} in {boxes.pictures} pictures {which}",
        *("class", "before", "after", "kept", "sunk", "gone", "risen", "new", "confidence"),
    )
    for one in (*boxes.classes, boxes.total):
        table.add_row(*_box_row(one))
    return table


def _box_row(one: ClassChanges) -> list[str]:
    counts = (one.before, one.after, one.kept, one.sunk, one.gone, one.risen, one.new)
    change = one.mean_confidence_change
    return [one.name, *map(str, counts), "-" if change is None else f"{change:+.3f}"]


def _box_lines(report: RecalibrationReport) -> Iterator[str]:
    boxes, engines = report.boxes, [_engine(engine) for engine in report.engines]
    if engines[0] == engines[1]:
        yield f"Both networks ran on {engines[0]}."
    else:
        yield f"The served network ran on {engines[0]}, the recalibrated one on {engines[1]}: that changes boxes too."
    yield f"{boxes.pictures_changed} of {boxes.pictures} pictures have other boxes than before."
    yield "Sunk and risen boxes crossed the confidence; gone and new ones have no counterpart at any confidence."
    yield "Confidence is the mean change over the kept, sunk and risen."
    if not report.data.held_back:
        yield "The statistics were fitted to these very pictures; --hold-back keeps some apart."


def _engine(engine: Engine) -> str:
    return f"{engine.runtime} ({engine.provider}) in {engine.arithmetic}"


def _advice(report: RecalibrationReport) -> Iterator[str]:
    served, new = shlex.quote(report.served), shlex.quote(report.bundle)
    yield f"{report.served} is served as before. Nobody knows yet which of the two is right; with labelled pictures"
    yield f"  YOLOFOLD_BUNDLE_DIR={new} python -m service evaluate --data LABELLED --against {served}"
    yield "tells. To serve the recalibrated one:"
    yield f"  YOLOFOLD_BUNDLE_DIR={new} python -m service serve"

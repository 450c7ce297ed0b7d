"""An evaluation as a person reads it in a terminal."""

import sys
from collections.abc import Iterator

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from service.evaluation.report import (
    ClassFigures,
    Comparison,
    Difference,
    Estimate,
    EvaluationReport,
    FalseAlarms,
    Figures,
    Network,
    OperatingPoint,
    OperatingPoints,
    Precision,
)
from service.evaluation.sides import describe_differences

_WIDTH = 100
_SIZE_TITLES = {
    "all": "all",
    "small": "small, area to 32² px",
    "medium": "medium, to 96² px",
    "large": "large, above",
}


def print_report(report: EvaluationReport) -> None:
    """Print the report to standard output."""
    # A file or a pipe has no width of its own.
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    for part in _parts(report):
        console.print(part, highlight=False, soft_wrap=not isinstance(part, Table))
        console.print()


def _parts(report: EvaluationReport) -> Iterator[RenderableType]:
    figures, comparison = report.figures, report.comparison
    yield Text("\n".join(_introduction(report)))
    if figures.sizes and figures.points and figures.classes:
        yield _precision_table(figures.sizes)
        yield _class_table(figures.classes, figures.points.default.confidence)
        yield _points_table(figures.points)
    if figures.false_alarms:
        yield _alarms_table(figures.false_alarms)
        if figures.absent:
            yield _class_alarms_table(figures.false_alarms)
            yield Text("\n".join(_highest_lines(figures.false_alarms)))
    if comparison:
        if comparison.map50_95 and comparison.map50:
            yield _comparison_table(figures, comparison.other, (comparison.map50_95, comparison.map50))
        yield Text("\n".join(_comparison_lines(comparison)))


def _introduction(report: EvaluationReport) -> Iterator[str]:
    data, network = report.data, report.figures.network
    split = f", split {data.split}" if data.split else ""
    yield f"Data       {data.source} ({data.layout}{split})"
    yield (
        f"           {data.pictures} pictures, {data.pictures_without_objects} of them without objects; "
        f"{data.objects} objects"
    )
    yield from (f"Note       {note}" for note in data.notes)
    yield f"Model      {_title(network)} {_engine(network)}"
    if report.comparison:
        yield f"Against    {_title(report.comparison.other.network)} {_engine(report.comparison.other.network)}"
    if report.figures.absent:
        yield f"Absent     precision, recall and AP. {report.figures.absent}"
        return
    yield (
        f"Judged by  {report.evaluator}: boxes above a confidence of {network.lowest_confidence:g}, at most "
        f"{network.max_det} a picture"
    )
    yield "           Sizes are areas in pixels of the picture as stored, not of the network's input."


def _engine(network: Network) -> str:
    return f"on {network.runtime} ({network.provider}) in {network.arithmetic}"


def _title(network: Network) -> str:
    return f"{network.name} {network.version}" + (", BatchNorm not folded" if network.graph == "unfolded" else "")


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", overflow="fold")
    return table


def _precision_table(sizes: dict[str, Precision]) -> Table:
    table = _table("Mean average precision", "size", "objects", "mAP50-95", "mAP50")
    for size, row in sizes.items():
        table.add_row(_SIZE_TITLES[size], str(row.objects), _figure(row.ap50_95), _figure(row.ap50))
    return table


def _class_table(classes: list[ClassFigures], confidence: float) -> Table:
    table = _table(
        f"Classes; precision, recall and F1 above {confidence:g}",
        *("class", "objects", "AP50-95", "AP50", "prec.", "recall", "F1", "best F1", "above"),
    )
    for one in classes:
        table.add_row(*_class_row(one))
    return table


def _class_row(one: ClassFigures) -> list[str]:
    size, default, best = one.sizes["all"], one.points.default, one.points.best_f1
    judged = [_figure(v) if size.objects else "-" for v in (default.precision, default.recall, default.f1)]
    best_cells = [_figure(best.f1), f"{best.confidence:.3f}"] if best else ["-", "-"]
    return [one.name, str(size.objects), _figure(size.ap50_95), _figure(size.ap50), *judged, *best_cells]


def _points_table(points: OperatingPoints) -> Table:
    table = _table(
        "All boxes above a confidence; right from IoU 0.5",
        *("", "above", "prec.", "recall", "F1", "right", "wrong", "missed", "wrong per empty picture"),
    )
    rows = {"default": points.default, "--conf": points.requested, "best F1": points.best_f1, "lenient": points.lenient}
    for title, point in rows.items():
        if point:
            table.add_row(title, *_point_row(point))
    return table


def _point_row(point: OperatingPoint) -> list[str]:
    shares = [_figure(value) for value in (point.precision, point.recall, point.f1)]
    counts = [str(count) for count in (point.right, point.wrong, point.missed)]
    return [f"{point.confidence:g}", *shares, *counts, _figure(point.false_boxes_per_empty_picture)]


def _alarms_table(alarms: FalseAlarms) -> Table:
    table = _table(
        f"False boxes in the {alarms.pictures} pictures without objects, with 95 % intervals",
        *("", "above", "boxes", "per picture", "", "pictures with boxes", "share", ""),
    )
    for title, found in (("default", alarms.default), ("--conf", alarms.requested)):
        if found:
            mean, share = found.boxes_per_picture, found.share_of_pictures
            table.add_row(
                *(title, f"{found.confidence:g}", str(found.boxes), _figure(mean.estimate), _ends(mean)),
                *(str(found.pictures_with_boxes), _figure(share.estimate), _ends(share)),
            )
    return table


def _class_alarms_table(alarms: FalseAlarms) -> Table:
    limits = [found.confidence for found in (alarms.default, alarms.requested) if found]
    table = _table("False boxes by class", "class", *(f"above {limit:g}" for limit in limits), "highest confidence")
    for one in alarms.classes:
        counts = [str(count) for count in (one.boxes, one.requested) if count is not None]
        table.add_row(one.name, *counts, _figure(one.highest_confidence))
    return table


def _highest_lines(alarms: FalseAlarms) -> Iterator[str]:
    title = "Highest"
    for box_ in alarms.highest:
        yield f"{title:<10} {box_.confidence:.3f} {box_.name} in {box_.picture}"
        title = ""


def _ends(figure: Estimate) -> str:
    return f"{figure.low:.3f} to {figure.high:.3f}"


def _comparison_table(figures: Figures, other: Figures, differences: tuple[Difference, Difference]) -> Table:
    table = _table("On the same pictures", "", "mAP50-95", "mAP50")
    for one in (figures, other):
        if one.sizes:
            size = one.sizes["all"]
            table.add_row(_title(one.network), _precise(size.ap50_95), _precise(size.ap50))
    table.add_row("first minus second", *(f"{d.estimate:+.5f}" for d in differences))
    table.add_row("95 % interval", *(f"{d.low:+.5f} to {d.high:+.5f}" for d in differences))
    return table


def _comparison_lines(comparison: Comparison) -> Iterator[str]:
    """The verdict first, with all that it may be due to."""
    verdict, *rest = _judgements(comparison)
    yield f"{verdict}; {describe_differences(comparison.differences, comparison.other.network)}"
    yield from rest


def _judgements(comparison: Comparison) -> Iterator[str]:
    found, alarms = comparison.boxes, comparison.false_boxes_per_picture
    if comparison.map50_95:
        yield (
            f"Interval   paired bootstrap over pictures, {comparison.resamples} resamples, the same for both; "
            f"{_verdict(comparison.map50_95)}"
        )
    if alarms:
        yield (
            f"Alarms     above {found.confidence:g}, first minus second: {alarms.estimate:+.3f} false boxes per "
            f"picture without objects (95 % interval {alarms.low:+.3f} to {alarms.high:+.3f})"
        )
    yield (
        f"Boxes      above {found.confidence:g}: {found.boxes[0]} and {found.boxes[1]}; {found.pairs} pairs (class, "
        f"IoU 0.5), {found.one_side_only} of them on two sides of the threshold; {found.unpaired[0]} and "
        f"{found.unpaired[1]} without a partner"
    )
    yield (
        f"           within pairs the confidence differs by at most {found.largest_confidence_difference:.2g} and a "
        f"corner by {found.largest_corner_difference_px:.2g} px"
    )


def _verdict(difference: Difference) -> str:
    bound = max(abs(difference.low), abs(difference.high))
    if difference.low <= 0 <= difference.high:
        return f"these pictures show no difference in mAP50-95, and none beyond {bound:.2g}"
    return f"mAP50-95 differs, by up to {bound:.2g}"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _precise(value: float | None) -> str:
    return "-" if value is None else f"{value:.5f}"

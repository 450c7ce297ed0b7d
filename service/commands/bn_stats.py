"""``bn-stats``: the BatchNorm statistics of a bundle."""

from pathlib import Path
from typing import Annotated

import orjson
import typer
from rich.console import Console

from service.bundle.batchnorm import FoldStatus, Stage
from service.bundle.health import Severity, WarningCode
from service.commands.options import BundleDir, DefaultConf, Head, Imgsz, Rect, Weights, missing_folder
from service.commands.served_bundle import load_served
from service.errors import ReportUnwritable
from service.observatory.document import Detail, bn_stats_document
from service.observatory.pruning import PruneRule
from service.observatory.selection import Selection, SortKey, SortOrder
from service.observatory.spreadsheet import bn_stats_csv
from service.settings import load_settings


def bn_stats(
    weights: Weights = None,
    imgsz: Imgsz = None,
    rect: Rect = None,
    head: Head = None,
    default_conf: DefaultConf = None,
    bundle_dir: BundleDir = None,
    layer: Annotated[str | None, typer.Option(help="Everything about this BatchNorm or convolution.")] = None,
    stage: Annotated[Stage | None, typer.Option(help="Only this stage.")] = None,
    status: Annotated[FoldStatus | None, typer.Option(help="Only this status.")] = None,
    warning: Annotated[WarningCode | None, typer.Option(help="Only layers with this warning.")] = None,
    severity: Annotated[Severity | None, typer.Option(help="Only layers with a warning at least this severe.")] = None,
    sort: Annotated[SortKey, typer.Option(help="Order of the layers.")] = "checkpoint",
    order: Annotated[SortOrder, typer.Option(help="Rising or falling.")] = "asc",
    prune_percentile: Annotated[
        float | None, typer.Option(min=0, max=100, help="Count channels up to this percentile of |gamma|.")
    ] = None,
    prune_threshold: Annotated[
        float | None, typer.Option(min=0, help="Instead: count channels with |gamma| up to this.")
    ] = None,
    csv: Annotated[Path | None, typer.Option(help="Write a table to this file.")] = None,
    detail: Annotated[Detail, typer.Option(help="What a row of that table is: summary, a layer; full, a channel.")] = (
        "summary"
    ),
    json: Annotated[bool, typer.Option("--json", help="Print what GET /model/bn-stats?detail=full answers.")] = False,
    codes: Annotated[bool, typer.Option("--codes", help="Print every warning there is, and end.")] = False,
) -> None:
    """Print the BatchNorm statistics of a bundle, their warnings and sparklines of |gamma|."""
    from service.observatory import terminal

    if codes:
        terminal.print_warning_kinds(Console())
        return
    if prune_threshold is not None and prune_percentile is not None:
        raise typer.BadParameter("give one of --prune-threshold and --prune-percentile, which set the same threshold")
    if detail == "full" and csv is None:
        raise typer.BadParameter("--detail is about the table of --csv; --json is always in full")
    if reason := missing_folder(csv):
        raise ReportUnwritable(reason)
    bundle = load_served(
        load_settings(
            weights=weights, imgsz=imgsz, rect=rect, head=head, default_conf=default_conf, bundle_dir=bundle_dir
        )
    )
    selection = Selection(layer, stage, status, warning, severity, sort, order)
    rule = _rule(prune_threshold, prune_percentile)
    if csv is not None:
        csv.write_text(bn_stats_csv(bundle, selection, rule, detail), encoding="utf-8", newline="")
    if json:
        document = bn_stats_document(bundle, selection, rule, "full")
        print(orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_INDENT_2).decode())
    elif csv is None:
        terminal.print_bn_stats(Console(), bundle, selection, rule)


def _rule(threshold: float | None, percentile: float | None) -> PruneRule:
    if percentile is not None:
        return PruneRule("percentile", percentile)
    return PruneRule() if threshold is None else PruneRule("threshold", threshold)

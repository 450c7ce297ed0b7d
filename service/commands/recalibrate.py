"""``recalibrate``: BatchNorm's statistics anew, in a bundle beside the served one."""

import math
from pathlib import Path
from typing import Annotated

import typer

from service.commands.console import StepProgress
from service.commands.options import BundleDir, DefaultConf, Head, Imgsz, Rect, ReportFile, Weights, missing_folder
from service.commands.prepare_extra import needing_prepare_extra
from service.commands.served_bundle import load_served
from service.commands.termination import exit_orderly_when_terminated
from service.errors import RecalibrationError
from service.settings import load_settings


def recalibrate(
    data: Annotated[Path, typer.Option(help="Folder of unlabelled pictures like those that will be served.")],
    prior: Annotated[
        float,
        typer.Option(min=0, help="How many pictures the old statistics count for; 0 takes the new ones alone."),
    ],
    hold_back: Annotated[
        float,
        typer.Option(min=0, max=0.9, help="Share of the pictures kept apart for the comparison; 0 compares on all."),
    ] = 0.2,
    out: Annotated[
        Path | None, typer.Option(help="Folder that the new bundle becomes; by default one beside the served bundle.")
    ] = None,
    json: ReportFile = None,
    weights: Weights = None,
    imgsz: Imgsz = None,
    rect: Rect = None,
    head: Head = None,
    default_conf: DefaultConf = None,
    bundle_dir: BundleDir = None,
) -> None:
    """Estimate BatchNorm's statistics anew on unlabelled pictures, in a bundle beside the served one."""
    settings = load_settings(
        weights=weights, imgsz=imgsz, rect=rect, head=head, default_conf=default_conf, bundle_dir=bundle_dir
    )
    served = load_served(settings)
    if not math.isfinite(prior):
        raise RecalibrationError(f"--prior {prior} is not a number of pictures.")
    if reason := missing_folder(json):
        raise RecalibrationError(reason)
    exit_orderly_when_terminated()
    from service.machine import usable_cores
    from service.recalibration.table import print_report

    with needing_prepare_extra("recalibrate"):
        from service.recalibration.recalibrate import Request
        from service.recalibration.recalibrate import recalibrate as run_recalibration

    cores = usable_cores()
    request = Request(data, prior, hold_back, out, settings.threads_on(cores), settings.network_callers_on(cores))
    report = run_recalibration(served, request, settings, StepProgress())
    print_report(report)
    if json is not None:
        json.write_text(report.model_dump_json(indent=1) + "\n", encoding="utf-8")

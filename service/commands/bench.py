"""``bench``: what folding gains on this machine."""

from pathlib import Path
from typing import Annotated

import typer

from service.commands.console import console
from service.commands.options import BundleDir, DefaultConf, Head, Imgsz, Rect, Weights, missing_folder
from service.commands.served_bundle import load_served
from service.errors import MeasurementRefused
from service.settings import load_settings


def bench(
    weights: Weights = None,
    imgsz: Imgsz = None,
    rect: Rect = None,
    head: Head = None,
    default_conf: DefaultConf = None,
    bundle_dir: BundleDir = None,
    rounds: Annotated[int, typer.Option(min=12, help="Rounds of each series; in each, every arm runs once.")] = 30,
    batch: Annotated[
        list[int] | None, typer.Option(min=1, help="Images per run; may be repeated. By default 1, 4 and 8.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the report here.")] = None,
) -> None:
    """Measure on this machine what folding gains in the runtime that serves; the bundle is left as it is."""
    if problem := missing_folder(json_file):
        raise MeasurementRefused(problem)
    settings = load_settings(
        weights=weights, imgsz=imgsz, rect=rect, head=head, default_conf=default_conf, bundle_dir=bundle_dir
    )
    bundle = load_served(settings)
    from service.machine import usable_cores
    from service.measurement.bench import bench_bundle
    from service.measurement.study import ALL_BATCHES, Effort
    from service.measurement.terminal import report_lines

    cores = usable_cores()
    batches = tuple(sorted(set(batch))) if batch else ALL_BATCHES
    with console.status("Measuring ...") as status:
        report = bench_bundle(
            bundle,
            Effort(rounds, float("inf"), thorough=True, batches=batches),
            threads=settings.threads_on(cores),
            callers=settings.network_callers_on(cores),
            device=settings.device,
            threads_chosen=settings.threads > 0,
            progress=lambda stage, done, wanted: status.update(f"Measuring {stage} ... {done}/{wanted}"),
        )
    if json_file is not None:
        json_file.write_text(report.model_dump_json(indent=1) + "\n")
    print(*report_lines(report), sep="\n")

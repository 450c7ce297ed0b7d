"""``calibrate``: what clean pictures look like to the network, which drift is held against."""

from pathlib import Path
from typing import Annotated

import typer

from service.commands.console import StepProgress
from service.commands.options import BundleDir, DefaultConf, Head, Imgsz, Rect, Weights
from service.commands.served_bundle import load_served
from service.settings import load_settings


def calibrate(
    data: Annotated[Path, typer.Option(help="A folder of clean pictures, as the service should receive them.")],
    rate: Annotated[
        float, typer.Option(min=0.0001, max=0.2, help="False alarms wanted, as a share of the windows of 32 pictures.")
    ] = 0.01,
    weights: Weights = None,
    imgsz: Imgsz = None,
    rect: Rect = None,
    head: Head = None,
    default_conf: DefaultConf = None,
    bundle_dir: BundleDir = None,
) -> None:
    """Learn from clean pictures what drift is held against; a server started afterwards uses it."""
    settings = load_settings(
        weights=weights, imgsz=imgsz, rect=rect, head=head, default_conf=default_conf, bundle_dir=bundle_dir
    )
    bundle = load_served(settings)
    from datetime import UTC, datetime

    from service.drift.layers import watch_layers
    from service.inference.calibration_file import require_writable, save_calibration
    from service.inference.calibration_pictures import measure_folder
    from service.inference.learn import learn
    from service.lint.signatures import describe_signatures

    require_writable(bundle)  # before minutes of measuring
    progress = StepProgress()
    with progress.step("Measure") as advance:
        lesson = measure_folder(bundle, data, settings.max_pixels, advance)
    with progress.step("Calibrate"):
        now = datetime.now(UTC).isoformat(timespec="seconds")
        learnt = learn(lesson, watch_layers(bundle).channels, rate, now)
    path, baseline = save_calibration(learnt, bundle), learnt.drift.baseline
    print(*describe_signatures(learnt.faults), sep="\n")
    print(
        f"{baseline.pictures} pictures; the alarm is raised above a score of {baseline.threshold:.3f}, set for "
        f"{baseline.rate:.2%} false alarms and exceeded by {baseline.measured_rate:.2%} of the windows left out"
    )
    print(path)

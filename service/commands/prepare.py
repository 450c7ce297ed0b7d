"""``prepare``: weights in, bundle out."""

import shlex
from typing import Annotated

import typer

from service.bundle.health import SEVERITIES
from service.bundle.store import Bundle, load_bundle
from service.commands.console import StepProgress, console, print_error, print_warning
from service.commands.options import BundleDir, DefaultConf, Head, Imgsz, Rect, Weights
from service.commands.prepare_extra import needing_prepare_extra
from service.commands.served_bundle import load_served, warning_of_new_weights
from service.commands.termination import exit_orderly_when_terminated
from service.errors import BundleError, BundleMissing, WeightsHashMismatch
from service.measurement.terminal import series_verdicts
from service.settings import load_settings


def prepare(
    weights: Weights = None,
    imgsz: Imgsz = None,
    rect: Rect = None,
    head: Head = None,
    default_conf: DefaultConf = None,
    bundle_dir: BundleDir = None,
    force: Annotated[bool, typer.Option(help="Prepare again even if a bundle exists.")] = False,
    latency_rounds: Annotated[
        int | None, typer.Option(min=12, help="Measure this many rounds, without the quick run's time limit.")
    ] = None,
    latency_thorough: Annotated[
        bool,
        typer.Option(
            "--latency-thorough",
            help="Measure all there is, without a time limit: both heads, preprocessing, batches of 1, 4 and 8, "
            "throughput, memory.",
        ),
    ] = False,
) -> None:
    """Read, fold, prove, export and measure a checkpoint, and write the bundle."""
    settings = load_settings(
        weights=weights, imgsz=imgsz, rect=rect, head=head, default_conf=default_conf, bundle_dir=bundle_dir
    )
    if not force:
        try:
            bundle = load_served(settings)
            reused = f"Reusing {bundle.path}. Use --force to prepare it again."
            console.print(reused, highlight=False, markup=False, soft_wrap=True)
            if warning := warning_of_new_weights(settings, bundle):
                print_warning(warning)
            return
        except BundleMissing:
            pass
        except (BundleError, WeightsHashMismatch) as error:
            print_error(error)
            console.print("It is prepared again.")
    exit_orderly_when_terminated()
    from service.machine import usable_cores
    from service.measurement.study import ALL_BATCHES, Effort

    with needing_prepare_extra("prepare"):
        from service.prepare.pipeline import prepare_bundle

    effort = Effort() if latency_rounds is None else Effort(latency_rounds, float("inf"))
    if latency_thorough:
        effort = Effort(effort.rounds, float("inf"), thorough=True, batches=ALL_BATCHES)
    prepared = prepare_bundle(settings, StepProgress(), effort, usable_cores())
    _print_summary(load_bundle(prepared.path), prepared.trained_imgsz)


def _print_summary(bundle: Bundle, trained_imgsz: int | None) -> None:
    from service.measurement.study import LEFT_OUT

    manifest, totals, certificate = bundle.manifest, bundle.batchnorm.totals, bundle.certificate
    worst = max(certificate.layers, key=lambda layer: layer.relative_error / layer.tolerance, default=None)
    lines = [
        f"Model      {manifest.model.name} {manifest.model.version}, {manifest.weights.source} weights, "
        f"{manifest.model.head.kind} head, suppression: {manifest.model.head.nms}",
        f"BatchNorm  {totals.layers} layers: {totals.folded} folded, {totals.dropped} dropped with the unused head, "
        f"{totals.unfoldable} left; {totals.dead_channels} dead and {totals.eps_dominated_channels} eps-dominated "
        "channels",
        f"Graphs     {manifest.deployed.nodes} nodes served; {manifest.reference.nodes} in the reference, "
        f"{manifest.reference.batch_normalization_nodes} of them BatchNormalization",
    ]
    severities = [warning.severity for warning in bundle.health.warnings]
    counts = ", ".join(f"{severities.count(severity)} {severity}" for severity in SEVERITIES)
    # Named by its folder, it is found whatever options or settings led here.
    folder = shlex.quote(str(bundle.path.resolve()))
    lines.append(f"Health     {counts}; `python -m service bn-stats --bundle-dir {folder}` says what")
    if worst is not None:
        lines.append(
            f"Proof      passed on {len(certificate.end_to_end)} inputs; worst layer {worst.name} at "
            f"{worst.relative_error / worst.tolerance:.0%} of its bound"
        )
    if bundle.self_check.highest_confidence is not None:
        lines.append(
            "Self-check sees only that no box comes: this network answers none to any of the pictures"
            if bundle.self_check.highest_confidence == 0
            else "Self-check compares the highest confidence only: rounding decides which boxes this network answers, "
            "as if it had not been trained"
        )
    lines += [f"Latency    {line}" for line in series_verdicts(bundle.latency.series[0])]
    left = [item for item in bundle.latency.not_measured if item.reason != LEFT_OUT]
    lines += [f"Latency    not measured: {item.question} {item.reason}" for item in left]
    imgsz = manifest.model.input.height
    if trained_imgsz is not None and trained_imgsz != imgsz:
        lines.append(
            f"Size       trained at {trained_imgsz} px, served at {imgsz} px; `--imgsz {trained_imgsz}` "
            f"(YOLOFOLD_IMGSZ={trained_imgsz}) serves it as it was trained"
        )
    if manifest.weights.note:
        lines.append(f"Note       {manifest.weights.note}")
    lines.append(f"Bundle     {bundle.path}")
    console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)

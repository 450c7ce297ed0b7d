"""``halve``: the served network in fp16, in a bundle beside it, if it finds the same boxes."""

from pathlib import Path
from typing import Annotated

import typer

from service.bundle.store import Bundle
from service.commands.console import StepProgress
from service.commands.options import BundleDir, DefaultConf, Head, Imgsz, Rect, Weights
from service.commands.prepare_extra import needing_prepare_extra
from service.commands.served_bundle import load_served
from service.commands.termination import exit_orderly_when_terminated
from service.settings import load_settings


def halve(
    out: Annotated[
        Path | None, typer.Option(help="Folder that the new bundle becomes; by default one beside the served bundle.")
    ] = None,
    weights: Weights = None,
    imgsz: Imgsz = None,
    rect: Rect = None,
    head: Head = None,
    default_conf: DefaultConf = None,
    bundle_dir: BundleDir = None,
) -> None:
    """Convert the served network to fp16, for GPUs, in a bundle beside it, if it finds the same boxes."""
    settings = load_settings(
        weights=weights, imgsz=imgsz, rect=rect, head=head, default_conf=default_conf, bundle_dir=bundle_dir
    )
    served = load_served(settings)
    exit_orderly_when_terminated()
    from service.machine import usable_cores

    with needing_prepare_extra("halve"):
        from service.quantization.halve import halve as run_halving

    print(*_lines(run_halving(served, out, settings.threads_on(usable_cores()), StepProgress())), sep="\n")


def _lines(bundle: Bundle) -> list[str]:
    spec = bundle.fp16
    assert spec is not None  # written a moment ago
    return [
        f"{spec.convolutions} convolutions in fp16, {len(spec.kept_in_float)} in float32; rounded so, {spec.repeated} "
        f"of {spec.boxes} boxes repeated, {spec.new} new",
        f"Serve it with YOLOFOLD_BUNDLE_DIR={bundle.path.resolve()} YOLOFOLD_PRECISION=fp16 on a GPU",
        str(bundle.path),
    ]

"""``quantize``: the served network in int8, in a bundle beside it, if it finds the same boxes."""

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


def quantize(
    data: Annotated[Path, typer.Option(help="Folder of pictures like those that will be served; no labels needed.")],
    calibration: Annotated[int, typer.Option(min=1, help="How many of them set the ranges of int8.")] = 48,
    pictures: Annotated[
        int | None, typer.Option(min=1, help="How many others judge whether boxes recur; by default all.")
    ] = None,
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
    """Quantize the served network to int8, in a bundle beside it, if it finds the same boxes on pictures of yours."""
    settings = load_settings(
        weights=weights, imgsz=imgsz, rect=rect, head=head, default_conf=default_conf, bundle_dir=bundle_dir
    )
    served = load_served(settings)
    exit_orderly_when_terminated()
    from service.machine import usable_cores

    with needing_prepare_extra("quantize"):
        from service.quantization.quantize import Request
        from service.quantization.quantize import quantize as run_quantization

    threads = settings.threads_on(usable_cores())
    request = Request(data, calibration, pictures, out, settings.max_pixels, threads)
    print(*_lines(run_quantization(served, request, StepProgress())), sep="\n")


def _lines(bundle: Bundle) -> list[str]:
    spec = bundle.int8
    assert spec is not None  # written a moment ago
    gate = spec.gate
    lines = [
        f"{spec.convolutions} convolutions in int8, {len(spec.kept_in_float)} in float; calibrated on "
        f"{spec.calibration.pictures} pictures, judged by {gate.pictures.pictures} others",
    ]
    for way in gate.ways:
        lines.append(
            f"{way.precision} in {way.runtime}: {way.repeated} of {way.boxes} boxes repeated (of all in pictures like "
            f"these {way.repeated_at_least:.1%} or more), {way.new} new: "
            + ("passed" if way.reason is None else f"refused, {way.reason}")
        )
    return [
        *lines,
        f"Serve it with YOLOFOLD_BUNDLE_DIR={bundle.path.resolve()} YOLOFOLD_ENGINE=openvino YOLOFOLD_PRECISION=int8",
        str(bundle.path),
    ]

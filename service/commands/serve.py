"""``serve``: the HTTP service."""

from pathlib import Path
from typing import Annotated

import typer

from service.bundle.store import Bundle
from service.commands.console import print_warning
from service.commands.options import BundleDir, DefaultConf, Head, Imgsz, Rect, Weights
from service.commands.served_bundle import read_served, warning_of_new_weights
from service.settings import load_settings

#: To be found where the repository is the working directory, which it is not in a container.
SAMPLE = Path("samples/parcel.jpg")


def serve(
    weights: Weights = None,
    imgsz: Imgsz = None,
    rect: Rect = None,
    head: Head = None,
    default_conf: DefaultConf = None,
    bundle_dir: BundleDir = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on. [YOLOFOLD_HOST]")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on, 0 for a free one. [YOLOFOLD_PORT]")] = None,
) -> None:
    """Serve the bundle over HTTP."""
    settings = load_settings(
        weights=weights,
        imgsz=imgsz,
        rect=rect,
        head=head,
        default_conf=default_conf,
        bundle_dir=bundle_dir,
        host=host,
        port=port,
    )
    bundle = read_served(settings)
    if warning := warning_of_new_weights(settings, bundle):
        print_warning(warning)
    from service.api.server import run_server

    run_server(settings, bundle, announce=lambda address, runs_on: _announce(address, runs_on, bundle))


def _announce(address: str, runs_on: str, bundle: Bundle) -> None:
    manifest = bundle.manifest
    model = manifest.model
    print(
        f"yolofold serves {model.name} {model.version} ({manifest.weights.source} weights, "
        f"{len(model.classes)} classes, {model.input.width} px, "
        f"{bundle.batchnorm.totals.folded} BatchNorm layers folded)\n"
        f"  on {runs_on}\n"
        f"  {address}            the page; {address}/docs for the API\n"
        f"  curl -F file=@{SAMPLE if SAMPLE.is_file() else 'picture.jpg'} {address}/detect",
        flush=True,
    )
    if manifest.weights.note:
        print_warning(manifest.weights.note)

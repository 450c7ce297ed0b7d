"""``bundle``: which bundle would be served."""

from service.commands.options import BundleDir, DefaultConf, Head, Imgsz, Rect, Weights
from service.commands.served_bundle import load_served
from service.settings import load_settings


def bundle(
    weights: Weights = None,
    imgsz: Imgsz = None,
    rect: Rect = None,
    head: Head = None,
    default_conf: DefaultConf = None,
    bundle_dir: BundleDir = None,
) -> None:
    """Print the folder of the bundle these settings serve; exit 3 when there is none that can be served."""
    settings = load_settings(
        weights=weights, imgsz=imgsz, rect=rect, head=head, default_conf=default_conf, bundle_dir=bundle_dir
    )
    print(load_served(settings).path)

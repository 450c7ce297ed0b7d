"""A bundle beside the one that is served: what it is called, and that it takes nobody's place."""

import re
from pathlib import Path

from service.bundle.store import is_settings_name
from service.errors import BundleNameRefused


def beside_name(model: str, kind: str, version: str) -> str:
    """Name for the folder of a bundle that settings alone do not find.

    Args:
        kind: what the bundle is in a word, such as ``"int8"``.
    """
    # Without a hyphen, which every name that serving looks for has.
    return f"{re.sub('[^A-Za-z0-9.]+', '_', model)}_{kind}_{version}"


def require_free(out: Path) -> None:
    """Check that a new bundle may be written to a folder of this name.

    Raises:
        BundleNameRefused: something lies there, or serving would find it by its settings.
    """
    if is_settings_name(out.name):
        raise BundleNameRefused(
            f"{out} is named like a bundle that serving finds by its settings; it could replace the served one. "
            "Choose another name."
        )
    if out.exists():
        raise BundleNameRefused(f"{out} exists already, and nothing is replaced.")

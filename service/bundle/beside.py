"""A bundle beside the one that is served: what it is called, and that it takes nobody's place."""

import datetime
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from service.bundle.manifest import Record
from service.bundle.store import (
    MANIFEST,
    Bundle,
    bundle_writer,
    fingerprint_files,
    is_settings_name,
    load_bundle,
    write_json,
)
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


def write_beside(bundle: Bundle, target: Path, version: str, added: Mapping[str, Path | Record]) -> Bundle:
    """Write the files of a bundle, with what is added or takes the place of others, as a bundle of its own.

    Args:
        target: the folder, where nothing lies yet.
        version: of the new bundle.
        added: by name, a file to copy or a record.

    Raises:
        BundleNameRefused: something lies there, or serving would find it by its settings.
    """
    require_free(target)
    manifest = bundle.manifest
    with bundle_writer(target.parent, target.name) as folder:
        for name in manifest.files:
            shutil.copyfile(bundle.path / name, folder / name)
        for name, content in added.items():
            if isinstance(content, Path):
                shutil.copyfile(content, folder / name)
            else:
                write_json(folder / name, content)
        changes = {
            "created_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "model": manifest.model.model_copy(update={"version": version}),
            "files": fingerprint_files(folder),
        }
        write_json(folder / MANIFEST, manifest.model_copy(update=changes))
    return load_bundle(target)

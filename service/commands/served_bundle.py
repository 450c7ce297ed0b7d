"""The bundle that settings lead to."""

from pathlib import Path

from service.bundle.graph_fold import require_folded_graph
from service.bundle.store import Bundle, bundle_key, find_bundle, load_bundle, sha256_file
from service.errors import BundleMissing, SettingsError, WeightsHashMismatch
from service.settings import Settings

#: A larger file is not read for a warning's sake: the start waits for it, a second or so for one of this size.
_MOST_READ_BYTES = 1_000_000_000


def load_served(settings: Settings) -> Bundle:
    """The bundle that these settings serve, after all that serving checks before it runs the graph.

    Raises:
        BundleUncertified: the graph that it deploys is not the fold of its reference graph.
        BundleError, WeightsHashMismatch, SettingsError: as for ``read_served``.
    """
    bundle = read_served(settings)
    require_folded_graph(bundle)
    return bundle


def read_served(settings: Settings) -> Bundle:
    """Read the bundle that these settings serve, for what walks through its graphs itself.

    Raises:
        BundleError: there is none, or none that can be served.
        WeightsHashMismatch: it was prepared from other weights than demanded.
        SettingsError: YOLOFOLD_BUNDLE_DIR names a bundle with another default confidence than the one asked for, or
            one for squares where padding should be left out.
    """
    key = bundle_key(settings.weights, settings.imgsz, settings.head, settings.default_conf, rect=settings.rect)
    path = find_bundle(settings.bundle_dir, key)
    if path is None:
        raise BundleMissing(
            f"There is no bundle for {key} in {settings.bundle_dir.resolve()}. Run `python -m service prepare`."
        )
    bundle = load_bundle(path)
    if settings.weights_sha256 not in (None, bundle.manifest.weights.sha256):
        raise WeightsHashMismatch(
            f"{path} was prepared from weights with SHA-256 {bundle.manifest.weights.sha256}, but "
            f"{settings.weights_sha256} is demanded. `python -m service prepare --force` prepares it again."
        )
    if settings.default_conf not in (None, bundle.manifest.model.default_confidence):
        raise SettingsError(
            f"YOLOFOLD_BUNDLE_DIR names the bundle {path}, whose default confidence is "
            f"{bundle.manifest.model.default_confidence:g}, but YOLOFOLD_DEFAULT_CONF is {settings.default_conf:g}."
        )
    if settings.rect and bundle.manifest.model.input.rect is None:
        raise SettingsError(
            f"YOLOFOLD_RECT is set, but YOLOFOLD_BUNDLE_DIR names the bundle {path}, which was prepared for squares."
        )
    return bundle


def warning_of_new_weights(settings: Settings, bundle: Bundle) -> str | None:
    """What to tell whoever has put other weights at the path that the settings name, since the bundle is reused.

    None where the file is the one prepared, cannot be read here or is too large, and where the settings name the bundle
    itself.
    """
    path = Path(settings.weights)
    if settings.weights in ("auto", "embedded") or bundle.path == settings.bundle_dir:
        return None
    try:
        if not path.is_file() or path.stat().st_size > _MOST_READ_BYTES:
            return None
        found = sha256_file(path)
    except OSError:
        return None
    if found == bundle.manifest.weights.sha256:
        return None
    return (
        f"{path} is not the file that {bundle.path} was prepared from: its SHA-256 is {found}, that one's was "
        f"{bundle.manifest.weights.sha256}. The bundle is used as it is; `python -m service prepare --force` takes up "
        "the new weights."
    )

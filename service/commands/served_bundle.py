"""The bundle that settings lead to."""

from service.bundle.store import Bundle, bundle_key, find_bundle, load_bundle
from service.errors import BundleMissing, SettingsError, WeightsHashMismatch
from service.settings import Settings


def load_served(settings: Settings) -> Bundle:
    """Read and verify the bundle that these settings serve.

    Raises:
        BundleError: there is none, or none that can be served.
        WeightsHashMismatch: it was prepared from other weights than demanded.
        SettingsError: YOLOFOLD_BUNDLE_DIR names a bundle with another default confidence than the one asked for.
    """
    key = bundle_key(settings.weights, settings.imgsz, settings.head, settings.default_conf)
    path = find_bundle(settings.bundle_dir, key)
    if path is None:
        raise BundleMissing(
            f"There is no bundle for {key} in {settings.bundle_dir.resolve()}. Run `python -m service prepare`."
        )
    bundle = load_bundle(path)
    if settings.weights_sha256 not in (None, bundle.manifest.weights.sha256):
        raise WeightsHashMismatch(
            f"{path} was prepared from weights with SHA-256 {bundle.manifest.weights.sha256}, but "
            f"{settings.weights_sha256} is demanded."
        )
    if settings.default_conf not in (None, bundle.manifest.model.default_confidence):
        raise SettingsError(
            f"YOLOFOLD_BUNDLE_DIR names the bundle {path}, whose default confidence is "
            f"{bundle.manifest.model.default_confidence:g}, but YOLOFOLD_DEFAULT_CONF is {settings.default_conf:g}."
        )
    return bundle

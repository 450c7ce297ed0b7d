"""A calibration: what clean pictures look like to the probe, learned once and kept in a file beside the bundle."""

import io
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from service.bundle.manifest import Record, Sha256
from service.bundle.probe import FIGURES
from service.bundle.store import PROBE_GRAPH, Bundle, replace_file
from service.drift.baseline import MIN_PICTURES, WINDOW, Baseline, fit_baseline
from service.drift.distances import Normal, pool
from service.drift.features import Samples
from service.drift.words import TRAITS, TraitLaw, trait_law
from service.errors import CalibrationUnusable

DEFAULT_RATE = 0.01
"""False alarms wanted, as a share of the windows of clean pictures."""
#: Pictures that `calibrate` asks for at least: fewer tell only gross drifts.
LEAST_PICTURES = 2 * MIN_PICTURES
_SEED = 0
_ARRAYS = ("center", "scale", "whitening", "law_mean", "law_variance", "trait_mean", "trait_deviation")
_UNREADABLE = (OSError, EOFError, ValueError, TypeError, KeyError, BadZipFile, zlib.error)


class CalibrationSpec(Record):
    """What a calibration file says about itself."""

    schema_version: Literal[1] = 1
    model_version: str
    probe_sha256: Sha256
    created_at: str = Field(description="UTC, ISO 8601.")
    pictures: int
    window: int
    rate: float
    measured_rate: float
    threshold: float


@dataclass(frozen=True)
class Calibration:
    """What clean pictures look like.

    Attributes:
        baseline: their features, with the threshold for a window.
        law: every probed channel over all of them together.
        trait_law: what people would see in them.
        created_at: UTC, ISO 8601.
    """

    baseline: Baseline
    law: Normal
    trait_law: TraitLaw
    created_at: str


def calibrate(samples: Samples, channels: NDArray[np.intp], rate: float, created_at: str) -> Calibration:
    """Learn from clean pictures.

    Args:
        channels: those that count, as positions among the probed ones.
        rate: false alarms wanted, as a share of the windows of clean pictures.

    Raises:
        CalibrationUnusable: fewer than ``MIN_PICTURES`` different pictures.
    """
    features = samples.features(channels)
    different = len(np.unique(features.astype(np.float32), axis=0))
    if different < MIN_PICTURES:
        # The same few pictures over and over, as in a trial, say nothing about how others scatter.
        raise CalibrationUnusable(f"Only {different} of {len(samples)} pictures differ; {MIN_PICTURES} must.")
    try:
        baseline = fit_baseline(features, rate, np.random.default_rng(_SEED))
    except ValueError as error:
        raise CalibrationUnusable(f"These pictures allow no calibration: {error}.") from error
    return Calibration(baseline, pool(samples.means, samples.variances), trait_law(samples.figures), created_at)


def calibration_path(bundle: Bundle) -> Path:
    """Beside the bundle, which is sealed, and under its name."""
    folder = bundle.path.resolve()
    return folder.with_name(f"{folder.name}.drift.npz")


def save_calibration(calibration: Calibration, bundle: Bundle) -> Path:
    """Write the file under a temporary name and rename it, so that a kill leaves the old one or the new one.

    Raises:
        CalibrationUnusable: the folder cannot be written to.
    """
    path, baseline = calibration_path(bundle), calibration.baseline
    spec = CalibrationSpec(
        model_version=bundle.manifest.model.version,
        probe_sha256=bundle.manifest.files[PROBE_GRAPH].sha256,
        created_at=calibration.created_at,
        pictures=baseline.pictures,
        window=WINDOW,
        rate=baseline.rate,
        measured_rate=baseline.measured_rate,
        threshold=baseline.threshold,
    )
    data = io.BytesIO()
    values = (baseline.center, baseline.scale, baseline.whitening, calibration.law.mean, calibration.law.variance)
    arrays = dict(zip(_ARRAYS, (*values, calibration.trait_law.mean, calibration.trait_law.deviation), strict=True))
    np.savez_compressed(data, allow_pickle=False, spec=np.array(spec.model_dump_json()), **arrays)
    try:
        replace_file(path, data.getvalue())
    except OSError as error:
        raise CalibrationUnusable(f"{path} cannot be written: {error.strerror}.") from error
    return path


def load_calibration(bundle: Bundle) -> Calibration | None:
    """The calibration kept beside a bundle, None where there is none.

    Raises:
        CalibrationUnusable: the file is damaged, of another release, bundle or probe.
    """
    path = calibration_path(bundle)
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as stored:
            spec = CalibrationSpec(**json.loads(str(stored["spec"])))
            arrays = {name: stored[name] for name in _ARRAYS}
    except (*_UNREADABLE, ValidationError) as error:
        raise _unusable(path, "cannot be read") from error
    if spec.model_version != bundle.manifest.model.version:
        raise _unusable(path, f"belongs to bundle {spec.model_version}, not {bundle.manifest.model.version}")
    if spec.probe_sha256 != bundle.manifest.files[PROBE_GRAPH].sha256 or spec.window != WINDOW:
        raise _unusable(path, "was made with another probe or window")
    _require_shapes(path, arrays, bundle)
    baseline = Baseline(
        center=arrays["center"],
        scale=arrays["scale"],
        whitening=arrays["whitening"],
        threshold=spec.threshold,
        rate=spec.rate,
        pictures=spec.pictures,
        measured_rate=spec.measured_rate,
    )
    seen = TraitLaw(arrays["trait_mean"], arrays["trait_deviation"], spec.pictures)
    return Calibration(baseline, Normal(arrays["law_mean"], arrays["law_variance"]), seen, spec.created_at)


def _require_shapes(path: Path, arrays: dict[str, NDArray[np.float64]], bundle: Bundle) -> None:
    channels = bundle.probe.channels
    features = 2 * sum(len(layer.feature_channels) for layer in bundle.probe.layers) + len(FIGURES)
    wanted = dict.fromkeys(("center", "scale"), (features,)) | {"whitening": (features, features)}
    wanted |= dict.fromkeys(("law_mean", "law_variance"), (channels,))
    wanted |= dict.fromkeys(("trait_mean", "trait_deviation"), (len(TRAITS),))
    for name, values in arrays.items():
        if values.shape != wanted[name] or values.dtype != np.float64 or not np.isfinite(values).all():
            raise _unusable(path, f"holds no usable {name}")


def _unusable(path: Path, reason: str) -> CalibrationUnusable:
    return CalibrationUnusable(f"{path} {reason}. Delete it, or run `python -m service calibrate` again.")

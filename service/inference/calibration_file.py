"""What `python -m service calibrate` learnt, in one file beside the bundle.

One file, because its two parts were learnt from the same pictures: a stop while it is written leaves the two old parts
or the two new ones.
"""

import errno
import io
import os
import tempfile
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
from service.drift.baseline import WINDOW, Baseline
from service.drift.calibration import Calibration
from service.drift.distances import Normal
from service.drift.words import TRAITS, TraitLaw
from service.errors import CalibrationUnusable
from service.lint.faults import PICTURE_FAULTS
from service.lint.signatures import Signatures

Floats = NDArray[np.float64]
SCHEMA_VERSION: Literal[4] = 4

_UNREADABLE = (OSError, EOFError, ValueError, TypeError, KeyError, BadZipFile, zlib.error)


class DriftSpec(Record):
    """The figures of the drift baseline."""

    created_at: str = Field(description="UTC, ISO 8601.")
    pictures: int
    window: int
    rate: float
    measured_rate: float
    threshold: float
    usual: float
    faults: list[str] = Field(description="Known faults that windows are looked over for, in words.")


class FaultSpec(Record):
    """The figures of the faults' signatures."""

    names: list[str]
    temperature: float
    near: float = Field(gt=0)
    groups: list[int] = Field(description="Numbers of pictures for which there are confusions.")


class CalibrationSpec(Record):
    """What a calibration file says about itself."""

    schema_version: Literal[4] = SCHEMA_VERSION
    model_version: str
    probe_sha256: Sha256
    drift: DriftSpec
    faults: FaultSpec


@dataclass(frozen=True)
class Learnt:
    """What one run of `calibrate` learnt: what clean pictures look like, and what each fault looks like."""

    drift: Calibration
    faults: Signatures


def calibration_path(bundle: Bundle) -> Path:
    """Beside the bundle, which is sealed, and under its name."""
    folder = bundle.path.resolve()
    return folder.with_name(f"{folder.name}.calibration.npz")


def require_writable(bundle: Bundle) -> None:
    """Check that ``save_calibration`` will find room; nothing is left behind.

    Raises:
        CalibrationUnusable: the file cannot be written.
    """
    path = calibration_path(bundle)
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise _unwritable(path, error) from error


def save_calibration(learnt: Learnt, bundle: Bundle) -> Path:
    """Write the file under a temporary name and rename it, so that a kill leaves the old one or the new one.

    Raises:
        CalibrationUnusable: the folder cannot be written to.
    """
    path, baseline, faults = calibration_path(bundle), learnt.drift.baseline, learnt.faults
    spec = CalibrationSpec(
        model_version=bundle.manifest.model.version,
        probe_sha256=bundle.manifest.files[PROBE_GRAPH].sha256,
        drift=DriftSpec(
            created_at=learnt.drift.created_at,
            pictures=baseline.pictures,
            window=WINDOW,
            rate=baseline.rate,
            measured_rate=baseline.measured_rate,
            threshold=baseline.threshold,
            usual=baseline.usual,
            faults=list(baseline.faults),
        ),
        faults=FaultSpec(
            names=list(faults.names), temperature=faults.temperature, near=faults.near, groups=list(faults.confusion)
        ),
    )
    data = io.BytesIO()
    np.savez_compressed(data, allow_pickle=False, spec=np.array(spec.model_dump_json()), **_arrays_of(learnt))
    try:
        replace_file(path, data.getvalue())
    except OSError as error:
        raise _unwritable(path, error) from error
    return path


def load_calibration(bundle: Bundle) -> Learnt | None:
    """What is kept beside a bundle, None where there is nothing.

    Raises:
        CalibrationUnusable: the file is damaged, or of another release, bundle or probe.
    """
    path = calibration_path(bundle)
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as stored:
            spec = CalibrationSpec.model_validate_json(str(stored["spec"]))
            arrays: dict[str, Floats] = {name: stored[name] for name in stored.files if name != "spec"}
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        if where == "schema_version":
            raise _unusable(path, f"is in the format of another release; this one reads {SCHEMA_VERSION}") from error
        raise _unusable(path, f"cannot be read: {where}: {first['msg']}") from error
    except _UNREADABLE as error:
        raise _unusable(path, f"cannot be read: {error}") from error
    model = bundle.manifest.model
    if spec.model_version != model.version:
        raise _unusable(path, f"belongs to bundle {spec.model_version}, not {model.version}")
    if spec.probe_sha256 != bundle.manifest.files[PROBE_GRAPH].sha256 or spec.drift.window != WINDOW:
        raise _unusable(path, "was made with another probe or window")
    if spec.faults.names != [fault.name for fault in PICTURE_FAULTS] or spec.faults.groups[:1] != [1]:
        raise _unusable(path, f"knows the faults {', '.join(spec.faults.names)} in groups of {spec.faults.groups}")
    wanted = _shapes(bundle, spec)
    if set(arrays) != set(wanted):
        raise _unusable(path, f"holds the arrays {', '.join(sorted(arrays))}, not {', '.join(sorted(wanted))}")
    for name, values in arrays.items():
        if values.shape != wanted[name] or values.dtype != np.float64 or not np.isfinite(values).all():
            raise _unusable(path, f"holds no usable {name}")
    try:
        np.linalg.cholesky(arrays["faults/precision"])
    except np.linalg.LinAlgError as error:
        raise _unusable(path, "holds no usable faults/precision: it is not positive definite") from error
    return _learnt(spec, arrays)


def _arrays_of(learnt: Learnt) -> dict[str, Floats]:
    drift, faults = learnt.drift, learnt.faults
    return {
        "drift/center": drift.baseline.center,
        "drift/scale": drift.baseline.scale,
        "drift/whitening": drift.baseline.whitening,
        "drift/directions": drift.baseline.directions,
        "drift/limits": drift.baseline.limits,
        "drift/law_mean": drift.law.mean,
        "drift/law_variance": drift.law.variance,
        "drift/trait_mean": drift.trait_law.mean,
        "drift/trait_deviation": drift.trait_law.deviation,
        "faults/centers": faults.centers,
        "faults/scale": faults.scale,
        "faults/precision": faults.precision,
        **{f"faults/confusion_{size}": shares for size, shares in faults.confusion.items()},
    }


def _shapes(bundle: Bundle, spec: CalibrationSpec) -> dict[str, tuple[int, ...]]:
    channels, faults = bundle.probe.channels, len(spec.faults.names)
    features = 2 * sum(len(layer.feature_channels) for layer in bundle.probe.layers) + len(FIGURES)
    return {
        "drift/center": (features,),
        "drift/scale": (features,),
        "drift/whitening": (features, features),
        "drift/directions": (len(spec.drift.faults), features),
        "drift/limits": (len(spec.drift.faults),),
        "drift/law_mean": (channels,),
        "drift/law_variance": (channels,),
        "drift/trait_mean": (len(TRAITS),),
        "drift/trait_deviation": (len(TRAITS),),
        "faults/centers": (faults, features),
        "faults/scale": (features,),
        "faults/precision": (features, features),
        **{f"faults/confusion_{size}": (faults, faults + 1) for size in spec.faults.groups},
    }


def _learnt(spec: CalibrationSpec, arrays: dict[str, Floats]) -> Learnt:
    drift, faults = spec.drift, spec.faults
    baseline = Baseline(
        center=arrays["drift/center"],
        scale=arrays["drift/scale"],
        whitening=arrays["drift/whitening"],
        threshold=drift.threshold,
        usual=drift.usual,
        faults=tuple(drift.faults),
        directions=arrays["drift/directions"],
        limits=arrays["drift/limits"],
        rate=drift.rate,
        pictures=drift.pictures,
        measured_rate=drift.measured_rate,
    )
    traits = TraitLaw(arrays["drift/trait_mean"], arrays["drift/trait_deviation"], drift.pictures)
    law = Normal(arrays["drift/law_mean"], arrays["drift/law_variance"])
    signatures = Signatures(
        names=tuple(faults.names),
        centers=arrays["faults/centers"],
        scale=arrays["faults/scale"],
        precision=arrays["faults/precision"],
        temperature=faults.temperature,
        near=faults.near,
        confusion={size: arrays[f"faults/confusion_{size}"] for size in faults.groups},
    )
    return Learnt(Calibration(baseline, law, traits, drift.created_at), signatures)


def _unusable(path: Path, reason: str) -> CalibrationUnusable:
    return CalibrationUnusable(f"{path} {reason}. Delete it, or run `python -m service calibrate` again.")


def _unwritable(path: Path, error: OSError) -> CalibrationUnusable:
    return CalibrationUnusable(f"{path} cannot be written: {error.strerror}.")

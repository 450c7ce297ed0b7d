"""The learnt signatures on disk, beside the bundle they belong to."""

import io
import zlib
from pathlib import Path
from typing import Literal
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from service.bundle.manifest import Record, Sha256
from service.bundle.probe import FIGURES
from service.bundle.store import PROBE_GRAPH, Bundle, replace_file
from service.errors import CalibrationUnusable
from service.lint.faults import PICTURE_FAULTS
from service.lint.signatures import Signatures

_UNREADABLE = (OSError, EOFError, ValueError, TypeError, KeyError, BadZipFile, zlib.error, ValidationError)


class SignatureSpec(Record):
    """What a file of signatures says about itself."""

    schema_version: Literal[1] = 1
    model_version: str
    probe_sha256: Sha256
    names: list[str]
    temperature: float
    groups: list[int]


def signature_path(bundle: Bundle) -> Path:
    """Beside the bundle, which is sealed, and under its name."""
    folder = bundle.path.resolve()
    return folder.with_name(f"{folder.name}.faults.npz")


def save_signatures(signatures: Signatures, bundle: Bundle) -> Path:
    """Write the file under a temporary name and rename it, so that a kill leaves the old one or the new one.

    Raises:
        CalibrationUnusable: the folder cannot be written to.
    """
    path = signature_path(bundle)
    spec = SignatureSpec(
        model_version=bundle.manifest.model.version,
        probe_sha256=bundle.manifest.files[PROBE_GRAPH].sha256,
        names=list(signatures.names),
        temperature=signatures.temperature,
        groups=list(signatures.confusion),
    )
    arrays = {f"confusion_{size}": shares for size, shares in signatures.confusion.items()}
    arrays |= {"centers": signatures.centers, "scale": signatures.scale, "precision": signatures.precision}
    data = io.BytesIO()
    np.savez_compressed(data, allow_pickle=False, spec=np.array(spec.model_dump_json()), **arrays)
    try:
        replace_file(path, data.getvalue())
    except OSError as error:
        raise CalibrationUnusable(f"{path} cannot be written: {error.strerror}.") from error
    return path


def load_signatures(bundle: Bundle) -> Signatures | None:
    """The signatures kept beside a bundle, None where there are none.

    Raises:
        CalibrationUnusable: the file is damaged, of another release, bundle or probe.
    """
    path = signature_path(bundle)
    if not path.exists():
        return None
    again = "Delete it, or run `python -m service calibrate` again."
    try:
        with np.load(path, allow_pickle=False) as stored:
            spec = SignatureSpec.model_validate_json(str(stored["spec"]))
            arrays: dict[str, NDArray[np.float64]] = {name: stored[name] for name in stored.files if name != "spec"}
        _require_arrays(arrays, spec, bundle)
    except _UNREADABLE as error:
        raise CalibrationUnusable(f"{path} cannot be read: {error}. {again}") from error
    if spec.probe_sha256 != bundle.manifest.files[PROBE_GRAPH].sha256:
        raise CalibrationUnusable(f"{path} belongs to bundle {spec.model_version} and its probe. {again}")
    return Signatures(
        names=tuple(spec.names),
        centers=arrays["centers"],
        scale=arrays["scale"],
        precision=arrays["precision"],
        temperature=spec.temperature,
        confusion={size: arrays[f"confusion_{size}"] for size in spec.groups},
    )


def _require_arrays(arrays: dict[str, NDArray[np.float64]], spec: SignatureSpec, bundle: Bundle) -> None:
    """Raise ValueError where the arrays do not fit the faults and the probe."""
    if spec.names != [fault.name for fault in PICTURE_FAULTS] or spec.groups[:1] != [1]:
        raise ValueError(f"it knows the faults {', '.join(spec.names)} in groups of {spec.groups}")
    faults = len(spec.names)
    features = 2 * sum(len(layer.feature_channels) for layer in bundle.probe.layers) + len(FIGURES)
    wanted = {"centers": (faults, features), "scale": (features,), "precision": (features, features)}
    wanted |= {f"confusion_{size}": (faults, faults + 1) for size in spec.groups}
    found = {name: values.shape for name, values in arrays.items()}
    if found != wanted:
        raise ValueError(f"it holds arrays of {found}, not {wanted}")
    if not all(values.dtype == np.float64 and np.isfinite(values).all() for values in arrays.values()):
        raise ValueError("it holds values that are no finite float64")

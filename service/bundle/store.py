"""Bundles on disk: written under a temporary name and renamed, verified byte by byte before they are trusted."""

import datetime
import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from service.bundle.batchnorm import BatchNormReport, LayerTree
from service.bundle.certificate import FoldCertificate
from service.bundle.certificate_check import find_flaw
from service.bundle.fp16 import Fp16Spec
from service.bundle.health import BatchNormHealth
from service.bundle.int8 import Int8Spec
from service.bundle.latency import LatencyReport
from service.bundle.manifest import BundleManifest, FileRecord, Record
from service.bundle.probe import ProbeSpec
from service.bundle.self_check import IMAGE, ROWS, SelfCheckSpec
from service.errors import (
    BundleCorrupt,
    BundleDirUnusable,
    BundleIncomplete,
    BundleMissing,
    BundleSchemaError,
    BundleUncertified,
)

MANIFEST = "manifest.json"
DEPLOYED, REFERENCE = "model.onnx", "reference.onnx"
BN_STATS, BN_ARRAYS, LAYERS, CERTIFICATE, LATENCY = (
    "bn_stats.json",
    "bn_stats.npz",
    "layers.json",
    "fold.json",
    "latency.json",
)
HEALTH = "bn_health.json"
SELF_CHECK, SELF_CHECK_ARRAYS = "self_check.json", "self_check.npz"
PROBE, PROBE_GRAPH = "probe.json", "probe.onnx"
INT8, INT8_GRAPH = "int8.json", "model.int8.onnx"
FP16, FP16_GRAPH = "fp16.json", "model.fp16.onnx"
REQUIRED = frozenset(
    {
        DEPLOYED,
        REFERENCE,
        BN_STATS,
        BN_ARRAYS,
        HEALTH,
        LAYERS,
        CERTIFICATE,
        LATENCY,
        SELF_CHECK,
        SELF_CHECK_ARRAYS,
        PROBE,
        PROBE_GRAPH,
    }
)
#: In a bundle that was quantized or halved: each pair whole or not at all.
_PAIRS = frozenset({INT8, INT8_GRAPH}), frozenset({FP16, FP16_GRAPH})
#: All that numpy raises over a file that is no archive, or one whose entries are missing, damaged or pickled.
_UNREADABLE_ARRAYS = (OSError, EOFError, ValueError, TypeError, KeyError, BadZipFile, zlib.error)
_PARTIAL_PREFIX = ".partial-"
_LEFTOVER_AGE_S = 86_400
#: How names made of ``bundle_key`` and a version begin.
_SETTINGS_NAME = re.compile(r"[A-Za-z0-9._]*-\d+-(auto|one2one|one2many)[-_]")
T = TypeVar("T", bound=Record)


@dataclass(frozen=True)
class Bundle:
    """A verified bundle. Per-channel arrays stay on disk until they are asked for."""

    path: Path
    manifest: BundleManifest
    batchnorm: BatchNormReport
    health: BatchNormHealth
    layers: LayerTree
    certificate: FoldCertificate
    latency: LatencyReport
    self_check: SelfCheckSpec
    probe: ProbeSpec
    int8: Int8Spec | None
    fp16: Fp16Spec | None

    @property
    def deployed_graph(self) -> Path:
        """The ONNX file that is served, unless in int8 or fp16."""
        return self.path / DEPLOYED

    @property
    def int8_graph(self) -> Path:
        """The ONNX file that is served in int8; it is there where ``int8`` is."""
        return self.path / INT8_GRAPH

    @property
    def fp16_graph(self) -> Path:
        """The ONNX file that is served in fp16; it is there where ``fp16`` is."""
        return self.path / FP16_GRAPH

    @property
    def reference_graph(self) -> Path:
        """The ONNX file that kept its BatchNorm."""
        return self.path / REFERENCE

    @property
    def probe_graph(self) -> Path:
        """The ONNX file that measures the first layers."""
        return self.path / PROBE_GRAPH

    def batchnorm_arrays(self, layer: str, names: tuple[str, ...]) -> dict[str, NDArray[np.float32]]:
        """Read per-channel float32 arrays (channels,) of one layer, by array name.

        Raises:
            KeyError: the layer or an array is not in the bundle.
        """
        return self.all_batchnorm_arrays([layer], names)[layer]

    def all_batchnorm_arrays(
        self, layers: Iterable[str], names: tuple[str, ...]
    ) -> dict[str, dict[str, NDArray[np.float32]]]:
        """The same of several layers, by layer name, opening the file once."""
        with np.load(self.path / BN_ARRAYS, allow_pickle=False) as arrays:
            return {layer: {name: arrays[f"{layer}/{name}"] for name in names} for layer in layers}

    def self_check_arrays(self) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
        """Read the picture (H, W, 3) and the rows (N, 6) the deployed graph must answer to it.

        Raises:
            BundleSchemaError: the file does not hold what ``self_check.json`` and the manifest say.
        """
        path, spec = self.path / SELF_CHECK_ARRAYS, self.manifest.model.input
        try:
            with np.load(path, allow_pickle=False) as arrays:
                image, rows = arrays[IMAGE], arrays[ROWS]
        except _UNREADABLE_ARRAYS as error:
            raise BundleSchemaError(f"{path} cannot be read: {error}. Prepare it again with this release.") from error
        found = (image.dtype.name, image.shape, rows.dtype.name, rows.shape)
        wanted = ("uint8", (spec.height, spec.width, 3), "float64", (self.self_check.rows, 6))
        if spec.rect is not None and image.ndim == 3:
            sides = (min(side, most) for side, most in zip(image.shape, (spec.height, spec.width), strict=False))
            wanted = ("uint8", (*sides, 3), "float64", (self.self_check.rows, 6))
        if found != wanted:
            raise BundleSchemaError(f"{path} holds {found}, not {wanted}. Prepare it again with this release.")
        if not (np.isfinite(rows).all() and (rows[:, 4] > self.self_check.threshold).all()):
            raise BundleSchemaError(
                f"{path} holds boxes that are not above {self.self_check.threshold:g}. Prepare it again."
            )
        return image, rows


def sha256_file(path: Path) -> str:
    """SHA-256 of a file as 64 lower-case hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def bundle_key(weights: str, imgsz: int, head: str, default_conf: float | None = None, *, rect: bool = False) -> str:
    """The part of a bundle's folder name that follows from the settings alone, such as ``auto-640-auto``.

    Rectangles and a default confidence, where there are any, end it: ``auto-640-auto_rect_conf0.3``.
    Weights given by name or path are told apart by a hash of the absolute path: many files are called ``best.pt``.
    """
    slug = re.sub(r"[^A-Za-z0-9.]+", "_", Path(weights).name)
    if weights not in ("auto", "embedded"):
        slug += "_" + hashlib.sha256(os.fsencode(_absolute(weights))).hexdigest()[:8]
    # Not after a hyphen, which is where the version of a bundle without one follows.
    choices = ("_rect" if rect else "") + ("" if default_conf is None else f"_conf{default_conf!r}")
    return f"{slug}-{imgsz}-{head}{choices}"


def is_settings_name(name: str) -> bool:
    """Whether serving might find a bundle's folder of this name by its settings, without being given its path."""
    return _SETTINGS_NAME.match(name) is not None


def _absolute(path: str) -> str:
    # Links are not followed: the server may not see the target that the preparation saw.
    return os.path.abspath(path)  # noqa: PTH100


def content_version(parts: Mapping[str, str | int | float | None]) -> str:
    """Twelve hexadecimal digits that name a bundle by what decides its content."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


@contextmanager
def bundle_writer(root: Path, name: str) -> Iterator[Path]:
    """A temporary folder beside the final one; it becomes ``root/name`` only if the block ends without an error.

    The files are flushed to disk before the rename, and serving ignores temporary names, so a kill at any moment
    leaves either the old state or the finished bundle.
    """
    partial = Path(tempfile.mkdtemp(prefix=_PARTIAL_PREFIX, dir=root))
    try:
        yield partial
        for path in (*partial.iterdir(), partial):
            _flush(path)
        partial.chmod(0o755)  # mkdtemp makes it private, but the server may run as another user
        _replace(root / name, partial)
        _flush(root)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def scratch_folder(root: Path) -> Iterator[Path]:
    """A folder beside the bundles, on their disk, for what a preparation needs for a while."""
    folder = Path(tempfile.mkdtemp(prefix=_PARTIAL_PREFIX, dir=root))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def require_writable(root: Path) -> None:
    """Make the folder bundles are kept in, and clear away what killed preparations left there over a day ago.

    Raises:
        BundleDirUnusable: it is a bundle itself, lies in one, or cannot be made or written to.
    """
    if (root / MANIFEST).is_file():
        raise BundleDirUnusable(f"{root} is a bundle itself, to be served as it is. Set YOLOFOLD_BUNDLE_DIR.")
    nearest = next((folder for folder in root.parents if folder.exists()), root)
    if (nearest / MANIFEST).is_file() and (nearest / DEPLOYED).is_file():  # other programs have manifests, too
        raise BundleDirUnusable(f"{root} lies in the bundle {nearest}, to which nothing may be added.")
    try:
        root.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=root).close()
    except OSError as error:
        raise BundleDirUnusable(
            f"Bundles cannot be kept in {root}: {error.strerror}. Set YOLOFOLD_BUNDLE_DIR."
        ) from error
    for leftover in root.glob(f"{_PARTIAL_PREFIX}*"):
        if time.time() - leftover.stat().st_mtime > _LEFTOVER_AGE_S:
            shutil.rmtree(leftover, ignore_errors=True)


def _replace(final: Path, finished: Path) -> None:
    """Put ``finished`` in the place of ``final``; a bundle already there is whole until the moment it is moved away.

    Of several at once the last one stays.
    """
    moved_away = []
    while True:
        try:
            finished.rename(final)
            break
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):  # the last of a link to a folder
                raise
        moved_away.append(Path(tempfile.mkdtemp(prefix=_PARTIAL_PREFIX, dir=final.parent)))
        with suppress(FileNotFoundError):  # another preparation has just moved it away
            final.rename(moved_away[-1] / final.name)
    for old in moved_away:
        shutil.rmtree(old, ignore_errors=True)


def write_json(path: Path, record: Record) -> None:
    """Store one record of the contract as indented JSON. NaN and infinity are refused: JSON has neither.

    Raises:
        ValueError: a figure is not finite.
    """
    text = json.dumps(record.model_dump(mode="json"), indent=1, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def replace_file(path: Path, data: bytes) -> None:
    """Write a file in place of an earlier one, so that a kill leaves the old one or the new one.

    Raises:
        OSError: the folder cannot be written to.
    """
    descriptor, name = tempfile.mkstemp(prefix=_PARTIAL_PREFIX, dir=path.parent)
    partial = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        partial.chmod(0o644)  # mkstemp makes it private, but the server may run as another user
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def fingerprint_files(folder: Path) -> dict[str, FileRecord]:
    """Record of every file in ``folder``, for the manifest."""
    return {p.name: FileRecord(sha256=sha256_file(p), bytes=p.stat().st_size) for p in sorted(folder.iterdir())}


def find_bundle(root: Path, key: str) -> Path | None:
    """The finished bundle prepared for the settings ``key``, or None; ``root`` itself when it is a bundle.

    Bundles are named ``<key>-<version>``: a restart finds its bundle without opening any weights. Of several the one
    made last is found.
    """
    if (root / MANIFEST).is_file():
        return root
    found = sorted(p for p in root.glob(f"{key}-*") if p.is_dir()) if root.is_dir() else []
    return max(found, key=_made_at, default=None)


def _made_at(bundle: Path) -> datetime.datetime:
    """When a bundle was made, as its manifest says: folders that are copied are all as new as the copy."""
    try:
        made = datetime.datetime.fromisoformat(json.loads((bundle / MANIFEST).read_bytes())["created_at"])
    except (OSError, ValueError, KeyError, TypeError):  # whatever is wrong there, loading it will say
        made = datetime.datetime.fromtimestamp(bundle.stat().st_mtime, datetime.UTC)
    return made if made.tzinfo else made.replace(tzinfo=datetime.UTC)


def bundle_names(root: Path) -> list[str]:
    """Folder names of the finished bundles kept in ``root``, sorted."""
    found = root.iterdir() if root.is_dir() else ()
    return sorted(p.name for p in found if (p / MANIFEST).is_file() and not p.name.startswith(_PARTIAL_PREFIX))


def load_bundle(path: Path) -> Bundle:
    """Verify every byte of a bundle and read its records.

    Raises:
        BundleMissing: no folder or no manifest.
        BundleIncomplete: a file is missing or surplus.
        BundleCorrupt: a file's hash differs.
        BundleSchemaError: a record does not have the expected fields or version.
        BundleUncertified: the fold certificate did not pass, or is not this bundle's.
    """
    if not (path / MANIFEST).is_file():
        raise BundleMissing(f"There is no bundle in {path}: {MANIFEST} is missing. Run `python -m service prepare`.")
    manifest = _read(path / MANIFEST, BundleManifest)
    _verify_files(path, manifest)
    bundle = Bundle(
        path=path,
        manifest=manifest,
        batchnorm=_read(path / BN_STATS, BatchNormReport),
        health=_read(path / HEALTH, BatchNormHealth),
        layers=_read(path / LAYERS, LayerTree),
        certificate=_read(path / CERTIFICATE, FoldCertificate),
        latency=_read(path / LATENCY, LatencyReport),
        self_check=_read(path / SELF_CHECK, SelfCheckSpec),
        probe=_read(path / PROBE, ProbeSpec),
        int8=_read(path / INT8, Int8Spec) if INT8 in manifest.files else None,
        fp16=_read(path / FP16, Fp16Spec) if FP16 in manifest.files else None,
    )
    for record, name, graph in ((bundle.int8, INT8, INT8_GRAPH), (bundle.fp16, FP16, FP16_GRAPH)):
        if record is not None and record.graph.file != graph:
            raise BundleSchemaError(f"{path / name} is about {record.graph.file}, not {graph}. Make it again.")
    if stranger := _stranger_among_probed(bundle):
        raise BundleSchemaError(f"{path / PROBE} does not fit {BN_STATS} at {stranger}. Prepare it again.")
    if flaw := find_flaw(bundle.certificate, manifest.weights.sha256, bundle.batchnorm, bundle.layers):
        raise BundleUncertified(f"{path / CERTIFICATE} does not certify this bundle: {flaw}. Prepare it again.")
    return bundle


def _stranger_among_probed(bundle: Bundle) -> str | None:
    """A probed layer that the BatchNorm statistics describe otherwise or not at all, by its BatchNorm's name."""
    known = {layer.name: layer for layer in bundle.batchnorm.layers}
    for probed in bundle.probe.layers:
        if not all(0 <= channel < probed.channels for channel in probed.feature_channels):
            return probed.batch_norm or probed.conv
        if probed.batch_norm is not None:
            layer = known.get(probed.batch_norm)
            if layer is None or (layer.conv, layer.channels) != (probed.conv, probed.channels):
                return probed.batch_norm
    return None


def _verify_files(path: Path, manifest: BundleManifest) -> None:
    listed, present = set(manifest.files), {p.name for p in path.iterdir()} - {MANIFEST}
    required = (REQUIRED | listed).union(*(pair for pair in _PAIRS if listed & pair))
    if missing := required - present:
        raise BundleIncomplete(f"{path} lacks {', '.join(sorted(missing))}. Prepare it again.")
    if surplus := present - listed:
        raise BundleIncomplete(f"{path} holds files its manifest does not list: {', '.join(sorted(surplus))}.")
    for name, record in manifest.files.items():
        file = path / name
        if file.is_symlink() or not file.is_file():
            raise BundleCorrupt(f"{file} is not a regular file.")
        if (found := sha256_file(file)) != record.sha256:
            raise BundleCorrupt(f"{file} was altered: SHA-256 is {found}, the manifest says {record.sha256}.")


def _read(path: Path, kind: type[T]) -> T:
    try:
        return kind.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the document"
        raise BundleSchemaError(f"{path}: {where}: {first['msg']}. Prepare it again with this release.") from error


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""From what the operator asked for to one checkpoint file, its SHA-256 and where it came from."""

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from service.bundle.manifest import HeadKind, WeightsSource
from service.bundle.store import sha256_file
from service.errors import WeightsDownloadFailed, WeightsHashMismatch, WeightsNotFound

AUTO_NAME = "yolo26n.pt"
EMBEDDED = Path(__file__).parent.parent / "weights" / "yolo26n-codes.pt"
#: What was measured of the embedded checkpoint, in a file beside it.
EMBEDDED_FIGURES = EMBEDDED.with_name("metrics.json")
_RELEASES = "https://github.com/ultralytics/assets/releases"
#: Once the server has answered, an explicitly named checkpoint (up to 120 MB) may take this much longer.
_TRANSFER_FACTOR = 120


@dataclass(frozen=True)
class Checkpoint:
    """A weights file that may be opened.

    Attributes:
        path: where it lies.
        sha256: of the whole file.
        source: official, local or embedded.
        requested: what was asked for, without folders.
        note: why ``auto`` fell back to the embedded weights, else None.
    """

    path: Path
    sha256: str
    source: WeightsSource
    requested: str
    note: str | None = None


@dataclass(frozen=True)
class WeightsRequest:
    """What the operator asked for.

    Attributes:
        weights: ``auto``, ``embedded``, an official name or a path.
        sha256: hash the file must have, or None.
        timeout_s: longest wait for the download server, seconds.
        cache: folder in which downloads are kept.
    """

    weights: str
    sha256: str | None
    timeout_s: float
    cache: Path


def resolve_weights(request: WeightsRequest) -> Checkpoint:
    """Find (or download) the checkpoint and check its hash. The file is not opened as a model.

    Raises:
        WeightsNotFound: no such file, and not an official name.
        WeightsDownloadFailed: an official name that could not be fetched in time; never for ``auto``.
        WeightsHashMismatch: the file differs from the hash demanded.
    """
    path, source, note = _locate(request)
    found = sha256_file(path)
    if request.sha256 not in (None, found):
        raise WeightsHashMismatch(f"{path} has SHA-256 {found}, but {request.sha256} was demanded. It was not opened.")
    return Checkpoint(path, found, source, Path(request.weights).name, note)


def _locate(request: WeightsRequest) -> tuple[Path, WeightsSource, str | None]:
    if request.weights == "embedded":
        return _embedded(), "embedded", None
    if request.weights == "auto":
        if Path(AUTO_NAME).is_file():  # in the working folder, where it may be anything of that name
            return Path(AUTO_NAME), "local", None
        try:
            found = fetch_official(AUTO_NAME, request.cache, request.timeout_s, request.timeout_s)
            return found, "official", None
        except WeightsDownloadFailed as error:
            note = f"The official {AUTO_NAME} was not to be had ({error}), so the embedded code detector is served."
            return _embedded(), "embedded", note
    path = Path(request.weights)
    if path.is_file():
        return path, "local", None
    if path.name == request.weights and path.name in official_names():
        transfer_s = request.timeout_s * _TRANSFER_FACTOR
        return fetch_official(path.name, request.cache, request.timeout_s, transfer_s), "official", None
    raise WeightsNotFound(
        f"{request.weights!r} is neither a file here nor an official checkpoint name (such as {AUTO_NAME})."
    )


def _embedded() -> Path:
    if not EMBEDDED.is_file():
        raise WeightsNotFound(f"The embedded checkpoint is missing from this installation: {EMBEDDED}.")
    return EMBEDDED


def embedded_confidence() -> float:
    """The default confidence that was chosen for the embedded checkpoint.

    Raises:
        WeightsNotFound: the installation lacks the figures, or they do not say.
    """
    with _reading("confidence", "Set YOLOFOLD_DEFAULT_CONF."):
        confidence = float(_chosen("default_confidence"))
        if not 0 <= confidence <= 1:
            raise ValueError(f"{confidence} is not between 0 and 1")
    return confidence


def embedded_head() -> HeadKind:
    """The head that was chosen for the embedded checkpoint.

    Raises:
        WeightsNotFound: the installation lacks the figures, or they do not say.
    """
    with _reading("head", "Set YOLOFOLD_HEAD."):
        chosen = _chosen("default_head")
        head: HeadKind | None = next((kind for kind in get_args(HeadKind) if kind == chosen), None)
        if head is None:
            raise ValueError(f"{chosen!r} is no head")
    return head


def _chosen(name: str) -> Any:
    return json.loads(EMBEDDED_FIGURES.read_bytes())[name]["value"]


@contextmanager
def _reading(what: str, remedy: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsNotFound(
            f"{EMBEDDED_FIGURES} does not give the default {what} of the embedded checkpoint: {error!r}. {remedy}"
        ) from error


def official_names() -> frozenset[str]:
    """File names Ultralytics publishes, as its installed release lists them."""
    from service.prepare.ultralytics_runtime import OFFICIAL_NAMES

    return OFFICIAL_NAMES


def fetch_official(name: str, cache: Path, answer_s: float, transfer_s: float) -> Path:
    """An official checkpoint from disk, else downloaded by Ultralytics into ``cache``.

    Args:
        answer_s: longest wait for the server to answer at all, seconds.
        transfer_s: longest wait for the whole file after that, seconds.

    Raises:
        WeightsDownloadFailed: not on disk and not fetched in time.
    """
    from ultralytics.utils import SETTINGS

    for folder in (Path(SETTINGS["weights_dir"]), cache):
        if (folder / name).is_file():
            return folder / name
    # A name server that does not answer is outside urllib's own time-out.
    _run_within(lambda: _probe(name, answer_s), 2 * answer_s, name)
    from ultralytics.utils.downloads import attempt_download_asset

    target = cache / name
    _run_within(lambda: attempt_download_asset(target), transfer_s, name)
    if not target.is_file():
        raise WeightsDownloadFailed(f"the download of {name} ended without a file")
    return target


def _probe(name: str, timeout_s: float) -> None:
    # Ultralytics itself waits up to half a minute for a connection and tries four times.
    try:
        urllib.request.urlopen(urllib.request.Request(_RELEASES, method="HEAD"), timeout=timeout_s).close()
    except (urllib.error.URLError, TimeoutError, OSError) as error:
        reason = getattr(error, "reason", error)
        raise WeightsDownloadFailed(f"{name} is not on disk and its server cannot be reached: {reason}") from error


def _run_within(download: Callable[[], object], seconds: float, name: str) -> None:
    failure: list[Exception] = []

    def run() -> None:
        try:
            download()
        except Exception as error:  # whatever the transfer raises is reported by the waiting thread
            failure.append(error)

    # A daemon thread, because a stalled transfer cannot be interrupted but must not hold up the exit.
    thread = threading.Thread(target=run, name=f"download-{name}", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise WeightsDownloadFailed(f"the download of {name} was not complete after {seconds:g} s")
    if failure and isinstance(failure[0], WeightsDownloadFailed):
        raise failure[0]
    if failure:
        raise WeightsDownloadFailed(f"the download of {name} failed: {failure[0]}") from failure[0]

"""From a request to a file: what is found, what is refused, and when ``auto`` may fall back."""

import hashlib
import time
from pathlib import Path

import pytest

from service.errors import WeightsDownloadFailed, WeightsHashMismatch, WeightsNotFound
from service.prepare import weights
from service.prepare.weights import EMBEDDED, WeightsRequest, resolve_weights


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder without weights, and a download server that does not exist (RFC 2606)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(weights, "_RELEASES", "https://downloads.invalid/")
    return tmp_path


def request(wanted: str, folder: Path, sha256: str | None = None) -> WeightsRequest:
    return WeightsRequest(wanted, sha256, timeout_s=2.0, cache=folder / "downloads")


def test_a_path(nowhere: Path) -> None:
    (nowhere / "best.pt").write_bytes(b"weights")
    found = resolve_weights(request("best.pt", nowhere))
    assert (found.source, found.requested, found.note) == ("local", "best.pt", None)
    assert found.sha256 == hashlib.sha256(b"weights").hexdigest()


def test_embedded(nowhere: Path) -> None:
    found = resolve_weights(request("embedded", nowhere))
    assert (found.path, found.source) == (EMBEDDED, "embedded")


def test_auto_takes_a_file_of_that_name_here_but_does_not_call_it_official(nowhere: Path) -> None:
    (nowhere / "yolo26n.pt").write_bytes(b"who knows")
    assert resolve_weights(request("auto", nowhere)).source == "local"


def test_auto_takes_official_weights_that_are_already_here(nowhere: Path) -> None:
    (nowhere / "downloads").mkdir()
    (nowhere / "downloads" / "yolo26n.pt").write_bytes(b"official")
    found = resolve_weights(request("auto", nowhere))
    assert (found.source, found.path.name) == ("official", "yolo26n.pt")


def test_auto_falls_back_to_the_embedded_weights_and_says_why(nowhere: Path) -> None:
    start = time.monotonic()
    found = resolve_weights(request("auto", nowhere))
    assert found.source == "embedded"
    assert found.note and "yolo26n.pt" in found.note and "cannot be reached" in found.note
    assert time.monotonic() - start < 60  # Ultralytics by itself would try for minutes


def test_an_explicit_official_name_never_falls_back(nowhere: Path) -> None:
    with pytest.raises(WeightsDownloadFailed, match=r"yolo26s\.pt"):
        resolve_weights(request("yolo26s.pt", nowhere))


@pytest.mark.parametrize(
    "wanted", ["yolo26z.pt", "missing/best.pt", "https://example.com/yolo26n.pt", "missing/yolo26n.pt"]
)
def test_what_is_neither_a_file_nor_an_official_name(wanted: str, nowhere: Path) -> None:
    with pytest.raises(WeightsNotFound, match="neither a file here nor an official"):
        resolve_weights(request(wanted, nowhere))


@pytest.mark.parametrize("wanted", ["embedded", "best.pt"])
def test_another_hash_than_demanded_is_refused(wanted: str, nowhere: Path) -> None:
    (nowhere / "best.pt").write_bytes(b"weights")
    with pytest.raises(WeightsHashMismatch, match="not opened"):
        resolve_weights(request(wanted, nowhere, "0" * 64))


def test_the_hash_demanded(nowhere: Path) -> None:
    (nowhere / "best.pt").write_bytes(b"weights")
    sha256 = hashlib.sha256(b"weights").hexdigest()
    assert resolve_weights(request("best.pt", nowhere, sha256)).sha256 == sha256


def test_a_stalled_download_is_given_up(nowhere: Path) -> None:
    with pytest.raises(WeightsDownloadFailed, match="not complete after"):
        weights._run_within(lambda: time.sleep(30), 0.05, "yolo26n.pt")


def test_a_failing_download_is_reported(nowhere: Path) -> None:
    def fail() -> None:
        raise ConnectionError("reset by peer")

    with pytest.raises(WeightsDownloadFailed, match="reset by peer"):
        weights._run_within(fail, 5, "yolo26n.pt")

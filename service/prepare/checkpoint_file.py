"""What a file seems to be that could not be opened as a checkpoint, in words for whoever named it."""

import pickle
import re
import zipfile
from pathlib import Path

import torch

_HEAD_BYTES = 512
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_WEB_PAGES = (b"<!doctype html", b"<html")
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"


def why_unreadable(path: Path, error: Exception) -> str:
    """Why ``path`` could not be opened: a clause about the file, without the advice of the libraries that tried.

    Args:
        error: what they raised.
    """
    return _by_first_bytes(path) or _by_content(path) or _by_error(error)


def _by_first_bytes(path: Path) -> str | None:
    try:
        with path.open("rb") as stream:
            head = stream.read(_HEAD_BYTES)
    except OSError:  # which the error of whoever tried says as well
        return None
    if not head:
        return "it is empty"
    if head.startswith(_LFS_POINTER):
        return "it is a Git LFS pointer, not the file that it stands for; `git lfs pull` fetches that"
    if head.lstrip().lower().startswith(_WEB_PAGES):
        return "it is a web page (HTML), as a download that failed leaves behind"
    if not head.startswith((_ZIP, _PICKLE)):
        return "it does not begin as a file written by torch.save does"
    if head.startswith(_ZIP) and not zipfile.is_zipfile(path):
        return "it is truncated: it begins as a file written by torch.save does, but its end is missing"
    return None


def _by_content(path: Path) -> str | None:
    """Torch's own restricted loading knows tensors and plain values only."""
    try:
        torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # the file holds more than that, or is damaged
        return None
    return "it holds tensors and plain values but no network, as a state_dict does; save the whole network"


def _by_error(error: Exception) -> str:
    causes = [error, *(cause for cause in (error.__cause__, error.__context__) if cause)]
    text = "\n".join(str(cause) for cause in causes)
    if "TorchScript archive" in text:
        return "it is a TorchScript archive; use the checkpoint that it was exported from"
    if refused := re.search(r"GLOBAL ([\w.]+)", text):
        name = refused[1]
        if name.startswith("models."):
            return f"it refers to {name}, as those of the YOLOv5 repository do, which Ultralytics' package cannot read"
        return f"it refers to {name}, which no Ultralytics network needs; such a file could run any code"
    if any(isinstance(cause, pickle.UnpicklingError | EOFError) for cause in causes):
        return "it is damaged, or written by something else than torch.save"
    reason = str(error).strip().partition("\n")[0].rstrip(".")
    return f"{type(error).__name__}: {reason}"

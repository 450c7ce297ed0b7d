"""What a runtime builds for a graph on this very machine, kept in a folder so that later starts find it."""

import hashlib
import json
import logging
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from service.bundle.store import bundle_writer, require_writable
from service.errors import BundleDirUnusable, EngineError

log = logging.getLogger(__name__)
T = TypeVar("T")


def cache_folder(root: Path, kind: str, parts: Mapping[str, object]) -> Path:
    """A name in ``root`` for what ``kind`` builds, another one for each difference in ``parts``.

    It is none that serving takes for a bundle's.
    """
    text = json.dumps(parts, sort_keys=True)
    return root / f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def open_cached(folder: Path, load: Callable[[Path | None], T]) -> T:
    """Load what ``folder`` keeps, or build and keep it.

    A build that is killed leaves nothing behind. What is found there but cannot be loaded is built anew and stays until
    that has been done: it may have been for want of memory, and not its fault. An engine is code, so what others could
    have written is neither loaded nor replaced.

    Args:
        load: takes a folder to read from where it holds something, else to write to; None where nothing can be kept.

    Raises:
        EngineError: ``load`` raised it with nothing to read.
    """
    if flaw := _distrust(folder):
        log.warning("Every start builds its engines, until %s is removed: %s", folder, flaw)
        return load(None)
    if folder.is_dir():
        try:
            return load(folder)
        except EngineError as error:
            log.warning("What %s keeps is built anew, since it cannot be used: %s", folder, error)
    try:
        require_writable(folder.parent)
    except BundleDirUnusable:
        log.warning("Every start builds its engines: %s cannot be written to. Set YOLOFOLD_STATE_DIR.", folder.parent)
        return load(None)
    # Written to disk before the folder gets its name; of several processes the last one's stays.
    with bundle_writer(folder.parent, folder.name) as partial:
        loaded = load(partial)
        for path in partial.iterdir():
            path.chmod(0o644)  # with a umask of 002 they would be found distrusted
        return loaded


def _distrust(folder: Path) -> str | None:
    """Why what a folder keeps may be somebody else's, in words; None if it is not there, or this user's or root's."""
    try:
        for path in (folder, *(folder.iterdir() if folder.is_dir() else ())):
            found = path.lstat()
            if found.st_uid not in (os.geteuid(), 0):
                return f"{path.name} belongs to another user"
            if stat.S_ISLNK(found.st_mode) or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                return f"{path.name} is a link, or others may write to it"
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    return None

"""How much a server's environment takes on disk."""

import os
from pathlib import Path

#: Of what the system counts a file's space in.
_BLOCK_BYTES = 512


def installed_bytes(environment: Path) -> int | None:
    """Space that a folder takes, as du counts it: hard links once, links not followed. None if there is no such folder.

    Args:
        environment: a virtual environment. The interpreter that it was made with lies elsewhere.
    """
    if not environment.is_dir():
        return None
    seen: dict[tuple[int, int], int] = {}
    for folder, folders, files in os.walk(environment):
        for name in (*folders, *files):
            about = (Path(folder) / name).lstat()
            seen[about.st_dev, about.st_ino] = about.st_blocks * _BLOCK_BYTES
    return sum(seen.values())

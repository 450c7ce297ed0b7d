"""Bytes as a file, for libraries that read files only."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def named_file(data: bytes) -> Iterator[str]:
    """The path of a file that holds ``data`` until the block ends: on Linux in memory, elsewhere where temporary
    files lie. There it is a second time beside ``data``, in pages that count for a container, not for the process."""
    if sys.platform == "linux":
        with open(os.memfd_create("yolofold"), "wb") as file:  # noqa: PTH123 (a descriptor, not a path)
            file.write(data)
            file.flush()
            yield f"/proc/self/fd/{file.fileno()}"
    else:
        with tempfile.NamedTemporaryFile() as file:
            file.write(data)
            file.flush()
            yield file.name

"""What befalls the process that measures for ``YOLOFOLD_ENGINE=auto``."""

from pathlib import Path

import pytest

KILLED = "os.kill(os.getpid(), signal.SIGKILL)"


def plant_in_measuring_process(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Have every measuring process started from here on run ``text``, Python, at its very start; other processes are
    left alone.

    Args:
        folder: an empty one, or one to be made.
    """
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(
        f"import os, signal, sys, threading, time\nif 'service.tuning' in sys.orig_argv:\n    {text}\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(folder))

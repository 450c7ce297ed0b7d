"""Programs in processes of their own that end with whoever started them, however that ends.

Run as a program, it runs another module as a program. Its standard input is a pipe that nothing is written to and whose
other end only the starter holds: reading comes to an end when the starter does.
"""

import os
import runpy
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import service

_ENDED = 1


@contextmanager
def child(program: Sequence[str], stderr: int | None = None) -> Iterator[subprocess.Popen[str]]:
    """A program that has ended when the block has; what it prints can be read.

    Args:
        program: module to run, of this project or in ``PYTHONPATH``, and its arguments.
        stderr: ``subprocess.PIPE`` to read that as well; by default it goes where this process's goes.

    Raises:
        OSError: it cannot be started.
    """
    root = str(Path(service.__file__).resolve().parent.parent)
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    watched, held = os.pipe()  # while this process lives and holds the second end, the program waits at the first
    try:
        with subprocess.Popen(
            # -P: a module in the folder that happens to be the current one is nobody's.
            [sys.executable, "-P", "-m", __name__, *program],
            env=os.environ | {"PYTHONPATH": path},
            stdin=watched,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        ) as process:
            try:
                yield process
            finally:
                process.kill()  # does nothing to one that has ended
    finally:
        os.close(watched)
        os.close(held)


def _end_with_starter() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(_ENDED)


def _main(module: str, *arguments: str) -> None:
    """Run ``module`` with ``arguments`` as ``python -m`` would."""
    threading.Thread(target=_end_with_starter, name="yolofold-starter", daemon=True).start()
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _main(*sys.argv[1:])

"""Run as a program: runs another module as a program, and ends at once when the process that started it has ended.

Its standard input is a pipe that nothing is written to and whose other end only the starter holds. Reading comes to an
end when the starter does, however it does.
"""

import os
import runpy
import sys
import threading

_ENDED = 1


def _end_with_starter() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(_ENDED)


def main(module: str, *arguments: str) -> None:
    """Run ``module`` with ``arguments`` as ``python -m`` would."""
    threading.Thread(target=_end_with_starter, name="yolofold-starter", daemon=True).start()
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

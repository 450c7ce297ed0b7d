"""An orderly end of the commands that write bundles."""

import signal
import sys


def exit_orderly_when_terminated() -> None:
    """Turn SIGTERM into an exception from now on, so that what is half written gets removed."""
    signal.signal(signal.SIGTERM, _exit)


def _exit(signal_number: int, _: object) -> None:
    sys.exit(128 + signal_number)

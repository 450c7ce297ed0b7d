"""What a measurement gives way to."""

from typing import Protocol


class Traffic(Protocol):
    """Other work on the same machine, which a measurement gives way to and must not be falsified by."""

    def wait_until_quiet(self) -> int:
        """Return ``count()`` as it was at a moment at which nothing else was being worked on.

        Raises:
            MeasurementRefused: that did not happen, or the measurement is to end.
        """
        ...

    def count(self) -> int:
        """Pieces of other work begun so far; a round during which it changed is dropped."""
        ...

    def require_wanted(self) -> None:
        """Return at once.

        Raises:
            MeasurementCancelled: the measurement is to end.
        """
        ...


class NoTraffic:
    """A process in which nothing else happens."""

    def wait_until_quiet(self) -> int:
        """Return 0 at once."""
        return 0

    def count(self) -> int:
        """Always 0."""
        return 0

    def require_wanted(self) -> None:
        """Nobody asks for the end."""

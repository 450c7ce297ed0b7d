"""What is written to stderr: errors, warnings and how far a command has come."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter

from rich.console import Console
from rich.markup import escape

console = Console(stderr=True)


def print_error(error: Exception) -> None:
    """Write an error as one line, led by its class."""
    console.print(f"[red]{type(error).__name__}[/]: {escape(str(error))}", highlight=False, soft_wrap=True)


def print_warning(text: str) -> None:
    """Write a warning as one line."""
    console.print(f"[yellow]warning[/]: {escape(text)}", highlight=False, soft_wrap=True)


class StepProgress:
    """Draws each step with its time."""

    @contextmanager
    def step(self, title: str) -> Iterator[Callable[[int, int], None]]:
        """Show a step while it runs and its seconds when it is done; the callable inside takes (done, total)."""
        start = perf_counter()
        with console.status(f"{title} ...") as status:

            def advance(done: int, total: int) -> None:
                status.update(f"{title} ... {done}/{total}")

            yield advance
        console.print(f"{title:<28}{perf_counter() - start:7.1f} s", highlight=False)

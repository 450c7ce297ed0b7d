"""What one of our own servers computes with, as its ``GET /model`` says."""

import http.client
from dataclasses import dataclass
from typing import Any

from scripts.bench.running import ServerFailed
from scripts.bench.upload import Address, get_json

_LIMIT_S = 30.0


@dataclass(frozen=True)
class RunsOn:
    """The engine of a server.

    Attributes:
        runtime: name and release.
        threads: of a run that is alone.
        threads_under_load: of each of several runs.
        remembered: whether a measured choice came from an earlier start; None where the settings name the engine.
    """

    runtime: str
    precision: str
    threads: int
    threads_under_load: int
    max_batch_size: int
    workers: int
    remembered: bool | None

    @property
    def engine(self) -> str:
        """Runtime and precision, as the ceilings are named."""
        return f"{self.runtime.rpartition(' ')[0]} in {self.precision}"

    @property
    def words(self) -> str:
        """For people."""
        batches = f", batches of up to {self.max_batch_size}" if self.max_batch_size > 1 else ""
        return (
            f"{self.runtime} in {self.precision}, threads per run: {self.threads} alone, {self.threads_under_load} "
            f"under load, workers: {self.workers}{batches}"
        )


def ask_runs_on(address: Address) -> RunsOn:
    """Ask the server that listens there.

    Raises:
        ServerFailed: it does not say.
    """
    try:
        model = get_json(address, "/model", _LIMIT_S)
        return read_runs_on(model)
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
        raise ServerFailed(f"it did not say what it runs on ({error!r})") from error


def read_runs_on(model: dict[str, Any]) -> RunsOn:
    """From the answer of ``GET /model``.

    Raises:
        KeyError, TypeError: it has another form.
    """
    engine, choice = model["engine"], model["engine_choice"]
    names = ("runtime", "precision", "threads", "threads_under_load", "max_batch_size", "workers")
    return RunsOn(**{name: engine[name] for name in names}, remembered=choice and choice["remembered"])

"""At most one latency measurement at a time, on a thread of its own, which gives way to live requests."""

import logging
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, Field

from service.bundle.latency import LatencyReport
from service.bundle.store import Bundle
from service.errors import MeasurementCancelled, MeasurementRefused, MeasurementRunning, Overloaded, YolofoldError
from service.heap import give_back_freed
from service.inference.pool import WorkerPool
from service.measurement.bench import bench_bundle
from service.measurement.runtime_arms import AllowedDevice
from service.measurement.study import Effort

log = logging.getLogger(__name__)

State = Literal["running", "done", "cancelled", "failed"]

#: A server that has no quiet moment for so long is too busy to be measured.
PATIENCE_S = 60.0
_POLL_S = 0.01
_ASKED = "It was asked to end."


class Measurement(BaseModel):
    """A measurement that was started in this process."""

    state: State = Field(description="running, or how it ended.")
    started_at: str = Field(description="UTC, ISO 8601.")
    stage: str | None = Field(description="What is being measured; null before anything is.")
    rounds_done: int = Field(description="Rounds finished so far, over all stages.")
    rounds_wanted: int = Field(
        description="Over all stages, on the processor only until the first begins; that of peak memory has none."
    )
    batches: list[int] = Field(description="Images per run, rising; each is measured.")
    reason: str | None = Field(None, description="Why it failed or was cancelled; else null.")
    report: LatencyReport | None = Field(None, description="What was found; null until it is done.")


class LatencyStation:
    """Starts, watches and ends measurements of the served bundle. Safe to use from several threads."""

    def __init__(
        self,
        bundle: Bundle,
        pool: WorkerPool,
        threads: int,
        callers: int,
        device: AllowedDevice,
        *,
        threads_chosen: bool,
    ) -> None:
        """Measure ``bundle`` where ``device`` allows it.

        Args:
            pool: whose requests a measurement gives way to.
            threads: those that the served network runs with.
            callers: concurrent callers whose throughput is measured, at least 1.
            threads_chosen: see ``service.measurement.study.Place``.
        """
        self._bundle, self._pool, self._device = bundle, pool, device
        self._threads, self._callers, self._threads_chosen = threads, callers, threads_chosen
        self._lock = threading.Lock()
        self._cancel = threading.Event()
        self._thread: threading.Thread | None = None
        self._latest: Measurement | None = None

    @property
    def latest(self) -> Measurement | None:
        """The measurement that runs, else the last one that did; None before the first."""
        with self._lock:
            return self._latest

    def start(self, rounds: int, batches: Sequence[int]) -> Measurement:
        """Begin a measurement of ``rounds`` for each size of batch.

        Raises:
            MeasurementRunning: one is running already.
        """
        with self._lock:
            if self._latest is not None and self._latest.state == "running":
                raise MeasurementRunning("A measurement is running. Wait for it, or DELETE /model/latency to end it.")
            self._cancel = threading.Event()
            effort = Effort(rounds, thorough=True, batches=tuple(sorted(set(batches))))
            self._latest = Measurement(
                state="running",
                started_at=datetime.now(UTC).isoformat(timespec="seconds"),
                stage=None,
                rounds_done=0,
                rounds_wanted=effort.rounds_on_each_device,
                batches=list(effort.batches),
            )
            arguments = (effort, _LiveTraffic(self._pool, self._cancel))
            self._thread = threading.Thread(target=self._run, args=arguments, name="yolofold-latency", daemon=True)
            try:
                self._thread.start()
            except RuntimeError as error:
                self._thread, self._latest = None, None
                raise Overloaded("This process cannot start another thread.") from error
            return self._latest

    def cancel(self) -> bool:
        """Ask the running measurement to end; False when there is none. It ends after the round it is in."""
        with self._lock:
            self._cancel.set()
            return self._latest is not None and self._latest.state == "running"

    def close(self, timeout_s: float = 5.0) -> None:
        """End the running measurement and wait for it."""
        self.cancel()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _run(self, effort: Effort, traffic: "_LiveTraffic") -> None:
        ended = self._measure(effort, traffic)
        give_back_freed()  # what the graphs have left behind
        self._update(**ended)

    def _measure(self, effort: Effort, traffic: "_LiveTraffic") -> dict[str, object]:
        """What has changed once the measurement has ended."""
        try:
            report = bench_bundle(
                self._bundle,
                effort,
                threads=self._threads,
                callers=self._callers,
                device=self._device,
                threads_chosen=self._threads_chosen,
                progress=lambda stage, done, wanted: self._update(stage=stage, rounds_done=done, rounds_wanted=wanted),
                traffic=traffic,
            )
        except MeasurementCancelled as error:
            return {"state": "cancelled", "reason": str(error)}
        except YolofoldError as error:
            return {"state": "failed", "reason": str(error)}
        except Exception:
            log.exception("The latency measurement failed")
            return {"state": "failed", "reason": "The reason is in the service's log."}
        return {"state": "done", "report": report, "rounds_done": sum(series.rounds for series in report.series)}

    def _update(self, **changes: object) -> None:
        with self._lock:
            assert self._latest is not None
            self._latest = self._latest.model_copy(update=changes)


class _LiveTraffic:
    """The requests that a pool works on, as a measurement sees them."""

    def __init__(self, pool: WorkerPool, cancelled: threading.Event) -> None:
        self._pool, self._cancelled = pool, cancelled

    def wait_until_quiet(self) -> int:
        until = time.monotonic() + PATIENCE_S
        while not self._cancelled.is_set():
            begun = self._pool.begun  # read first: a job begun after the look must not be taken for an earlier one
            if not self._pool.running and not self._pool.waiting:
                return begun
            if time.monotonic() >= until:
                raise MeasurementRefused(f"Requests left no quiet moment for {PATIENCE_S:.0f} s.")
            self._cancelled.wait(_POLL_S)
        raise MeasurementCancelled(_ASKED)

    def count(self) -> int:
        return self._pool.begun

    def require_wanted(self) -> None:
        if self._cancelled.is_set():
            raise MeasurementCancelled(_ASKED)

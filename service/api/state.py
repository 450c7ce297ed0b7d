"""What the routes share: built once by the lifespan, read by dependencies."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from service.api.body import UploadBudget
from service.api.drifting import DriftWatch
from service.api.measuring import LatencyStation
from service.api.problems import NOT_READY, RequestRefused
from service.bundle.store import Bundle
from service.inference.batching_engine import BatchingEngine
from service.inference.bulk import BulkTurns
from service.inference.detector import Detector
from service.inference.engine import InferenceEngine
from service.inference.fold_check import FoldChecker
from service.inference.pool import WorkerPool
from service.inference.self_check import StartupCheck
from service.settings import Settings
from service.tuning.start import Choice


@dataclass(frozen=True)
class Service:
    """The running service. It exists only after its engine has passed the start-up check.

    ``choice`` is None unless the engine was chosen by measurement, ``engine_warning`` unless it should have been and
    could not.
    """

    settings: Settings
    bundle: Bundle
    engine: InferenceEngine
    choice: Choice | None
    engine_warning: str | None
    detector: Detector
    pool: WorkerPool
    latency: LatencyStation
    bulk: BulkTurns
    uploads: UploadBudget
    batch_uploads: UploadBudget
    startup_check: StartupCheck
    fold_checker: FoldChecker
    drift: DriftWatch

    @property
    def runs_on(self) -> str:
        """What runs the network, in one line; in a second why, where ``YOLOFOLD_ENGINE=auto`` was to choose it."""
        engine, under_load = self.engine, self.engine.layouts[-1].threads
        threads = f"{engine.threads}" if under_load == engine.threads else f"{engine.threads}, under load {under_load}"
        line = (
            f"{engine.runtime} ({engine.provider}) in {engine.precision}, threads per run: {threads}, "
            f"workers: {self.pool.workers}"
        )
        if isinstance(engine, BatchingEngine):
            line += f", batches of up to {engine.max_batch_size}"
        why = self.engine_warning if self.choice is None else self.choice.line
        return line if why is None else f"{line}\n  {why}"

    def close(self) -> None:
        """End what runs in the background and let the workers finish."""
        self.latency.close()
        self.drift.close()
        self.pool.close()


async def running_service(request: Request) -> Service:
    """The service behind a request.

    Raises:
        RequestRefused: it has not started yet, or has stopped.
    """
    service: Service | None = request.app.state.service
    if service is None:
        raise RequestRefused(NOT_READY, "The service has not finished starting.", retry_after=1)
    return service


ServiceDep = Annotated[Service, Depends(running_service)]

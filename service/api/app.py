"""Wires the parts into one application."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from service.api import batch, bn_diff, bn_stats, detect, docs, drift, fold, health, latency, lint, metrics, model, page
from service.api.body import UploadBudget
from service.api.drifting import start_drift_watch
from service.api.exchange import DrainUnreadBody, HeadLikeGet
from service.api.measuring import LatencyStation
from service.api.problems import BEFORE_OPERATIONS, install_problem_handlers
from service.api.response_headers import ResponseHeaders
from service.api.state import Service
from service.bundle.graph_fold import require_folded_graph
from service.bundle.store import Bundle
from service.heap import give_back_freed
from service.inference.bulk import BulkTurns
from service.inference.by_load_engine import ByLoadEngine
from service.inference.detector import Detector
from service.inference.engine import Device
from service.inference.fold_check import FoldChecker
from service.inference.onnxruntime_arena import shrink_arena
from service.inference.pool import WorkerPool
from service.machine import usable_cores
from service.settings import Settings
from service.tuning.start import start_engine

log = logging.getLogger(__name__)

#: Bodies of the largest size that may be held at once.
_HELD_UPLOADS = 8
#: Batches worked on at once. They take turns, so more would only make each of them miss its time-out.
_MOST_BATCHES = 8

_DESCRIPTION = f"""
Object detection with Ultralytics YOLO26 networks whose BatchNorm layers were folded into their convolutions.

Failures are problem documents (RFC 9457, `application/problem+json`); their `type` is stable.
Each operation lists its own. Before one is reached, any request may be answered
{", ".join(f"{kind.status} `{kind.slug}` ({kind.title[0].lower()}{kind.title[1:]})" for kind in BEFORE_OPERATIONS)}.
"""
_TAGS = [
    {"name": "detection", "description": "Find objects in an image."},
    {"name": "model", "description": "The network, its BatchNorm statistics and the proof of the fold."},
    {"name": "health", "description": "Probes and metrics."},
]


def create_app(settings: Settings, bundle: Bundle, service: Service | None = None) -> FastAPI:
    """The application serving ``bundle``; its lifespan ends with the workers stopped.

    Args:
        bundle: verified, as ``load_bundle`` returns it.
        service: what ``start_service`` returned for both; None lets the lifespan call it.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        running = await asyncio.to_thread(start_service, settings, bundle) if service is None else service
        app.state.service = running
        try:
            async with app.state.loop_lag.watched():
                yield
        finally:
            app.state.service = None
            await asyncio.to_thread(running.close)

    app = FastAPI(
        title="yolofold",
        version="1",
        description=_DESCRIPTION,
        openapi_tags=_TAGS,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.settings, app.state.service = settings, None
    metrics.install_metrics(app, bundle.manifest.model, page.STATIC_PATH)
    install_problem_handlers(app)
    docs.install_openapi(app)
    for resource in (detect, batch, model, bn_stats, bn_diff, fold, drift, lint, latency, metrics, health, docs, page):
        app.include_router(resource.router)
    app.mount(page.STATIC_PATH, page.static_files)
    app.add_middleware(HeadLikeGet)
    app.add_middleware(ResponseHeaders, static_path=page.STATIC_PATH)
    app.add_middleware(DrainUnreadBody)
    return app


def start_service(settings: Settings, bundle: Bundle) -> Service:
    """Check the deployed graph against the reference, load it, check its answer to the stored picture, start workers.

    With ``YOLOFOLD_ENGINE=auto`` this may measure first, for seconds.

    Raises:
        BundleUncertified: the deployed graph is not the reference graph folded.
        SettingsError: the settings of the engine contradict each other.
        EngineError: the network cannot be loaded or run, (SelfCheckFailed) computes something else here, or no engine
            could be chosen.
        BundleSchemaError: the stored picture or answer cannot be read.
        CalibrationUnusable: the drift calibration beside the bundle is damaged or another bundle's.
    """
    require_folded_graph(bundle)
    cores = usable_cores()
    started = start_engine(bundle, settings, cores)
    engine = started.engine
    watch = start_drift_watch(bundle, settings.drift_cpu, cores)
    observe = None if watch.sampler is None else watch.sampler.offer

    def make_room() -> None:
        # A picture decoded alone decides what the process holds at most. Some 15 ms, and as much of the next run, save
        # the 80 MB that earlier ones have left.
        engine.release_memory()
        shrink_arena()  # where OpenVINO serves, checks of the fold still run in it
        give_back_freed()

    pool = WorkerPool(started.workers, settings.queue_size)
    detector = Detector(
        bundle,
        engine,
        settings.max_pixels,
        reduced=settings.reduced_decode,
        observe=observe,
        make_room=make_room,
        require_wanted=pool.require_wanted,
    )
    if isinstance(engine, ByLoadEngine):
        engine.follow(lambda: pool.running)
    bulk = BulkTurns(pool, _MOST_BATCHES)
    uploads = UploadBudget(_HELD_UPLOADS * settings.max_upload_bytes)
    # Half of it, so that batches leave room for single pictures.
    batch_uploads = UploadBudget(batch.BATCH_UPLOADS * settings.max_upload_bytes, within=uploads)
    # Both its graphs on one kind of device: the processor, unless the served one runs elsewhere.
    device: Device = "cpu" if started.settings.engine == "openvino" else started.settings.device
    checker = FoldChecker(bundle, detector, engine, device, make_room)
    callers = started.settings.network_callers_on(cores)
    station = LatencyStation(
        bundle,
        pool,
        engine.threads,
        callers,
        started.settings.device,
        threads_chosen=started.settings.threads > 0,
    )
    service = Service(
        settings,
        bundle,
        engine,
        started.choice,
        started.warning,
        detector,
        pool,
        station,
        bulk,
        uploads,
        batch_uploads,
        started.check,
        checker,
        watch,
    )
    # A session takes the memory of its first run piece by piece, and that of all later ones in one block. Kept, the
    # pieces would lie beside the blocks: 13 MB with YOLO26n at 640 px.
    shrink_arena()
    give_back_freed()  # what loading the network left behind
    log.info("%s ready: %s", bundle.path, service.runs_on)
    return service

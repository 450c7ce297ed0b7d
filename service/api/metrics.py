"""``GET /metrics``: counters and gauges for Prometheus."""

from collections.abc import Callable

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from service.api import problems
from service.api.counters import Counters, CountRequests
from service.api.gauges import ServiceGauges
from service.api.loop_lag import LoopLag
from service.api.query import KnownQuery
from service.bundle.manifest import ModelSpec

router = APIRouter(tags=["health"])

_TEXT = {"schema": {"type": "string"}}


def install_metrics(app: FastAPI, model: ModelSpec, static_path: str) -> None:
    """Give ``app`` a registry of its own and count its requests. Call it before other middleware is added. Its lifespan
    has to watch ``app.state.loop_lag``.

    Args:
        static_path: where the static files are mounted.
    """
    # Not the library's global registry: several applications may live in one process.
    registry = CollectorRegistry()
    app.state.counters = Counters(registry, model.classes)
    app.state.loop_lag = LoopLag(registry)
    app.state.registry = registry
    registry.register(ServiceGauges(lambda: app.state.service))
    ProcessCollector(registry=registry)
    plain_paths = {path for path in (static_path, app.openapi_url) if path is not None}
    app.add_middleware(CountRequests, counters=app.state.counters, plain_paths=plain_paths)


@router.get(
    "/metrics",
    summary="Counters and gauges for Prometheus",
    response_class=Response,
    responses={
        200: {
            "description": "Prometheus text, or OpenMetrics where Accept asks for it.",
            "content": {"text/plain": _TEXT, "application/openmetrics-text": _TEXT},
        },
        **problems.document_problems(problems.UNKNOWN_PARAMETER),
    },
    dependencies=[Depends(KnownQuery())],
)
def get_metrics(request: Request) -> Response:
    """Requests by route and status, the time they and the stages of a detection took, objects found by class, the
    queue, uploads held, how late the event loop was, and the process. It answers before the service is ready too;
    `yolofold_ready` is 0 then.

    Refusals of what never became a request (half a head, no HTTP) are not counted."""
    # Not async: reading /proc and formatting take milliseconds, which the event loop must not spend.
    encode, content_type = _encoder(", ".join(request.headers.getlist("accept")))
    return Response(encode(request.app.state.registry), headers={"Content-Type": content_type})


def _encoder(accept: str) -> tuple[Callable[[Collector], bytes], str]:
    try:
        return choose_encoder(accept)
    except TypeError:  # the library compares versions as numbers; this one is none
        return choose_encoder("")

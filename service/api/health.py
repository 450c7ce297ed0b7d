"""``GET /healthz`` and ``GET /readyz``: probes for supervisors and load balancers."""

from fastapi import APIRouter, Response

from service.api import problems
from service.api.answers import json_answer
from service.api.problems import RequestRefused
from service.api.schemas import Health
from service.api.state import ServiceDep

router = APIRouter(tags=["health"])


@router.get(
    "/healthz",
    summary="Is the process alive?",
    response_model=Health,
    response_description="It is.",
    responses=problems.document_problems(),
)
async def get_health() -> Response:
    """Answers as long as the event loop turns; says nothing about the network."""
    return json_answer(Health(status="alive"))


@router.get(
    "/readyz",
    summary="Can it detect?",
    response_description="It can.",
    response_model=Health,
    responses=problems.document_problems(problems.NOT_READY),
)
async def get_readiness(service: ServiceDep) -> Response:
    """True once the start-up check has passed in this process, while every worker lives and none hangs."""
    if not service.pool.alive:
        detail = "A worker has died or hangs, or the service is stopping."
        raise RequestRefused(problems.NOT_READY, detail, retry_after=5)
    return json_answer(Health(status="ready"))

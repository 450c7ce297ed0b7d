"""``/model/latency``: what folding gains on the machine that serves, measured there on request."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response
from pydantic import Field

from service.api import problems
from service.api.answers import json_answer
from service.api.query import KnownQuery
from service.api.schemas import LatencyAnswer
from service.api.state import Service, ServiceDep
from service.machine import describe_machine
from service.measurement.bench import staleness
from service.measurement.runner import DEFAULT_ROUNDS, MIN_ROUNDS

router = APIRouter(prefix="/model", tags=["model"])

PATH = "/model/latency"
MAX_ROUNDS, MAX_BATCH = 300, 8


@router.get(
    "/latency",
    summary="Latency gain from folding: progress and results",
    response_description="What was measured, here and while the bundle was made.",
    response_model=LatencyAnswer,
    responses=problems.document_problems(problems.UNKNOWN_PARAMETER, problems.NOT_READY),
    dependencies=[Depends(KnownQuery())],
)
async def get_latency(service: ServiceDep) -> Response:
    """`prepared` was measured while the bundle was made and includes PyTorch; `stale` says whether that was on a
    machine like this one. `measured` is the measurement last started here with POST."""
    return json_answer(_answer(service))


@router.post(
    "/latency",
    status_code=202,
    summary="Measure the latency gain on this machine",
    response_model=LatencyAnswer,
    responses={
        202: {
            "description": "The measurement has been started.",
            "headers": {"Location": {"description": "Where it can be watched.", "schema": {"type": "string"}}},
        },
        **problems.document_problems(
            problems.MEASUREMENT_RUNNING,
            problems.INVALID_PARAMETER,
            problems.UNKNOWN_PARAMETER,
            problems.OVERLOADED,
            problems.NOT_READY,
        ),
    },
    dependencies=[Depends(KnownQuery("rounds", repeatable=("batch",)))],
)
async def start_latency(
    service: ServiceDep,
    rounds: Annotated[
        int, Query(ge=MIN_ROUNDS, le=MAX_ROUNDS, description="Rounds; in each, every arm runs once.")
    ] = DEFAULT_ROUNDS,
    batch: Annotated[
        list[Annotated[int, Field(ge=1, le=MAX_BATCH)]],
        Query(max_length=MAX_BATCH, description="Images per run; repeat it to measure several, such as 1, 4 and 8."),
    ] = [1],  # noqa: B006 (FastAPI copies it)
) -> Response:
    """Returns at once; GET shows progress. Latency, throughput with as many callers as there are runs of the network at
    once (where it serves in batches, as many as fill the cores, four at most), and the peak memory of each arm are
    measured, in ONNX Runtime on the processor and, where these are installed, in OpenVINO in each precision that the
    processor and the bundle have, and on CUDA if the setting of the device allows it. The measurement waits while
    requests are worked on and repeats rounds that one fell into. It holds seven loaded graphs until it ends, up to
    eleven with OpenVINO and thirteen with int8, each with the activations of a whole batch. Only one runs at a time."""
    service.latency.start(rounds, batch)
    return json_answer(_answer(service), status_code=202, headers={"Location": PATH})


@router.delete(
    "/latency",
    summary="End the running measurement",
    response_description="It will end after the round it is in.",
    response_model=LatencyAnswer,
    responses=problems.document_problems(problems.NO_MEASUREMENT, problems.UNKNOWN_PARAMETER, problems.NOT_READY),
    dependencies=[Depends(KnownQuery())],
)
async def cancel_latency(service: ServiceDep) -> Response:
    """It ends after the round it is in; GET then shows it as cancelled."""
    if not service.latency.cancel():
        raise problems.RequestRefused(problems.NO_MEASUREMENT, "No measurement is running.")
    return json_answer(_answer(service))


def _answer(service: Service) -> LatencyAnswer:
    prepared = service.bundle.latency
    stale = staleness(prepared, describe_machine())
    return LatencyAnswer(prepared=prepared, stale=bool(stale), stale_reasons=stale, measured=service.latency.latest)

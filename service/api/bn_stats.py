"""``GET /model/bn-stats``: what every BatchNorm held before it was folded away, and what that means."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response

from service.api import problems
from service.api.answers import json_answer, negotiate
from service.api.problems import RequestRefused
from service.api.query import KnownQuery
from service.api.schemas import BatchNormAnswer
from service.api.state import ServiceDep
from service.bundle.batchnorm import FoldStatus, Stage
from service.bundle.health import WEAK_GAMMA, Severity, WarningCode
from service.observatory.document import Detail, bn_stats_document
from service.observatory.pruning import PruneRule
from service.observatory.selection import Selection, SortKey, SortOrder
from service.observatory.spreadsheet import bn_stats_csv

router = APIRouter(prefix="/model", tags=["model"])

_JSON, _CSV = "application/json", "text/csv"


async def pruning_asked_for(
    prune_threshold: Annotated[
        float | None,
        Query(
            ge=0,
            allow_inf_nan=False,
            description=f"Count channels with |gamma| up to this; {WEAK_GAMMA:g} if not given.",
        ),
    ] = None,
    prune_percentile: Annotated[
        float | None,
        Query(ge=0, le=100, description="Instead: up to this percentile of all |gamma| in layers not dropped."),
    ] = None,
) -> PruneRule:
    """The rule two parameters name together.

    Raises:
        RequestRefused: both are given.
    """
    if prune_threshold is not None and prune_percentile is not None:
        detail = "prune_percentile and prune_threshold both set the threshold; give one of them."
        raise RequestRefused(problems.INVALID_PARAMETER, detail, field="prune_percentile")
    if prune_percentile is not None:
        return PruneRule("percentile", prune_percentile)
    return PruneRule() if prune_threshold is None else PruneRule("threshold", prune_threshold)


async def selection_asked_for(
    layer: Annotated[
        str | None,
        Query(description="Only this layer: its BatchNorm's name or its convolution's.", examples=["model.0.bn"]),
    ] = None,
    stage: Annotated[Stage | None, Query(description="Only layers of this stage.")] = None,
    status: Annotated[FoldStatus | None, Query(description="Only layers of this status.")] = None,
    warning: Annotated[WarningCode | None, Query(description="Only layers and warnings with this code.")] = None,
    severity: Annotated[
        Severity | None, Query(description="Only warnings at least this severe, and the layers that have one.")
    ] = None,
    sort: Annotated[
        SortKey, Query(description="Order of the layers; those without the figure come last.")
    ] = "checkpoint",
    order: Annotated[SortOrder, Query(description="Rising or falling.")] = "asc",
) -> Selection:
    """The layers that the query parameters select."""
    return Selection(layer, stage, status, warning, severity, sort, order)


@router.get(
    "/bn-stats",
    summary="BatchNorm statistics, their health and the gain from folding",
    response_model=BatchNormAnswer,
    responses={
        200: {
            "description": "The figures, as a document or as a table.",
            "content": {_CSV: {"schema": {"type": "string"}}},
        },
        **problems.document_problems(
            problems.LAYER_NOT_FOUND,
            problems.NOT_ACCEPTABLE,
            problems.INVALID_PARAMETER,
            problems.UNKNOWN_PARAMETER,
            problems.NOT_READY,
        ),
    },
    dependencies=[
        Depends(
            KnownQuery(
                "detail",
                "layer",
                "stage",
                "status",
                "warning",
                "severity",
                "sort",
                "order",
                "prune_threshold",
                "prune_percentile",
            )
        )
    ],
)
def get_bn_stats(
    request: Request,
    service: ServiceDep,
    selection: Annotated[Selection, Depends(selection_asked_for)],
    rule: Annotated[PruneRule, Depends(pruning_asked_for)],
    detail: Annotated[
        Detail, Query(description="full adds each layer's per-channel arrays and its ledger of dead channels.")
    ] = "summary",
) -> Response:
    """Read from the checkpoint before folding, so they outlive the layers themselves.

    `warnings` says in words what deserves attention and what to do; `health` holds the figures behind it. `latency` is
    what folding was measured to gain, with a 95 % interval and the machine it was measured on.

    `Accept: text/csv` gives the selected layers as a table, a row per layer; with `detail=full` a row per channel.
    """
    if negotiate(request.headers.get("accept", ""), (_JSON, _CSV)) == _CSV:
        return Response(bn_stats_csv(service.bundle, selection, rule, detail), media_type=_CSV)
    return json_answer(bn_stats_document(service.bundle, selection, rule, detail))

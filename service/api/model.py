"""``GET /model`` and ``GET /model/layers``: what is being served."""

from fastapi import APIRouter, Depends, Response

from service.api import problems
from service.api.answers import json_answer
from service.api.query import KnownQuery
from service.api.schemas import EngineChoiceAnswer, EngineInfo, FoldSummary, Graphs, Int8Answer, ModelAnswer
from service.api.state import Service, ServiceDep
from service.bundle.batchnorm import LayerTree
from service.bundle.manifest import ModelSpec
from service.bundle.store import INT8_GRAPH, Bundle
from service.inference.batching_engine import BatchingEngine
from service.tuning.start import Choice

router = APIRouter(prefix="/model", tags=["model"], dependencies=[Depends(KnownQuery())])

_PROBLEMS = problems.document_problems(problems.UNKNOWN_PARAMETER, problems.NOT_READY)


@router.get(
    "",
    summary="The model being served",
    response_model=ModelAnswer,
    response_description="The model, its origin and what runs it.",
    responses=_PROBLEMS,
)
async def get_model(service: ServiceDep) -> Response:
    """Its classes, input and head, where its weights came from, what folding did and what runs it.

    `source` is `official`, `local` or `embedded`; `note` says why the embedded weights are served when others
    were looked for first, or that the weights were recalibrated, and on what.
    """
    return json_answer(_model_answer(service))


@router.get(
    "/layers",
    summary="Every convolution and its BatchNorm",
    response_model=LayerTree,
    response_description="The blocks of the network, in the order of execution.",
    responses=_PROBLEMS,
)
async def get_layers(service: ServiceDep) -> Response:
    """The network before folding: which BatchNorm stood behind which convolution."""
    return json_answer(service.bundle.layers)


def _model_answer(service: Service) -> ModelAnswer:
    manifest = service.bundle.manifest
    return ModelAnswer(
        source=manifest.weights.source,
        note=manifest.weights.note,
        created_at=manifest.created_at,
        model=manifest.model,
        weights=manifest.weights,
        graphs=Graphs(deployed=manifest.deployed, reference=manifest.reference),
        fold=_fold_summary(service.bundle),
        int8=_int8(service.bundle),
        fp16=service.bundle.fp16,
        engine=EngineInfo(
            runtime=service.engine.runtime,
            provider=service.engine.provider,
            precision=service.engine.precision,
            threads=service.engine.threads,
            threads_under_load=service.engine.layouts[-1].threads,
            max_batch_size=service.engine.max_batch_size if isinstance(service.engine, BatchingEngine) else 1,
            workers=service.pool.workers,
        ),
        engine_choice=_engine_choice(service.choice),
        engine_warning=service.engine_warning,
        ultralytics_predict=_equivalent_arguments(manifest.model),
        tools=manifest.tools,
    )


def _int8(bundle: Bundle) -> Int8Answer | None:
    if bundle.int8 is None:
        return None
    return Int8Answer(**bundle.int8.model_dump(), sha256=bundle.manifest.files[INT8_GRAPH].sha256)


def _engine_choice(choice: Choice | None) -> EngineChoiceAnswer | None:
    if choice is None:
        return None
    return EngineChoiceAnswer(
        **choice.made.model_dump(),
        remembered=choice.remembered,
        kept=choice.kept_in is not None,
        provisional=choice.provisional,
    )


def _equivalent_arguments(model: ModelSpec) -> dict[str, bool | int | float]:
    """By default predict leaves padding out and takes the one2many head, even of a YOLO26."""
    arguments: dict[str, bool | int | float] = {
        "imgsz": model.input.height,
        "rect": model.input.rect is not None,
        "max_det": model.head.max_det,
    }
    if model.head.kind == "one2one":
        return arguments | {"nms": False}
    return arguments if model.head.iou is None else arguments | {"iou": model.head.iou}


def _fold_summary(bundle: Bundle) -> FoldSummary:
    certificate, totals = bundle.certificate, bundle.batchnorm.totals
    # Tolerances differ from layer to layer, so the worst is the one nearest to its own.
    worst = max(certificate.layers, key=lambda proof: proof.relative_error / proof.tolerance, default=None)
    return FoldSummary(
        passed=certificate.passed,
        folded=totals.folded,
        dropped=totals.dropped,
        unfoldable=totals.unfoldable,
        worst_layer=worst.name if worst else None,
        worst_layer_relative_error=worst.relative_error if worst else None,
        worst_layer_tolerance=worst.tolerance if worst else None,
        end_to_end_tolerance=certificate.end_to_end_tolerance,
        worst_end_to_end_relative_error=max(
            (proof.raw_relative_error for proof in certificate.end_to_end), default=None
        ),
    )

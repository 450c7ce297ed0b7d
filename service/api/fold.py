"""``GET /model/fold``: the fold certificate. ``POST /model/fold/check``: the same question on the caller's picture."""

import time
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import TypeAdapter
from starlette.requests import ClientDisconnect

from service.api import problems
from service.api.answers import json_answer
from service.api.body import read_image_file
from service.api.detect_answer import describe_detections
from service.api.fold_schemas import (
    CertifiedGraph,
    CertifiedGraphs,
    CheckTolerance,
    EndToEndSummary,
    FoldAnswer,
    FoldCheckAnswer,
    GraphRun,
    LayerFoldProof,
    NotFolded,
    StartupCheckAnswer,
)
from service.api.image_request import (
    CLIENT_LEFT,
    IMAGE_BODY,
    IMAGE_PROBLEMS,
    Confidence,
    until_client_leaves,
)
from service.api.query import KnownQuery
from service.api.schemas import Detection, ImageSize, ModelRef
from service.api.state import Service, ServiceDep
from service.bundle.certificate import FoldCertificate
from service.bundle.store import Bundle
from service.inference.fold_check import ROUNDS, FoldCheck, FoldCheckResult
from service.inference.pool import WorkerPool
from service.observatory.selection import find_layer

router = APIRouter(prefix="/model/fold", tags=["model"])

_DETECTIONS = TypeAdapter(list[Detection])


@router.get(
    "",
    summary="The fold certificate",
    response_description="What was proved when the bundle was made, and what was checked when the service started.",
    response_model=FoldAnswer,
    responses=problems.document_problems(
        problems.LAYER_NOT_FOUND, problems.INVALID_PARAMETER, problems.UNKNOWN_PARAMETER, problems.NOT_READY
    ),
    dependencies=[Depends(KnownQuery("layer"))],
)
def get_fold(
    service: ServiceDep,
    layer: Annotated[
        str | None,
        Query(description="Only this layer: its BatchNorm's name or its convolution's.", examples=["model.0.bn"]),
    ] = None,
) -> Response:
    """Proof that folding BatchNorm changed nothing, and of what exactly.

    Each folded layer's error, observed on the inputs it really receives, stands beside the bound that float32
    arithmetic allows it. End to end, the folded network was compared with the unfolded one on photographs, generated
    pictures and noise. The SHA-256 of the checkpoint and of both graphs say which files this is about.

    `startup_check` is about this process: its engine's answer to a stored picture, against the checkpoint's own
    answer, BatchNorm unfolded and computed in float64.
    """
    return json_answer(_fold_answer(service, layer))


@router.post(
    "/check",
    summary="Both graphs on your own image",
    response_description="Both answers, and whether they are the same but for rounding.",
    response_model=FoldCheckAnswer,
    responses=problems.document_problems(*IMAGE_PROBLEMS, problems.INVALID_PARAMETER),
    openapi_extra={"requestBody": IMAGE_BODY},
    dependencies=[Depends(KnownQuery("conf"))],
)
async def check_fold(request: Request, service: ServiceDep, conf: Confidence = None) -> Response:
    """Send the image as to `/detect`. It goes through the graph that kept its BatchNorm, which ONNX Runtime is kept
    from folding by itself, and through the graph that is served, by the engine that serves it. In fp16, bf16 and int8,
    whose rounding would hide what folding changes, the folded graph runs in ONNX Runtime as well, in float32; the
    answer says what ran what.

    The reference graph is loaded for this request and its memory given back at the end, so one check runs at a time:
    another is answered 503 with `Retry-After`. Each inference takes its turn among live requests. The times are
    those of a machine that may have been serving others meanwhile; `GET /model/bn-stats` has the careful measurement.
    """
    deadline = time.monotonic() + service.settings.request_timeout_s
    threshold = service.bundle.manifest.model.default_confidence if conf is None else conf
    # Before the upload, as for /detect; the turn itself is taken after it, or a slow client would hold it.
    service.pool.require_room()
    service.fold_checker.require_free()
    try:
        with service.uploads.open() as share:
            limit = service.settings.max_upload_bytes
            data = await read_image_file(request, share, max_bytes=limit, deadline=deadline)
            with service.fold_checker.turn() as check:
                found = await until_client_leaves(request, _run(service.pool, check, data, threshold, deadline))
    except ClientDisconnect:
        return Response(status_code=CLIENT_LEFT)
    return json_answer(_check_answer(found, service.bundle, threshold))


async def _run(pool: WorkerPool, check: FoldCheck, data: bytes, conf: float, deadline: float) -> FoldCheckResult:
    """Every step is a job of its own, so that no live request waits for more than one of them."""
    await pool.submit(lambda: check.load(data), deadline)
    for _ in range(ROUNDS + 1):
        await pool.submit(check.run_round, deadline)
    return (await pool.submit(lambda: check.result(conf), deadline)).value


def _fold_answer(service: Service, layer: str | None) -> FoldAnswer:
    bundle = service.bundle
    manifest, certificate = bundle.manifest, bundle.certificate
    layers = [LayerFoldProof(**p.model_dump(), share=p.relative_error / p.tolerance) for p in certificate.layers]
    not_folded = _not_folded(bundle)
    wanted = None if layer is None else find_layer(bundle.batchnorm.layers, layer).name
    return FoldAnswer(
        model=_model_ref(bundle),
        passed=True,
        dtype=certificate.dtype,
        checkpoint=manifest.weights,
        graphs=CertifiedGraphs(
            reference=CertifiedGraph(
                **manifest.reference.model_dump(), sha256=manifest.files[manifest.reference.file].sha256
            ),
            deployed=CertifiedGraph(
                **manifest.deployed.model_dump(), sha256=manifest.files[manifest.deployed.file].sha256
            ),
        ),
        startup_check=_startup_check(service),
        end_to_end=_end_to_end(certificate),
        worst_layer=max(layers, key=lambda proof: proof.share).name if layers else None,
        layers=[proof for proof in layers if wanted in (None, proof.name)],
        not_folded=[entry for entry in not_folded if wanted in (None, entry.name)],
    )


def _model_ref(bundle: Bundle) -> ModelRef:
    model = bundle.manifest.model
    return ModelRef(name=model.name, version=model.version, task=model.task)


def _not_folded(bundle: Bundle) -> list[NotFolded]:
    return [
        NotFolded(name=layer.name, status=layer.status, reason=str(layer.reason))
        for layer in bundle.batchnorm.layers
        if layer.status != "folded"
    ]


def _startup_check(service: Service) -> StartupCheckAnswer:
    check, engine = service.startup_check, service.engine
    return StartupCheckAnswer(
        passed=True,
        input=service.bundle.self_check.input,
        boxes=check.rows,
        matched=check.matched,
        highest_confidence=service.bundle.self_check.highest_confidence,
        max_box_difference_px=check.difference.box_px,
        max_confidence_difference=check.difference.confidence,
        max_score_difference=check.difference.score,
        box_tolerance_px=check.tolerance.box_px,
        score_tolerance=check.tolerance.score,
        duration_ms=round(check.duration_ms, 3),
        engine=engine.provider,
        runtime=engine.runtime,
        precision=engine.precision,
        threads=engine.threads,
    )


def _end_to_end(certificate: FoldCertificate) -> EndToEndSummary:
    proofs = certificate.end_to_end
    return EndToEndSummary(
        tolerance=certificate.end_to_end_tolerance,
        max_relative_difference=max(proof.raw_relative_error for proof in proofs),
        max_absolute_difference=max(proof.raw_max_abs_error for proof in proofs),
        comparison_threshold=certificate.comparison_threshold,
        detections=sum(proof.detections for proof in proofs),
        matched=sum(proof.matched for proof in proofs),
        extra=sum(proof.extra for proof in proofs),
        max_box_difference_px=max(proof.max_box_error_px for proof in proofs),
        max_confidence_difference=max(proof.max_confidence_error for proof in proofs),
        inputs=proofs,
    )


def _check_answer(found: FoldCheckResult, bundle: Bundle, conf: float) -> FoldCheckAnswer:
    manifest = bundle.manifest
    reference, deployed = (
        GraphRun(
            file=graph.file,
            batch_normalization_nodes=graph.batch_normalization_nodes,
            engine=engine.provider,
            runtime=engine.runtime,
            precision=engine.precision,
            median_ms=round(median_ms, 3),
            detections=_DETECTIONS.validate_python(describe_detections(detections, manifest.model)),
        )
        for graph, engine, median_ms, detections in (
            (manifest.reference, found.reference_engine, found.reference_ms, found.reference),
            (manifest.deployed, found.deployed_engine, found.deployed_ms, found.deployed),
        )
    )
    return FoldCheckAnswer(
        model=_model_ref(bundle),
        image=ImageSize(width=found.width, height=found.height),
        conf=conf,
        agrees=found.agrees,
        matched=found.matched,
        only_in_reference=found.only_in_reference,
        only_in_deployed=found.only_in_deployed,
        borderline=found.borderline,
        max_box_difference_px=found.difference.box_px,
        max_confidence_difference=found.difference.confidence,
        tolerance=CheckTolerance(box_px=found.tolerance.box_px, score=found.tolerance.score),
        runs=ROUNDS,
        load_ms=round(found.load_ms, 3),
        reference=reference,
        deployed=deployed,
    )

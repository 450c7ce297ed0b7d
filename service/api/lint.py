"""``POST /model/lint``: what was done wrong to a picture or tensor before the network gets it."""

import time
from collections.abc import Iterable
from functools import partial

from fastapi import APIRouter, Depends, Request, Response
from starlette.requests import ClientDisconnect

from service.api import problems
from service.api.answers import json_answer
from service.api.body import read_image_file
from service.api.image_request import CLIENT_LEFT, IMAGE_BODY, IMAGE_PROBLEMS, until_client_leaves
from service.api.lint_schemas import ConfusionAnswer, LintAnswer, LintFinding, LintInput, ScaleAnswer
from service.api.query import KnownQuery
from service.api.schemas import ModelRef
from service.api.state import Service, ServiceDep
from service.inference.linter import Linter
from service.inference.pool import Place
from service.lint.report import Finding, LintReport
from service.lint.signatures import Signatures
from service.lint.tensors import MAGIC, read_tensors

router = APIRouter(prefix="/model", tags=["model"])

_BODY = IMAGE_BODY | {
    "description": "One image file, or one NumPy .npy file with up to 32 pictures as tensors "
    "(`application/octet-stream`).",
}


@router.post(
    "/lint",
    summary="What is wrong with the preprocessing?",
    response_description="The faults found, and how surely.",
    response_model=LintAnswer,
    responses=problems.document_problems(*IMAGE_PROBLEMS, problems.BROKEN_TENSOR),
    openapi_extra={"requestBody": _BODY},
    dependencies=[Depends(KnownQuery())],
)
async def lint(request: Request, service: ServiceDep) -> Response:
    """Send an image as to `/detect`, or the tensors that your own code makes, as a `.npy` file.

    From the values and from what the first folded layers make of them, it tells: a wrong range (0 to 255, divided
    twice, ImageNet's mean and deviation, -1 to 1), channels on the wrong axis, a wrong size, a wrong padding colour,
    missing colour. After `python -m service calibrate`, or once 256 pictures were sampled, also: red and blue swapped,
    inverted, stretched, blurred, dark, noisy, compressed. Several tensors with the same preprocessing are told much
    more surely than one: `confusion` says how surely.
    """
    deadline = time.monotonic() + service.settings.request_timeout_s
    service.pool.require_room()
    try:
        with service.uploads.open() as share:
            limit = service.settings.max_upload_bytes
            data = await read_image_file(request, share, max_bytes=limit, deadline=deadline)
            with service.pool.keep_place() as place:
                return json_answer(await until_client_leaves(request, _look(service, place, data, deadline)))
    except ClientDisconnect:
        return Response(status_code=CLIENT_LEFT)


async def _look(service: Service, place: Place, data: bytes, deadline: float) -> LintAnswer:
    drift = service.drift
    linter = Linter(drift.probe, drift.watched, service.bundle.manifest.model.input, service.detector.budget)
    signatures = drift.knowledge.signatures
    if not data.startswith(MAGIC):
        plan, fitted = (await place.submit(lambda: service.detector.fit(data), deadline)).value
        look = (await place.submit(lambda: linter.look_at_picture(fitted, plan), deadline)).value
        width, height = plan.source_wh
        shown = LintInput(kind="picture", pictures=1, shape=[height, width, 3], dtype="uint8", contract="image")
        return _answer(service, shown, linter.conclude_picture(look, signatures), signatures)
    given = (await place.submit(lambda: read_tensors(data), deadline)).value
    possible = (await place.submit(partial(linter.possible_scalings, given), deadline)).value
    looks = []
    for index in range(len(given)):
        # Each a job of its own, so that no live request waits for more than one of them.
        looks.append((await place.submit(partial(linter.look_at_tensor, given, index, possible), deadline)).value)
    concluding = place.submit(partial(linter.conclude_tensors, given, looks, possible, signatures), deadline)
    report, about_shape = (await concluding).value
    shown = LintInput(
        kind="tensor", pictures=len(looks), shape=list(given.shape), dtype=given.dtype, contract=given.contract
    )
    return _answer(service, shown, report, signatures, about_shape)


def _answer(
    service: Service,
    shown: LintInput,
    report: LintReport,
    signatures: Signatures | None,
    more: Iterable[Finding] = (),
) -> LintAnswer:
    model, scale = service.bundle.manifest.model, report.scale
    return LintAnswer(
        model=ModelRef(name=model.name, version=model.version, task=model.task),
        input=shown,
        findings=[_finding(finding) for finding in (*more, *report.findings)],
        scale=ScaleAnswer(
            taken_for=None if scale.scaling is None else scale.scaling.name,
            certain=scale.certain,
            distances=dict(scale.distances),
        ),
        calibrated=signatures is not None,
        taught_by=service.drift.monitor.source if signatures is not None else None,
        probabilities=None if report.probabilities is None else dict(report.probabilities),
        effective_pictures=report.effective_pictures,
        confusion=_confusion(signatures, report.confusion_group),
    )


def _finding(finding: Finding) -> LintFinding:
    return LintFinding(
        code=finding.fault.name,
        title=finding.fault.title,
        advice=finding.fault.advice,
        basis=finding.basis,
        evidence=finding.evidence,
        probability=finding.probability,
    )


def _confusion(signatures: Signatures | None, group: int | None) -> ConfusionAnswer | None:
    if signatures is None or group is None:
        return None
    return ConfusionAnswer(pictures=group, faults=list(signatures.names), shares=signatures.confusion[group].tolist())

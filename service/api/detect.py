"""``POST /detect``: one image in, the objects in it out."""

import time
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from starlette.requests import ClientDisconnect

from service.api import problems
from service.api.answers import json_answer, negotiate
from service.api.body import UploadShare, read_image_file
from service.api.image_request import (
    BINARY,
    CLIENT_LEFT,
    IMAGE_BODY,
    IMAGE_PROBLEMS,
    Confidence,
    describe_detections,
    until_client_leaves,
)
from service.api.query import KnownQuery, resolve_classes
from service.api.schemas import DetectAnswer, ImageSize, ModelRef, TimingMs
from service.api.state import Service, ServiceDep
from service.bundle.manifest import ModelSpec
from service.inference.detector import DetectionResult, Selection

MAX_DET = 300
_JSON, _JPEG, _PNG = "application/json", "image/jpeg", "image/png"
_PICTURE_FORMATS: dict[str, Literal["jpeg", "png"]] = {_JPEG: "jpeg", _PNG: "png"}
router = APIRouter(tags=["detection"])

_PROBLEMS = problems.document_problems(*IMAGE_PROBLEMS, problems.NOT_ACCEPTABLE)


@router.post(
    "/detect",
    summary="Detect objects in one image",
    response_model=DetectAnswer,
    responses={
        200: {
            "description": "The detections, or the picture with them drawn.",
            "content": {_JPEG: BINARY, _PNG: BINARY},
        },
        **_PROBLEMS,
    },
    openapi_extra={"requestBody": IMAGE_BODY},
    dependencies=[Depends(KnownQuery("conf", "max_det", repeatable=("classes",)))],
)
async def detect(
    request: Request,
    service: ServiceDep,
    conf: Confidence = None,
    max_det: Annotated[int, Query(ge=1, le=MAX_DET, description="Most detections answered.")] = MAX_DET,
    classes: Annotated[
        list[str] | None,
        Query(description="Only these classes, by name or id; repeat it for several.", examples=[["bus", "0"]]),
    ] = None,
) -> Response:
    """Send the image as the raw body, or as the one file of a form.

    Boxes are in pixels of the picture as people see it: EXIF orientation applied, boxes clipped to it, most
    confident first. With `Accept: image/jpeg` or `image/png` the answer is the picture with the boxes drawn.
    """
    deadline = time.monotonic() + service.settings.request_timeout_s
    wanted = negotiate(request.headers.get("accept", ""), (_JSON, _JPEG, _PNG))
    model = service.bundle.manifest.model
    selection = Selection(
        model.default_confidence if conf is None else conf,
        max_det,
        None if classes is None else resolve_classes(classes, model.classes),
    )
    # Before the upload: a full service should not make the client send megabytes first.
    service.pool.require_room()
    try:
        with service.uploads.open() as share:
            return await _answer(request, service, share, deadline, selection, wanted)
    except ClientDisconnect:
        return Response(status_code=CLIENT_LEFT)


async def _answer(
    request: Request, service: Service, share: UploadShare, deadline: float, selection: Selection, wanted: str
) -> Response:
    data = await read_image_file(request, share, max_bytes=service.settings.max_upload_bytes, deadline=deadline)
    received = time.perf_counter()
    detector, model, counters = service.detector, service.bundle.manifest.model, request.app.state.counters
    if wanted != _JSON:
        drawing = service.pool.submit(lambda: detector.annotate(data, selection, _PICTURE_FORMATS[wanted]), deadline)
        drawn = await until_client_leaves(request, drawing)
        result = drawn.value.result
        counters.add_detections(_steps_ms(result, drawn.waited_s), result.detections.class_id.tolist())
        return Response(drawn.value.file, media_type=wanted)
    finding = service.pool.submit(lambda: detector.detect(data, selection), deadline)
    found = await until_client_leaves(request, finding)
    steps_ms = _steps_ms(found.value, found.waited_s)
    counters.add_detections(steps_ms, found.value.detections.class_id.tolist())
    return json_answer(_detect_answer(found.value, model, steps_ms, received))


def _steps_ms(result: DetectionResult, waited_s: float) -> dict[str, float]:
    steps = result.timings_ms
    return {
        "decode": steps.decode,
        "queue": waited_s * 1e3 + steps.memory_wait,
        "inference": steps.inference,
        "postprocess": steps.postprocess,
    }


def _detect_answer(
    result: DetectionResult, model: ModelSpec, steps_ms: dict[str, float], received: float
) -> DetectAnswer:
    timing = {**steps_ms, "total": (time.perf_counter() - received) * 1e3}
    return DetectAnswer(
        model=ModelRef(name=model.name, version=model.version, task=model.task),
        image=ImageSize(width=result.width, height=result.height),
        detections=describe_detections(result.detections, model),
        timing_ms=TimingMs(**{step: round(ms, 3) for step, ms in timing.items()}),
    )

"""``POST /detect``: one image in, the objects in it out."""

import asyncio
import time
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Depends, Query, Request, Response
from starlette.requests import ClientDisconnect

from service.api import problems
from service.api.answers import json_answer, negotiate
from service.api.body import FILE_FIELDS, UploadShare, read_image_file
from service.api.query import KnownQuery, resolve_classes
from service.api.schemas import Box, DetectAnswer, Detection, ImageSize, ModelRef, TimingMs
from service.api.state import Service, ServiceDep
from service.bundle.manifest import ModelSpec
from service.inference.detector import DetectionResult, Selection
from service.inference.headers import ACCEPTED
from service.inference.pool import Finished, WorkerPool

T = TypeVar("T")

MAX_DET = 300
_JSON, _JPEG, _PNG = "application/json", "image/jpeg", "image/png"
_PICTURE_FORMATS: dict[str, Literal["jpeg", "png"]] = {_JPEG: "jpeg", _PNG: "png"}
#: nginx's code for a client that left; nobody receives it, but access logs show it.
_CLIENT_LEFT = 499

router = APIRouter(tags=["detection"])

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_FORM_FILE = {"type": "string", "format": "binary", "description": "The image file."}
_REQUEST_BODY = {
    "required": True,
    "description": f"One image file: {ACCEPTED}.",
    "content": {
        "image/*": _BINARY,
        "application/octet-stream": _BINARY,
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "description": "Exactly one file, in either field.",
                "properties": dict.fromkeys(FILE_FIELDS, _FORM_FILE),
                "minProperties": 1,
                "maxProperties": 1,
            }
        },
    },
}
_PROBLEMS = problems.document_problems(
    problems.EMPTY_BODY,
    problems.MALFORMED_BODY,
    problems.NOT_ACCEPTABLE,
    problems.BODY_TIMEOUT,
    problems.UPLOAD_TOO_LARGE,
    problems.IMAGE_TOO_LARGE,
    problems.UNSUPPORTED_MEDIA_TYPE,
    problems.UNSUPPORTED_IMAGE,
    problems.BROKEN_IMAGE,
    problems.INVALID_PARAMETER,
    problems.UNKNOWN_PARAMETER,
    problems.INFERENCE_FAILED,
    problems.OVERLOADED,
    problems.NOT_READY,
    problems.DEADLINE_EXCEEDED,
)


@router.post(
    "/detect",
    summary="Detect objects in one image",
    response_model=DetectAnswer,
    responses={
        200: {
            "description": "The detections, or the picture with them drawn.",
            "content": {_JPEG: _BINARY, _PNG: _BINARY},
        },
        **_PROBLEMS,
    },
    openapi_extra={"requestBody": _REQUEST_BODY},
    dependencies=[Depends(KnownQuery("conf", "max_det", repeatable=("classes",)))],
)
async def detect(
    request: Request,
    service: ServiceDep,
    conf: Annotated[
        float | None,
        Query(
            ge=0,
            le=1,
            allow_inf_nan=False,
            description="Only detections strictly above this confidence. The default is the model's own: "
            "`model.default_confidence` in GET /model.",
        ),
    ] = None,
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
        return Response(status_code=_CLIENT_LEFT)


async def _answer(
    request: Request, service: Service, share: UploadShare, deadline: float, selection: Selection, wanted: str
) -> Response:
    data = await read_image_file(request, share, max_bytes=service.settings.max_upload_bytes, deadline=deadline)
    received = time.perf_counter()
    detector, model = service.detector, service.bundle.manifest.model
    if wanted != _JSON:
        drawn = await _run(
            request,
            service.pool,
            lambda: detector.annotate(data, selection, _PICTURE_FORMATS[wanted]),
            deadline,
        )
        return Response(drawn.value, media_type=wanted)
    found = await _run(request, service.pool, lambda: detector.detect(data, selection), deadline)
    return json_answer(_detect_answer(found, model, received))


async def _run(request: Request, pool: WorkerPool, work: Callable[[], T], deadline: float) -> Finished[T]:
    """Run ``work`` on the pool; when the client leaves first, drop it.

    Raises:
        ClientDisconnect: the client left before the work was done.
    """
    job = asyncio.ensure_future(pool.submit(work, deadline))
    departure = asyncio.ensure_future(_wait_for_departure(request))
    try:
        await asyncio.wait({job, departure}, return_when=asyncio.FIRST_COMPLETED)
        if not job.done():
            raise ClientDisconnect
        return job.result()
    finally:
        for task in (job, departure):
            task.cancel()
        await asyncio.gather(job, departure, return_exceptions=True)


async def _wait_for_departure(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _detect_answer(found: Finished[DetectionResult], model: ModelSpec, received: float) -> DetectAnswer:
    result, steps = found.value, found.value.timings_ms
    timing = {
        "decode": steps.decode,
        "queue": found.waited_s * 1e3 + steps.memory_wait,
        "inference": steps.inference,
        "postprocess": steps.postprocess,
        "total": (time.perf_counter() - received) * 1e3,
    }
    return DetectAnswer(
        model=ModelRef(name=model.name, version=model.version, task=model.task),
        image=ImageSize(width=result.width, height=result.height),
        detections=_detections(result, model),
        timing_ms=TimingMs(**{step: round(ms, 3) for step, ms in timing.items()}),
    )


def _detections(result: DetectionResult, model: ModelSpec) -> list[Detection]:
    found = result.detections
    # Rounded to what the figures mean; float32 noise would triple the answer.
    rows: Any = zip(found.xyxy.tolist(), found.confidence.tolist(), found.class_id.tolist(), strict=True)
    return [
        Detection(
            name=model.classes[class_id],
            class_id=class_id,
            confidence=round(confidence, 6),
            box=Box(**dict(zip(("x1", "y1", "x2", "y2"), (round(v, 3) for v in xyxy), strict=True))),
        )
        for xyxy, confidence, class_id in rows
    ]

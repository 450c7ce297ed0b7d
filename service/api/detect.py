"""``POST /detect``: one image in, the objects in it out."""

import time
from functools import partial
from typing import Literal

from fastapi import APIRouter, Request, Response
from starlette.requests import ClientDisconnect

from service.api import problems
from service.api.answers import json_answer, negotiate
from service.api.body import UploadShare, read_image_file
from service.api.detect_answer import detect_answer, steps_ms
from service.api.image_request import (
    BINARY,
    CLIENT_LEFT,
    IMAGE_BODY,
    IMAGE_PROBLEMS,
    run_on_upload,
    until_client_leaves,
)
from service.api.schemas import DetectAnswer
from service.api.selection import KNOWN_PARAMETERS, SelectionDep
from service.api.state import Service, ServiceDep
from service.inference.detector import Selection

_JSON, _JPEG, _PNG = "application/json", "image/jpeg", "image/png"
_PICTURE_FORMATS: dict[str, Literal["jpeg", "png"]] = {_JPEG: "jpeg", _PNG: "png"}
router = APIRouter(tags=["detection"])

_PROBLEMS = problems.document_problems(*IMAGE_PROBLEMS, problems.INVALID_PARAMETER, problems.NOT_ACCEPTABLE)


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
    dependencies=[KNOWN_PARAMETERS],
)
async def detect(request: Request, service: ServiceDep, selection: SelectionDep) -> Response:
    """Send the image as the raw body, or as the one file of a form.

    Boxes are in pixels of the picture as people see it: EXIF orientation applied, boxes clipped to it, most
    confident first. With `Accept: image/jpeg` or `image/png` the answer is the picture with the boxes drawn.
    """
    deadline = time.monotonic() + service.settings.request_timeout_s
    wanted = negotiate(request.headers.get("accept", ""), (_JSON, _JPEG, _PNG))
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
        annotate = partial(detector.annotate, selection=selection, picture_format=_PICTURE_FORMATS[wanted])
        drawing = run_on_upload(service.pool, share, data, annotate, deadline)
        drawn = await until_client_leaves(request, drawing)
        result = drawn.value.result
        counters.add_detections(steps_ms(result, drawn.waited_s), result.detections.class_id.tolist())
        return Response(drawn.value.file, media_type=wanted)
    detect_objects = partial(detector.detect, selection=selection)
    finding = run_on_upload(service.pool, share, data, detect_objects, deadline)
    found = await until_client_leaves(request, finding)
    steps = steps_ms(found.value, found.waited_s)
    counters.add_detections(steps, found.value.detections.class_id.tolist())
    return json_answer(detect_answer(found.value, model, steps, received))

"""``POST /detect/batch``: several images in one request."""

import time

from fastapi import APIRouter, Request, Response
from starlette.requests import ClientDisconnect

from service.api import problems
from service.api.answers import json_answer, negotiate
from service.api.batch_run import BatchRun
from service.api.batch_schemas import BatchAnswer
from service.api.body import BATCH_FIELDS, read_image_files
from service.api.form import MULTIPART
from service.api.image_request import CLIENT_LEFT, UPLOAD_PROBLEMS, until_client_leaves
from service.api.selection import KNOWN_PARAMETERS, SelectionDep
from service.api.state import ServiceDep
from service.inference.headers import ACCEPTED

#: The largest body, in image files of the largest size.
BATCH_UPLOADS = 4

router = APIRouter(tags=["detection"])

_JSON = "application/json"
_FILES = {"type": "array", "items": {"type": "string", "format": "binary"}, "description": "Image files."}
_BODY = {
    "required": True,
    "description": f"Image files: {ACCEPTED}.",
    "content": {
        MULTIPART: {
            "schema": {
                "type": "object",
                "description": "At least one file, in either field, which may be repeated.",
                "properties": dict.fromkeys(BATCH_FIELDS, _FILES),
                "minProperties": 1,
            },
            "encoding": {field: {"contentType": "image/*, application/octet-stream"} for field in BATCH_FIELDS},
        }
    },
}


@router.post(
    "/detect/batch",
    summary="Detect objects in several images",
    response_model=BatchAnswer,
    response_description="A result for each image.",
    responses=problems.document_problems(
        *UPLOAD_PROBLEMS, problems.INVALID_PARAMETER, problems.TOO_MANY_IMAGES, problems.NOT_ACCEPTABLE
    ),
    openapi_extra={"requestBody": _BODY},
    dependencies=[KNOWN_PARAMETERS],
)
async def detect_batch(request: Request, service: ServiceDep, selection: SelectionDep) -> Response:
    """Send the images as the files of a form. Each result is what `POST /detect` would answer, or a problem document:
    a broken or refused picture does not affect the others, and the status of the whole is 200.

    No more pictures of all batches than there are workers are in the queue at once, so single requests get in between.
    The time-out is that of one request and counts for the whole batch; pictures it does not leave time for are answered
    with `deadline-exceeded`. Where the service itself fails every picture, the request fails.

    `YOLOFOLD_MAX_BATCH_IMAGES` bounds the number of images, four times `YOLOFOLD_MAX_UPLOAD_BYTES` the whole body.
    """
    settings = service.settings
    deadline = time.monotonic() + settings.request_timeout_s
    negotiate(request.headers.get("accept", ""), (_JSON,))
    # Before the upload, as for /detect.
    service.pool.require_room()
    service.bulk.require_room()
    limits = {"max_images": settings.max_batch_images, "max_bytes": BATCH_UPLOADS * settings.max_upload_bytes}
    try:
        with service.batch_uploads.open() as share:
            uploads = await read_image_files(request, share, **limits, deadline=deadline)
            run = BatchRun(request, service, share, selection, deadline)
            return json_answer(await until_client_leaves(request, run.answer(uploads)))
    except ClientDisconnect:
        return Response(status_code=CLIENT_LEFT)

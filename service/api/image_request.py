"""What the routes that take an image share: how the body is described, how it may fail, and clients that leave."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

from fastapi import Query, Request
from starlette.requests import ClientDisconnect

from service.api import problems
from service.api.body import FILE_FIELDS, UploadShare
from service.inference.headers import ACCEPTED
from service.inference.pool import Finished, WorkerPool

T = TypeVar("T")

Confidence = Annotated[
    float | None,
    Query(
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="Only detections strictly above this confidence; the default is in GET /model.",
    ),
]

#: nginx's code for a client that left; nobody receives it, but access logs show it.
CLIENT_LEFT = 499

BINARY = {"schema": {"type": "string", "format": "binary"}}
_FORM_FILE = {"type": "string", "format": "binary", "description": "The image file."}
IMAGE_BODY = {
    "required": True,
    "description": f"One image file: {ACCEPTED}.",
    "content": {
        "image/*": BINARY,
        "application/octet-stream": BINARY,
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
#: Every way a request that uploads images can fail, whatever its images and parameters are.
UPLOAD_PROBLEMS = (
    problems.EMPTY_BODY,
    problems.MALFORMED_BODY,
    problems.BODY_TIMEOUT,
    problems.UPLOAD_TOO_LARGE,
    problems.UNSUPPORTED_MEDIA_TYPE,
    problems.UNKNOWN_PARAMETER,
    problems.INFERENCE_FAILED,
    problems.OVERLOADED,
    problems.NOT_READY,
    problems.DEADLINE_EXCEEDED,
)
#: Every way a request with one image can fail.
IMAGE_PROBLEMS = (*UPLOAD_PROBLEMS, problems.IMAGE_TOO_LARGE, problems.UNSUPPORTED_IMAGE, problems.BROKEN_IMAGE)


async def run_on_upload(
    pool: WorkerPool, share: UploadShare, data: bytes, work: Callable[[bytes], T], deadline: float
) -> Finished[T]:
    """Run ``work`` on a worker with ``data``, the image file of which ``share`` holds the bytes. They count as held
    until the work has ended: once begun, that may be after the client has left or the deadline has passed.

    Args:
        deadline: on ``time.monotonic``'s clock, seconds.

    Raises:
        Exception: the pool's own errors, and what ``work`` raises.
    """
    # Detached in here, where submitting follows at once: a coroutine that never begins would give nothing back.
    return await pool.submit(lambda: work(data), deadline, when_over=share.detach(len(data)))


async def until_client_leaves(request: Request, work: Awaitable[T]) -> T:
    """The value of ``work``, which is cancelled when the client leaves first.

    Raises:
        ClientDisconnect: the client left before the work was done.
    """
    job = asyncio.ensure_future(work)
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

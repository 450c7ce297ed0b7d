"""Reads the images of a request body, raw or multipart, never holding more than was agreed."""

import asyncio
import io
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass

from fastapi import Request
from starlette.datastructures import UploadFile

from service.api.form import MULTIPART, FormReader, content_of, files_of, parse_form
from service.api.problems import (
    BODY_TIMEOUT,
    EMPTY_BODY,
    MALFORMED_BODY,
    TOO_MANY_IMAGES,
    UNSUPPORTED_MEDIA_TYPE,
    UPLOAD_TOO_LARGE,
    RequestRefused,
)
from service.errors import Overloaded

ACCEPTED_TYPES = f"image/*, application/octet-stream, {MULTIPART}"
FILE_FIELDS = ("file", "image")
BATCH_FIELDS = ("file", "files")
#: Boundaries and part headers around the one file.
_MULTIPART_OVERHEAD_BYTES = 16_384


class UploadBudget:
    """Bytes of all request bodies held at once, whether still arriving or waiting for a worker."""

    def __init__(self, limit_bytes: int, within: "UploadBudget | None" = None) -> None:
        """``within`` is a larger budget that all held here counts in as well."""
        self._limit, self._held, self._within = limit_bytes, 0, within

    @property
    def held_bytes(self) -> int:
        """Bytes held now."""
        return self._held

    @contextmanager
    def open(self) -> Iterator["UploadShare"]:
        """A share for one request; it is given back when the block ends."""
        share = UploadShare(self)
        try:
            yield share
        finally:
            self._give_back(share.bytes)

    def _take(self, count: int) -> None:
        if self._held + count > self._limit:
            raise Overloaded(f"Uploads being received or waiting already hold {self._held} bytes.")
        if self._within is not None:
            self._within._take(count)
        self._held += count

    def _give_back(self, count: int) -> None:
        self._held -= count
        if self._within is not None:
            self._within._give_back(count)


@dataclass
class UploadShare:
    """One request's part of the budget."""

    budget: UploadBudget
    bytes: int = 0

    def add(self, count: int) -> None:
        """Hold ``count`` more bytes.

        Raises:
            Overloaded: all requests together would hold too much.
        """
        self.budget._take(count)
        self.bytes += count

    def detach(self, count: int) -> Callable[[], None]:
        """Part with ``count`` bytes that may be in use for longer than the share: what is returned gives them back.
        To be called once, on the event loop.
        """
        self.bytes -= count
        return lambda: self.budget._give_back(count)


async def read_image_file(request: Request, share: UploadShare, *, max_bytes: int, deadline: float) -> bytes:
    """The bytes of the one image file in a request.

    Args:
        share: counts the bytes as they arrive.
        max_bytes: largest file accepted.
        deadline: latest end of the upload, on ``time.monotonic``'s clock, seconds.

    Raises:
        RequestRefused: missing, wrong, too large, too slow or malformed; the kind says which.
        Overloaded: the uploads of all requests together hold too many bytes.
        ClientDisconnect: the client left before the body was complete.
    """
    media_type = _media_type(request, ACCEPTED_TYPES)
    multipart = media_type == MULTIPART
    limit = max_bytes + (_MULTIPART_OVERHEAD_BYTES if multipart else 0)
    empty = RequestRefused(EMPTY_BODY, "Send the bytes of one image file.")
    async with _arriving(request, share, limit, file_too_large(max_bytes), deadline) as chunks:
        # Looked at first: a form of no bytes at all is empty rather than malformed.
        if not (first := await anext(chunks, b"")):
            raise empty
        async with aclosing(_resumed(first, chunks)) as whole:
            data = await (_only_file(request, whole) if multipart else _joined(whole))
    if len(data) > max_bytes:
        raise file_too_large(max_bytes)
    if not data:
        raise empty
    return data


async def read_image_files(
    request: Request, share: UploadShare, *, max_images: int, max_bytes: int, deadline: float
) -> list[UploadFile]:
    """The image files of a form, in its order; each is held once, until it is closed.

    Args:
        share: counts the bytes as they arrive.
        max_images: most files accepted.
        max_bytes: largest body accepted.
        deadline: latest end of the upload, on ``time.monotonic``'s clock, seconds.

    Raises:
        RequestRefused: missing, wrong, too large, too many, too slow or malformed; the kind says which.
        Overloaded: the uploads of all such requests together hold too many bytes.
        ClientDisconnect: the client left before the body was complete.
    """
    _media_type(request, MULTIPART)
    too_many = too_many_images(max_images)
    async with _arriving(request, share, max_bytes, batch_too_large(max_bytes), deadline) as chunks:
        # One more part than allowed, so that a field there is not is named rather than counted.
        form = await parse_form(FormReader(request.headers, chunks, max_images + 1, too_many))
    uploads = files_of(form, BATCH_FIELDS)
    if len(uploads) > max_images:
        raise too_many
    if not uploads:
        raise RequestRefused(EMPTY_BODY, f"The form holds no files. Send up to {max_images}.", field=BATCH_FIELDS[0])
    return uploads


def file_too_large(max_bytes: int) -> RequestRefused:
    """The refusal of an image file of more than ``max_bytes``."""
    return RequestRefused(UPLOAD_TOO_LARGE, f"An image file may have {max_bytes} bytes at most.", limit=max_bytes)


def batch_too_large(max_bytes: int) -> RequestRefused:
    """The refusal of a batch whose body has more than ``max_bytes``."""
    return RequestRefused(UPLOAD_TOO_LARGE, f"The body of a batch may have {max_bytes} bytes at most.", limit=max_bytes)


def too_many_images(most: int) -> RequestRefused:
    """The refusal of a batch of more images."""
    detail = f"A batch may have {most} images at most."
    return RequestRefused(TOO_MANY_IMAGES, detail, field=BATCH_FIELDS[0], limit=most)


def _media_type(request: Request, accepted: str) -> str:
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise _wrong_type(f"Content-Encoding {encoding!r} is not supported; send the file as it is.", accepted)
    given = request.headers.get("content-type", "")
    media_type = given.partition(";")[0].strip().lower()
    if not media_type:
        raise _wrong_type(f"Content-Type is missing; send {accepted}.", accepted)
    family, slash, _ = media_type.partition("/")
    if not {media_type, f"{family}{slash}*"}.intersection(accepted.split(", ")):
        raise _wrong_type(f"Content-Type is {media_type!r}; send {accepted}.", accepted)
    return media_type


def _wrong_type(detail: str, accepted: str) -> RequestRefused:
    return RequestRefused(UNSUPPORTED_MEDIA_TYPE, detail, headers={"Accept-Post": accepted})


@asynccontextmanager
async def _arriving(
    request: Request, share: UploadShare, limit: int, too_large: RequestRefused, deadline: float
) -> AsyncIterator[AsyncGenerator[bytes, None]]:
    """The body's chunks, refused as soon as they are too many or too late."""
    try:
        async with (
            asyncio.timeout(deadline - time.monotonic()),
            aclosing(_bounded(request, share, limit, too_large)) as chunks,
        ):
            yield chunks
    except TimeoutError as error:
        detail = "The body was not complete within the request's time-out."
        raise RequestRefused(BODY_TIMEOUT, detail, headers={"Connection": "close"}) from error


async def _bounded(
    request: Request, share: UploadShare, limit: int, too_large: RequestRefused
) -> AsyncGenerator[bytes, None]:
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise too_large
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received > limit:
            raise too_large
        share.add(len(chunk))
        yield chunk


async def _resumed(first: bytes, rest: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    yield first
    async for chunk in rest:
        yield chunk


async def _joined(chunks: AsyncGenerator[bytes, None]) -> bytes:
    """All chunks, each copied when it arrives: joined at the end they would be there twice, and the loop held."""
    # A buffer shares the bytes it is made of until it is written to, so that a body in one chunk is never copied.
    with io.BytesIO(await anext(chunks)) as held:
        held.seek(0, io.SEEK_END)
        async for chunk in chunks:
            held.write(chunk)
        return held.getvalue()


async def _only_file(request: Request, chunks: AsyncGenerator[bytes, None]) -> bytes:
    too_many = RequestRefused(MALFORMED_BODY, "The form holds more than two parts. Send exactly one file.")
    # One more than allowed, so that a second part is named rather than merely refused.
    form = await parse_form(FormReader(request.headers, chunks, 2, too_many))
    try:
        return content_of(_single(files_of(form, FILE_FIELDS)))
    finally:
        await form.close()


def _single(uploads: list[UploadFile]) -> UploadFile:
    if len(uploads) != 1:
        fields = " or ".join(repr(name) for name in FILE_FIELDS)
        detail = f"The form holds {len(uploads) or 'no'} files. Send exactly one, as {fields}."
        raise RequestRefused(MALFORMED_BODY if uploads else EMPTY_BODY, detail, field=FILE_FIELDS[0])
    return uploads[0]

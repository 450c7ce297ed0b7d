"""Reads one image out of a request body, raw or multipart, never holding more than was agreed."""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from service.api.problems import (
    BODY_TIMEOUT,
    EMPTY_BODY,
    MALFORMED_BODY,
    UNKNOWN_PARAMETER,
    UNSUPPORTED_MEDIA_TYPE,
    UPLOAD_TOO_LARGE,
    RequestRefused,
)
from service.errors import Overloaded

ACCEPTED_TYPES = "image/*, application/octet-stream, multipart/form-data"
FILE_FIELDS = ("file", "image")
_MULTIPART = "multipart/form-data"
#: Boundaries and part headers around the one file.
_MULTIPART_OVERHEAD_BYTES = 16_384


class UploadBudget:
    """Bytes of all request bodies held at once, whether still arriving or waiting for a worker."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit, self._held = limit_bytes, 0

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
            self._held -= share.bytes

    def _take(self, count: int) -> None:
        if self._held + count > self._limit:
            raise Overloaded(f"Uploads being received or waiting already hold {self._held} bytes.")
        self._held += count


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
    media_type = _media_type(request)
    multipart = media_type == _MULTIPART
    limit = max_bytes + (_MULTIPART_OVERHEAD_BYTES if multipart else 0)
    try:
        async with asyncio.timeout(deadline - time.monotonic()):
            body = await _read_bounded(request, share, limit, max_bytes)
    except TimeoutError as error:
        detail = "The body was not complete within the request's time-out."
        raise RequestRefused(BODY_TIMEOUT, detail, headers={"Connection": "close"}) from error
    if multipart and body:
        body = await _only_file(request, body)
        if len(body) > max_bytes:
            raise _too_large(max_bytes)
    if not body:
        raise RequestRefused(EMPTY_BODY, "Send the bytes of one image file.")
    return body


def _media_type(request: Request) -> str:
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise _wrong_type(f"Content-Encoding {encoding!r} is not supported; send the file as it is.")
    given = request.headers.get("content-type", "")
    media_type = given.partition(";")[0].strip().lower()
    if not media_type:
        raise _wrong_type(f"Content-Type is missing; send one of {ACCEPTED_TYPES}.")
    if not media_type.startswith("image/") and media_type not in ("application/octet-stream", _MULTIPART):
        raise _wrong_type(f"Content-Type is {media_type!r}; send one of {ACCEPTED_TYPES}.")
    return media_type


def _wrong_type(detail: str) -> RequestRefused:
    return RequestRefused(UNSUPPORTED_MEDIA_TYPE, detail, headers={"Accept-Post": ACCEPTED_TYPES})


def _too_large(max_bytes: int) -> RequestRefused:
    return RequestRefused(UPLOAD_TOO_LARGE, f"An image file may have {max_bytes} bytes at most.", limit=max_bytes)


async def _read_bounded(request: Request, share: UploadShare, limit: int, max_bytes: int) -> bytes:
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise _too_large(max_bytes)
    chunks, received = [], 0
    async for chunk in request.stream():
        received += len(chunk)
        if received > limit:
            raise _too_large(max_bytes)
        share.add(len(chunk))
        chunks.append(chunk)
    return b"".join(chunks)


class _MemoryParser(MultiPartParser):
    """Keeps the file in memory: its size is bounded already, and the event loop must not wait for a disk."""

    spool_max_size = 0  # 0 means "never roll over to disk"
    is_complete = False

    def on_end(self) -> None:
        """The closing boundary has been read."""
        self.is_complete = True


async def _only_file(request: Request, body: bytes) -> bytes:
    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    try:
        # One more than allowed, so that a second part is named rather than merely refused.
        parser = _MemoryParser(request.headers, stream(), max_files=2, max_fields=2)
        form = await parser.parse()
    except (MultiPartException, UnicodeError) as error:
        raise RequestRefused(MALFORMED_BODY, f"The multipart body cannot be read: {error}") from error
    try:
        if not parser.is_complete:
            detail = "The multipart body ends before its closing boundary; it looks truncated."
            raise RequestRefused(MALFORMED_BODY, detail)
        return await _single_upload(form).read()
    finally:
        await form.close()


def _single_upload(form: FormData) -> UploadFile:
    fields = " or ".join(repr(name) for name in FILE_FIELDS)
    uploads = []
    for name, value in form.multi_items():
        if name not in FILE_FIELDS:
            detail = f"There is no form field {name!r}. Send the file as {fields}; options go in the query."
            raise RequestRefused(UNKNOWN_PARAMETER, detail, field=name)
        if not isinstance(value, UploadFile):
            detail = f"Form field {name!r} is text. Send it as a file, with a filename."
            raise RequestRefused(MALFORMED_BODY, detail, field=name)
        uploads.append(value)
    if len(uploads) != 1:
        detail = f"The form holds {len(uploads) or 'no'} files. Send exactly one, as {fields}."
        raise RequestRefused(MALFORMED_BODY if uploads else EMPTY_BODY, detail, field=FILE_FIELDS[0])
    return uploads[0]

"""Reads the files of a multipart form into memory. How much that may be is decided before, where its bytes arrive."""

import io
import re
from collections.abc import AsyncGenerator, Collection
from tempfile import SpooledTemporaryFile
from urllib.parse import unquote_to_bytes

from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from service.api.problems import MALFORMED_BODY, UNKNOWN_PARAMETER, RequestRefused

MULTIPART = "multipart/form-data"
#: The name of a file as RFC 5987 writes it: ``filename*=UTF-8''%C3%A4.jpg``.
_EXTENDED_NAME = re.compile(rb";\s*filename\*=(utf-8|iso-8859-1)'[^']*'([^\s;]+)", re.IGNORECASE)


class FormReader(MultiPartParser):
    """A parser that keeps files in memory: the event loop must not wait for a disk."""

    spool_max_size = 0  # 0 means "never roll over to disk"
    is_complete = False

    def __init__(
        self, headers: Headers, stream: AsyncGenerator[bytes, None], most_parts: int, too_many: RequestRefused
    ) -> None:
        """
        Args:
            most_parts: files and text fields together.
            too_many: raised for one part more.
        """
        super().__init__(headers, stream, max_files=most_parts + 1, max_fields=most_parts + 1)
        self._most_parts, self._too_many = most_parts, too_many

    def on_headers_finished(self) -> None:
        """The headers of a part have been read."""
        part = self._current_part
        if part.content_disposition and (name := _extended_name(part.content_disposition)) is not None:
            quoted = name.replace("\\", "\\\\").replace('"', '\\"').encode(self._charset, "replace")
            part.content_disposition += b'; filename="%b"' % quoted
        super().on_headers_finished()

    def on_part_end(self) -> None:
        """A part has been read."""
        super().on_part_end()
        if len(self.items) > self._most_parts:
            raise self._too_many

    def on_end(self) -> None:
        """The closing boundary has been read."""
        self.is_complete = True


def _extended_name(disposition: bytes) -> str | None:
    """The name of a file that is named in the form of RFC 5987 only, else None.

    RFC 7578 forbids that form here and the parser passes over it, so that the file would be taken for text; yet some
    clients use it for names that are not ASCII.
    """
    found = _EXTENDED_NAME.search(disposition)
    if found is None or b"filename" in parse_options_header(disposition)[1]:
        return None
    charset, name = found.groups()
    return unquote_to_bytes(name).decode(charset.decode("ascii"), "replace")


async def parse_form(reader: FormReader) -> FormData:
    """The whole form.

    Raises:
        RequestRefused: it is malformed, truncated or has too many parts.
    """
    try:
        form = await reader.parse()
    except (MultiPartException, UnicodeError) as error:
        raise RequestRefused(MALFORMED_BODY, f"The multipart body cannot be read: {error}") from error
    if not reader.is_complete:
        await form.close()
        detail = "The multipart body ends before its closing boundary; it looks truncated."
        raise RequestRefused(MALFORMED_BODY, detail)
    return form


def files_of(form: FormData, fields: Collection[str]) -> list[UploadFile]:
    """The files of a form, in its order.

    Raises:
        RequestRefused: there is a part that is no file, or a field not among ``fields``.
    """
    uploads = []
    for name, value in form.multi_items():
        if name not in fields:
            known = " or ".join(repr(field) for field in fields)
            detail = f"There is no form field {name!r}. Send files as {known}; options go in the query."
            raise RequestRefused(UNKNOWN_PARAMETER, detail, field=name)
        if not isinstance(value, UploadFile):
            detail = f"Form field {name!r} is text. Send it as a file, with a filename."
            raise RequestRefused(MALFORMED_BODY, detail, field=name)
        uploads.append(value)
    return uploads


def content_of(upload: UploadFile) -> bytes:
    """The whole of a file that a ``FormReader`` has read. Unlike ``UploadFile.read`` it copies nothing: what is
    returned is the file's own buffer, which outlives it.
    """
    assert isinstance(upload.file, SpooledTemporaryFile)
    held = upload.file._file
    assert isinstance(held, io.BytesIO)  # nothing is spooled to disk
    return held.getvalue()

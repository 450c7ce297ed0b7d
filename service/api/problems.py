"""The one place where errors become HTTP answers: RFC 9457 problem documents."""

import logging
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from service import errors
from service.api.parameters import complain, complain_of_absence, declared_parameter, schema_of

MEDIA_TYPE = "application/problem+json"

log = logging.getLogger(__name__)


class Problem(BaseModel):
    """Why a request was not served (RFC 9457)."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="Stable name of the kind of problem.", examples=["urn:yolofold:broken-image"])
    title: str = Field(description="The kind of problem in words; the same for every occurrence.")
    status: int = Field(description="The HTTP status code.", examples=[422])
    detail: str = Field(description="What went wrong this time, and what to do about it.")
    instance: str = Field(description="Path of the request.", examples=["/detect"])
    field: str | None = Field(None, description="The parameter or form field at fault, where there is one.")
    limit: float | None = Field(None, description="The limit that was exceeded, where there is one.")
    retry_after: int | None = Field(None, description="Seconds after which to try again, where that helps.")
    near: list[str] | None = Field(None, description="Names like the one that does not exist, the most alike first.")


class Kind(NamedTuple):
    """A kind of problem. ``slug`` is the stable part of its ``type``."""

    status: int
    slug: str
    title: str


EMPTY_BODY = Kind(400, "empty-body", "The request has no image")
MALFORMED_BODY = Kind(400, "malformed-body", "The body does not follow its media type")
MALFORMED_REQUEST = Kind(400, "malformed-request", "The bytes are not an HTTP request")
NOT_FOUND = Kind(404, "not-found", "There is nothing at this path")
LAYER_NOT_FOUND = Kind(404, "layer-not-found", "No such BatchNorm layer")
NO_MEASUREMENT = Kind(404, "no-measurement", "No measurement is running")
BUNDLE_NOT_FOUND = Kind(404, "bundle-not-found", "No such bundle is kept here")
METHOD_NOT_ALLOWED = Kind(405, "method-not-allowed", "The path does not support this method")
NOT_ACCEPTABLE = Kind(406, "not-acceptable", "No representation matches the Accept header")
HEAD_TIMEOUT = Kind(408, "head-timeout", "The request's head arrived too slowly")
BODY_TIMEOUT = Kind(408, "body-timeout", "The body arrived too slowly")
MEASUREMENT_RUNNING = Kind(409, "measurement-running", "A measurement is running already")
BUNDLE_UNUSABLE = Kind(409, "bundle-unusable", "The bundle is damaged or of another release")
UPLOAD_TOO_LARGE = Kind(413, "upload-too-large", "The upload has too many bytes")
IMAGE_TOO_LARGE = Kind(413, "image-too-large", "The picture has too many pixels")
TOO_MANY_IMAGES = Kind(413, "too-many-images", "The request has too many images")
UNSUPPORTED_MEDIA_TYPE = Kind(415, "unsupported-media-type", "The Content-Type is not one this path takes")
UNSUPPORTED_IMAGE = Kind(415, "unsupported-image", "The content is not an accepted image format")
HEAD_TOO_LARGE = Kind(431, "head-too-large", "The request's head has too many bytes")
BROKEN_IMAGE = Kind(422, "broken-image", "The image is truncated or damaged")
BROKEN_TENSOR = Kind(422, "broken-tensor", "The tensor cannot be used")
INVALID_PARAMETER = Kind(422, "invalid-parameter", "A parameter has a value that is not allowed")
UNKNOWN_PARAMETER = Kind(422, "unknown-parameter", "There is no such parameter")
INTERNAL_ERROR = Kind(500, "internal-error", "The service failed")
INFERENCE_FAILED = Kind(500, "inference-failed", "The network could not be run")
OVERLOADED = Kind(503, "overloaded", "The service is at its limit")
NOT_READY = Kind(503, "not-ready", "The service cannot detect now")
DEADLINE_EXCEEDED = Kind(504, "deadline-exceeded", "The request took too long")

#: Answered before a request reaches an operation, so none lists them.
BEFORE_OPERATIONS = (MALFORMED_REQUEST, HEAD_TIMEOUT, HEAD_TOO_LARGE, NOT_FOUND, METHOD_NOT_ALLOWED)

DEFECT = "This is a defect; the traceback is in the service's log."
REASON_LOGGED = "The reason is in the service's log."

#: Of answers with these statuses, as OpenAPI describes headers.
_HEADERS: dict[int, dict[str, Any]] = {
    415: {
        "Accept-Post": {
            "description": "The media types that the path takes, where the Content-Type was not one of them.",
            "schema": {"type": "string"},
        }
    },
    503: {"Retry-After": {"description": "Seconds after which to try again.", "schema": {"type": "integer"}}},
}

_OTHER_STATUS = Kind(0, "http-error", "The request was refused")
_STATUS_KINDS = {404: NOT_FOUND, 405: METHOD_NOT_ALLOWED}

#: The nearest class in an error's ancestry decides.
ERROR_KINDS: dict[type[errors.YolofoldError], Kind] = {
    errors.UnsupportedImage: UNSUPPORTED_IMAGE,
    errors.BrokenImage: BROKEN_IMAGE,
    errors.ImageTooLarge: IMAGE_TOO_LARGE,
    errors.BrokenTensor: BROKEN_TENSOR,
    errors.LayerNotFound: LAYER_NOT_FOUND,
    errors.MeasurementRunning: MEASUREMENT_RUNNING,
    errors.Overloaded: OVERLOADED,
    errors.DeadlineExceeded: DEADLINE_EXCEEDED,
    errors.EngineError: INFERENCE_FAILED,
    errors.YolofoldError: INTERNAL_ERROR,
}


class RequestRefused(Exception):
    """A request that HTTP itself lets us refuse, before any domain code has seen it."""

    def __init__(
        self, kind: Kind, detail: str, *, headers: Mapping[str, str] | None = None, **members: str | int
    ) -> None:
        """``members`` are further fields of the problem document, such as ``field`` or ``limit``."""
        super().__init__(detail)
        self.kind, self.detail, self.headers, self.members = kind, detail, headers, members


def kind_of(error: Exception) -> Kind:
    """The kind of problem an error is reported as; what is no error of this project's is a defect."""
    if isinstance(error, RequestRefused):
        return error.kind
    return next((ERROR_KINDS[cls] for cls in type(error).__mro__ if cls in ERROR_KINDS), INTERNAL_ERROR)


def problem_response(
    request: Request, kind: Kind, detail: str, headers: Mapping[str, str] | None = None, **members: Any
) -> Response:
    """A problem document as a response; ``retry_after`` also becomes the header of that name."""
    sent = dict(headers or {})
    if "retry_after" in members:
        sent["Retry-After"] = str(members["retry_after"])
    return Response(problem_document(kind, detail, request.url.path, **members), kind.status, sent, MEDIA_TYPE)


def problem_document(kind: Kind, detail: str, instance: str, **members: Any) -> bytes:
    """A problem document as JSON; ``instance`` is the request's path, empty where it never became known."""
    return orjson.dumps(_problem(kind, detail, instance, **members))


def describe_failure(request: Request, error: Exception) -> dict[str, Any]:
    """The problem document of a failure that does not end the request; a fault of the service's own is logged."""
    if isinstance(error, RequestRefused):
        return _problem(error.kind, error.detail, request.url.path, **error.members)
    if not isinstance(error, errors.YolofoldError):
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return _problem(INTERNAL_ERROR, DEFECT, request.url.path)
    kind, detail, members = _explain(request, error)
    return _problem(kind, detail, request.url.path, **members)


def _problem(kind: Kind, detail: str, instance: str, **members: Any) -> dict[str, Any]:
    return {
        "type": f"urn:yolofold:{kind.slug}",
        "title": kind.title,
        "status": kind.status,
        "detail": detail,
        "instance": instance,
        **members,
    }


def install_problem_handlers(app: FastAPI) -> None:
    """Answer every error of ``app`` with a problem document."""
    app.add_exception_handler(RequestRefused, _on_refused)
    app.add_exception_handler(errors.YolofoldError, _on_domain_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(Exception, _on_defect)


def document_problems(*kinds: Kind) -> dict[int | str, dict[str, Any]]:
    """OpenAPI ``responses`` of a route that can answer these kinds and ``internal-error``, their examples begun."""
    by_status: dict[int | str, list[Kind]] = {}
    for kind in (*kinds, INTERNAL_ERROR):
        by_status.setdefault(kind.status, []).append(kind)
    return {status: _document(same_status) for status, same_status in by_status.items()}


def _document(kinds: list[Kind]) -> dict[str, Any]:
    # The examples lack what depends on the operation; ``add_problem_examples`` completes them.
    examples = {
        kind.slug: {
            "summary": kind.title,
            "value": {"type": f"urn:yolofold:{kind.slug}", "title": kind.title, "status": kind.status},
        }
        for kind in kinds
    }
    schema = {"$ref": "#/components/schemas/Problem"}
    response: dict[str, Any] = {
        "description": "; ".join(f"{kind.title} (`{kind.slug}`)" for kind in kinds) + ".",
        "content": {MEDIA_TYPE: {"schema": schema, "examples": examples}},
    }
    if kinds[0].status in _HEADERS:
        response["headers"] = _HEADERS[kinds[0].status]
    return response


async def _on_refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestRefused)
    return problem_response(request, error.kind, error.detail, error.headers, **error.members)


async def _on_domain_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, errors.YolofoldError)
    kind, detail, members = _explain(request, error)
    return problem_response(request, kind, detail, **members)


def _explain(request: Request, error: errors.YolofoldError) -> tuple[Kind, str, dict[str, Any]]:
    kind = kind_of(error)
    if kind.status >= 500 and kind not in (OVERLOADED, DEADLINE_EXCEEDED):
        # Its text may name paths of this machine: the log gets it, the client does not.
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return kind, REASON_LOGGED, {}
    return kind, str(error), dict(_members(request, error))


def _members(request: Request, error: errors.YolofoldError) -> Iterator[tuple[str, Any]]:
    if isinstance(error, errors.Overloaded):
        yield "retry_after", error.retry_after_s
    elif isinstance(error, errors.ImageTooLarge):
        yield "limit", error.limit
    elif isinstance(error, errors.LayerNotFound):
        yield "field", "layer"
        yield "near", error.near


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    name = first["loc"][1]  # behind "query": there are no other parameters
    parameter = declared_parameter(request.scope["route"], name)
    if first["type"] == "missing":
        complaint = complain_of_absence(name, parameter.description)
    else:
        complaint = complain(name, schema_of(parameter), first["input"])
    return problem_response(request, INVALID_PARAMETER, complaint.detail, **complaint.members(name))


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    kind = _STATUS_KINDS.get(error.status_code, _OTHER_STATUS._replace(status=error.status_code))
    detail = f"{request.method} {request.url.path}: {error.detail}."
    if kind is METHOD_NOT_ALLOWED and error.headers:
        detail = f"{request.url.path} does not take {request.method}, only {error.headers.get('Allow', 'others')}."
    elif kind is NOT_FOUND:
        detail = f"There is nothing at {request.url.path}. GET /docs lists the paths."
    return problem_response(request, kind, detail, error.headers)


async def _on_defect(request: Request, error: Exception) -> Response:
    # The server logs the traceback itself once this answer is sent, and closes the connection: a client that is not
    # told would send its next request into a closed one.
    return problem_response(request, INTERNAL_ERROR, DEFECT, {"Connection": "close"})

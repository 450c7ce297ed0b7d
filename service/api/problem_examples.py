"""Whole problem documents for the API's description: what each operation answers to a request it refuses."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from service.api import latency
from service.api.batch import BATCH_UPLOADS
from service.api.body import BATCH_FIELDS, batch_too_large, file_too_large, too_many_images
from service.api.parameters import complain, complain_of_absence
from service.api.problems import DEFECT, MEDIA_TYPE, REASON_LOGGED, RequestRefused
from service.api.query import repeated_parameter, unknown_parameter
from service.errors import LayerNotFound
from service.inference.headers import ACCEPTED
from service.settings import Settings

_BATCH, _READY = "/detect/batch", "/readyz"
_BOUNDS = {"maximum": 1, "minimum": -1}


class _Operation(NamedTuple):
    """An operation of the document, and the settings of the service that it describes."""

    path: str
    described: dict[str, Any]
    settings: Settings


class _Said(NamedTuple):
    """The parts of a problem document that its kind does not decide."""

    detail: str
    members: Mapping[str, Any] = MappingProxyType({})


def add_problem_examples(document: dict[str, Any], settings: Settings) -> None:
    """Complete the examples that ``document_problems`` began, in an OpenAPI document.

    Args:
        settings: of the service that the document is about, for the limits.
    """
    for path, operations in document["paths"].items():
        for described in operations.values():
            operation = _Operation(path, described, settings)
            for slug, example in _begun(described):
                said = _said(slug, operation)
                example["value"] |= {"detail": said.detail, "instance": path, **said.members}


def _begun(described: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for response in described["responses"].values():
        yield from response.get("content", {}).get(MEDIA_TYPE, {}).get("examples", {}).items()


def _said(slug: str, operation: _Operation) -> _Said:
    match slug:
        case "invalid-parameter":
            return _invalid_parameter(operation.described["parameters"])
        case "unknown-parameter":
            known = [parameter["name"] for parameter in operation.described.get("parameters", ())]
            return _refused(unknown_parameter(known[0][:-1] if known else "verbose", known))
        case "not-acceptable":
            offered = ", ".join(operation.described["responses"]["200"]["content"])
            return _Said(f"Accept is 'text/html'; this path answers {offered}.")
        case "unsupported-media-type":
            accepted = ", ".join(operation.described["requestBody"]["content"])
            return _Said(f"Content-Type is 'application/json'; send {accepted}.")
        case "empty-body" | "upload-too-large" | "too-many-images" | "image-too-large":
            return _about_size(slug, operation)
        case "overloaded" | "not-ready":
            return _not_now(slug, operation)
    return _ALWAYS[slug]


def _refused(refusal: RequestRefused) -> _Said:
    return _Said(refusal.detail, dict(refusal.members))


def _invalid_parameter(parameters: list[dict[str, Any]]) -> _Said:
    """A number beyond the first range there is, else no member of the first list, else what may go wrong at all."""
    for parameter in parameters:
        name, schema = parameter["name"], parameter["schema"]
        for option in (schema, *schema.get("anyOf", ()), schema.get("items", {})):
            wrong = [str(option[key] + step) for key, step in _BOUNDS.items() if key in option]
            wrong += [value[:-1] for value in option.get("enum", ())]
            if wrong:
                complaint = complain(name, schema, wrong[0])
                return _Said(complaint.detail, complaint.members(name))
    first = parameters[0]
    if first["required"]:
        complaint = complain_of_absence(first["name"], first["description"])
        return _Said(complaint.detail, complaint.members(first["name"]))
    return _refused(repeated_parameter(first["name"]))


def _about_size(slug: str, operation: _Operation) -> _Said:
    settings, batch = operation.settings, operation.path == _BATCH
    if slug == "too-many-images":
        return _refused(too_many_images(settings.max_batch_images))
    if slug == "upload-too-large":
        most = settings.max_upload_bytes
        return _refused(batch_too_large(BATCH_UPLOADS * most) if batch else file_too_large(most))
    if slug == "image-too-large":
        limit = settings.max_pixels
        side = int(limit**0.5) + 1
        detail = f"The picture has {side} x {side} = {side * side} pixels; the limit is {limit}."
        return _Said(detail, {"limit": limit})
    if batch:
        detail = f"The form holds no files. Send up to {settings.max_batch_images}."
        return _Said(detail, {"field": BATCH_FIELDS[0]})
    return _Said("Send the bytes of one image file.")


def _not_now(slug: str, operation: _Operation) -> _Said:
    if slug == "overloaded":
        if operation.path == latency.PATH:
            return _Said("This process cannot start another thread.", {"retry_after": 1})
        waiting = operation.settings.queue_size
        return _Said(f"All 2 workers are busy and {waiting} requests wait already.", {"retry_after": 3})
    if operation.path == _READY:
        return _Said("A worker has died or hangs, or the service is stopping.", {"retry_after": 5})
    return _Said("The service has not finished starting.", {"retry_after": 1})


def _layer_not_found() -> _Said:
    error = LayerNotFound("model.2.cv1", ["model.2.cv1.bn", "model.22.cv1.bn", "model.23.cv2.0.0.bn"])
    return _Said(str(error), {"field": "layer", "near": error.near})


#: By the slug of the kind: those that read alike wherever they come up.
_ALWAYS = {
    "malformed-body": _Said("The multipart body ends before its closing boundary; it looks truncated."),
    "body-timeout": _Said("The body was not complete within the request's time-out."),
    "unsupported-image": _Said(f"This looks like PDF. Accepted are {ACCEPTED}."),
    "broken-image": _Said("The JPEG file ends too early; it looks truncated."),
    "broken-tensor": _Said("The dtype is int64; send one of uint8, float16, float32, float64."),
    "layer-not-found": _layer_not_found(),
    "bundle-not-found": _Said(
        "There is no bundle 'yolo26n'. Kept here: auto-640-auto-1f3a9c0b2d4e.", {"field": "other"}
    ),
    "bundle-unusable": _Said(
        "The bundle auto-640-auto-1f3a9c0b2d4e cannot be used (BundleCorrupt). The reason is in the service's log.",
        {"field": "other"},
    ),
    "measurement-running": _Said("A measurement is running. Wait for it, or DELETE /model/latency to end it."),
    "no-measurement": _Said("No measurement is running."),
    "inference-failed": _Said(REASON_LOGGED),
    "internal-error": _Said(DEFECT),
    "deadline-exceeded": _Said("The request was not answered within its time-out."),
}

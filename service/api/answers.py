"""How answers are encoded, and which representation a client wants."""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from fastapi import Response
from pydantic import BaseModel

from service.api.problems import NOT_ACCEPTABLE, RequestRefused


def json_answer(
    content: BaseModel | Mapping[str, Any], status_code: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Encode as JSON; NaN and infinity, which JSON lacks, become null, and numpy arrays lists."""
    plain = content.model_dump(by_alias=True) if isinstance(content, BaseModel) else content
    body = orjson.dumps(plain, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(body, status_code, dict(headers or {}), "application/json")


def negotiate(accept: str, offered: Sequence[str]) -> str:
    """The media type of ``offered`` that an Accept header prefers; earlier ones win ties.

    Raises:
        RequestRefused: none is acceptable.
    """
    ranges = [_parse_range(part) for part in accept.split(",") if part.strip()] or [("*/*", 1.0)]
    best, best_quality = None, 0.0
    for media_type in offered:
        quality = _quality(media_type, ranges)
        if quality > best_quality:
            best, best_quality = media_type, quality
    if best is None:
        raise RequestRefused(NOT_ACCEPTABLE, f"Accept is {accept!r}; this path answers {', '.join(offered)}.")
    return best


def _parse_range(part: str) -> tuple[str, float]:
    media_range, *parameters = (piece.strip().lower() for piece in part.split(";"))
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return media_range, float(parameter[2:])
            except ValueError:
                return media_range, 0.0
    return media_range, 1.0


def _quality(media_type: str, ranges: Sequence[tuple[str, float]]) -> float:
    """Quality by the most specific range that matches."""
    family = media_type.partition("/")[0]
    for wanted in (media_type, f"{family}/*", "*/*"):
        for media_range, quality in ranges:
            if media_range == wanted:
                return quality
    return 0.0

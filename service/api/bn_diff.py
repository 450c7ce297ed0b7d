"""``GET /model/bn-diff``: the BatchNorm layers of the served bundle against those of another one kept here."""

import logging
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response

from service.api import problems
from service.api.answers import json_answer
from service.api.problems import RequestRefused
from service.api.query import KnownQuery
from service.api.state import Service, ServiceDep
from service.bundle.store import Bundle, bundle_names, load_bundle
from service.errors import BundleError
from service.observatory.diff import BatchNormDiff, compare_batchnorm, side_of_bundle

router = APIRouter(prefix="/model", tags=["model"])

log = logging.getLogger(__name__)


@router.get(
    "/bn-diff",
    summary="BatchNorm against another bundle",
    response_description="Conclusions in words, then the layers.",
    response_model=BatchNormDiff,
    responses=problems.document_problems(
        problems.BUNDLE_NOT_FOUND,
        problems.BUNDLE_UNUSABLE,
        problems.INVALID_PARAMETER,
        problems.UNKNOWN_PARAMETER,
        problems.NOT_READY,
    ),
    dependencies=[Depends(KnownQuery("other"))],
)
def get_bn_diff(
    service: ServiceDep,
    other: Annotated[
        str,
        Query(description="Folder name of a bundle in YOLOFOLD_BUNDLE_DIR.", examples=["auto-640-auto-1f3a9c0b2d4e"]),
    ],
) -> Response:
    """From the other bundle to the served one: what moved, what was frozen and where they diverged, in words and per
    layer. The distance is the symmetric Kullback-Leibler divergence of the running statistics."""
    diff = compare_batchnorm(side_of_bundle(_find(service, other)), side_of_bundle(service.bundle))
    return json_answer(diff)


def _find(service: Service, name: str) -> Bundle:
    """The bundle of that name. Only listed names are opened, so no path leads out of the folder.

    Raises:
        RequestRefused: there is none, or it cannot be used.
    """
    known = bundle_names(service.settings.bundle_dir)
    if name not in known:
        listed = ", ".join(known) or "none"
        detail = f"There is no bundle {name[:100]!r}. Kept here: {listed}."
        raise RequestRefused(problems.BUNDLE_NOT_FOUND, detail, field="other")
    try:
        return load_bundle(service.settings.bundle_dir / name)
    except BundleError as error:
        log.warning("Bundle %s cannot be compared: %s", name, error)
        detail = f"The bundle {name} cannot be used ({type(error).__name__}). The reason is in the service's log."
        raise RequestRefused(problems.BUNDLE_UNUSABLE, detail, field="other") from error

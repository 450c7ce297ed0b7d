"""``GET /model/bn-stats``: what every BatchNorm held before it was folded away."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Response

from service.api import problems
from service.api.answers import json_answer
from service.api.query import KnownQuery, near_matches
from service.api.schemas import BatchNormAnswer
from service.api.state import ServiceDep
from service.bundle.batchnorm import ARRAYS, DEAD_STD, BatchNormLayer
from service.bundle.store import Bundle
from service.errors import LayerNotFound

router = APIRouter(prefix="/model", tags=["model"])

_FOLD_FIELDS = {"max_abs_error", "relative_error", "tolerance", "passed"}


@router.get(
    "/bn-stats",
    summary="BatchNorm statistics and the gain from folding",
    response_model=BatchNormAnswer,
    responses=problems.document_problems(
        problems.LAYER_NOT_FOUND, problems.INVALID_PARAMETER, problems.UNKNOWN_PARAMETER, problems.NOT_READY
    ),
    dependencies=[Depends(KnownQuery("detail", "layer"))],
)
def get_bn_stats(
    service: ServiceDep,
    detail: Annotated[
        Literal["summary", "full"], Query(description="full adds the per-channel arrays of each layer.")
    ] = "summary",
    layer: Annotated[
        str | None,
        Query(description="Only this layer: its BatchNorm's name or its convolution's.", examples=["model.0.bn"]),
    ] = None,
) -> Response:
    """Read from the checkpoint before folding, so they outlive the layers themselves.

    `latency` is what folding was measured to gain, with a 95 % interval and the machine it was measured on.
    """
    bundle = service.bundle
    layers = bundle.batchnorm.layers if layer is None else [find_layer(bundle.batchnorm.layers, layer)]
    model = bundle.manifest.model
    return json_answer(
        {
            "model": {"name": model.name, "version": model.version, "task": model.task},
            "thresholds": _thresholds(bundle),
            "totals": bundle.batchnorm.totals.model_dump(),
            "layers": _layers(bundle, layers, with_arrays=detail == "full"),
            "latency": bundle.latency.model_dump(),
        }
    )


def find_layer(layers: list[BatchNormLayer], name: str) -> BatchNormLayer:
    """The layer whose BatchNorm or convolution is called ``name``.

    Raises:
        LayerNotFound: there is none; carries the closest names.
    """
    for layer in layers:
        if name in (layer.name, layer.conv):
            return layer
    raise LayerNotFound(name, near_matches(name, [layer.name for layer in layers]))


def _layers(bundle: Bundle, layers: list[BatchNormLayer], *, with_arrays: bool) -> list[dict[str, Any]]:
    proofs = {proof.name: proof.model_dump(include=_FOLD_FIELDS) for proof in bundle.certificate.layers}
    answered = []
    for layer in layers:
        entry = layer.model_dump() | {"fold": proofs.get(layer.name)}
        if with_arrays:
            entry["arrays"] = bundle.batchnorm_arrays(layer.name, ARRAYS)
        answered.append(entry)
    return answered


def _thresholds(bundle: Bundle) -> dict[str, dict[str, Any]]:
    return {
        "dead_channels": {
            "value": DEAD_STD,
            "meaning": "A channel is dead when |gamma| * sqrt(running_var / (running_var + eps)) is at most "
            "this: its output hardly varies over the training data.",
        },
        "eps_dominated_channels": {
            "value": None,
            "meaning": "A channel is dominated by eps when its running_var is below its layer's eps: "
            "eps, not the data, sets its scale.",
        },
        "fold_layer": {
            "value": None,
            "meaning": "Each folded layer has its own tolerance, from the number of terms in its sums and "
            "the precision of float32; relative_error may not exceed it.",
        },
        "fold_end_to_end": {
            "value": bundle.certificate.end_to_end_tolerance,
            "meaning": "Most that the folded network's boxes and scores may differ from the unfolded one's, "
            "relative to the largest of each.",
        },
    }

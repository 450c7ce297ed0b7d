"""The BatchNorm figures as one document: what ``GET /model/bn-stats`` and ``bn-stats --json`` both answer."""

from collections import defaultdict
from typing import Any, Literal

from service.bundle.batchnorm import ARRAYS, DEAD_STD
from service.bundle.health import HEALTH_ARRAYS, RANGE_STDS, WEAK_GAMMA
from service.bundle.store import Bundle
from service.observatory.pruning import Prunable, PruneRule, find_prunable
from service.observatory.selection import LayerView, Selection, select_layers, select_warnings

#: Rises with every change that could break a reader; new members alone do not raise it.
SCHEMA_VERSION: Literal[3] = 3
Detail = Literal["summary", "full"]

_FOLD_FIELDS = {"max_abs_error", "relative_error", "tolerance", "passed"}


def bn_stats_document(bundle: Bundle, selection: Selection, rule: PruneRule, detail: Detail) -> dict[str, Any]:
    """Everything known about the layers asked for; per-channel arrays and the ledger with full detail only.

    Raises:
        LayerNotFound: no layer has the name asked for.
    """
    prunable = find_prunable(bundle, rule)
    views = select_layers(bundle, selection, prunable)
    model = bundle.manifest.model
    return {
        "schema_version": SCHEMA_VERSION,
        "model": {"name": model.name, "version": model.version, "task": model.task},
        "thresholds": _thresholds(bundle),
        "totals": bundle.batchnorm.totals.model_dump(),
        "network": bundle.health.network.model_dump(),
        "prunable": _prunable(prunable),
        "warnings": [warning.model_dump() for warning in select_warnings(bundle, selection, views)],
        "layers": _layers(bundle, views, detail),
        "latency": bundle.latency.model_dump(),
    }


def _prunable(prunable: Prunable) -> dict[str, Any]:
    rule = prunable.rule
    return {
        "percentile": rule.value if rule.kind == "percentile" else None,
        "threshold": prunable.threshold,
        "channels": prunable.channels,
        "share": prunable.share,
    }


def _layers(bundle: Bundle, views: list[LayerView], detail: Detail) -> list[dict[str, Any]]:
    proofs = {proof.name: proof.model_dump(include=_FOLD_FIELDS) for proof in bundle.certificate.layers}
    answered = [
        view.layer.model_dump()
        | {
            "health": view.health.model_dump(),
            "prunable_share": view.prunable_share,
            "fold": proofs.get(view.layer.name),
        }
        for view in views
    ]
    if detail == "full":
        ledger = defaultdict(list)
        for channel in bundle.health.ledger:
            ledger[channel.layer].append(channel.model_dump())
        arrays = bundle.all_batchnorm_arrays([view.layer.name for view in views], (*ARRAYS, *HEALTH_ARRAYS))
        for entry in answered:
            entry |= {"ledger": ledger[entry["name"]], "arrays": arrays[entry["name"]]}
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
        "weak_channels": {
            "value": WEAK_GAMMA,
            "meaning": "A channel is weak when it is dead or its |gamma| is at most this; a layer of which half is "
            "weak has collapsed.",
        },
        "expected_range": {
            "value": RANGE_STDS,
            "meaning": "Activations are expected within this many standard deviations of beta, taken through the "
            "activation.",
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

"""Prunable channels by |gamma|, with one threshold for the whole network (network slimming, arXiv:1708.06519)."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from service.bundle.health import WEAK_GAMMA
from service.bundle.store import Bundle


@dataclass(frozen=True)
class PruneRule:
    """Prune channels with |gamma| of at most ``value``, or of at most the ``value``-th percentile of all of them."""

    kind: Literal["threshold", "percentile"] = "threshold"
    value: float = WEAK_GAMMA


@dataclass(frozen=True)
class Prunable:
    """What a rule would prune.

    Attributes:
        rule: as asked for.
        threshold: largest |gamma| that is pruned.
        channels, share: of all layers that are not dropped.
        share_of_layer: of each layer, by name; dropped layers are measured with the same threshold.
    """

    rule: PruneRule
    threshold: float
    channels: int
    share: float
    share_of_layer: dict[str, float]


def find_prunable(bundle: Bundle, rule: PruneRule) -> Prunable:
    """Apply a rule to the |gamma| of every channel. A percentile is of the layers that are not dropped."""
    layers = bundle.batchnorm.layers
    arrays = bundle.all_batchnorm_arrays([layer.name for layer in layers], ("gamma",))
    gammas = {name: np.abs(found["gamma"].astype(np.float64)) for name, found in arrays.items()}
    kept = np.concatenate([gammas[layer.name] for layer in layers if layer.status != "dropped"])
    threshold = rule.value if rule.kind == "threshold" else float(np.percentile(kept, rule.value))
    return Prunable(
        rule=rule,
        threshold=threshold,
        channels=int((kept <= threshold).sum()),
        share=float((kept <= threshold).mean()),
        share_of_layer={name: float((gamma <= threshold).mean()) for name, gamma in gammas.items()},
    )

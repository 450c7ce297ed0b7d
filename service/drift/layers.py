"""The probed layers of a bundle, with the law each had in training."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.bundle.store import Bundle
from service.drift.distances import Normal, training_law


@dataclass(frozen=True)
class WatchedLayer:
    """One probed layer.

    Attributes:
        name: module path of its BatchNorm, or of the convolution where it had none.
        start, stop: where its channels lie among those of all probed layers.
        law: what it gave in training; None where no BatchNorm tells.
    """

    name: str
    start: int
    stop: int
    law: Normal | None

    def part(self, law: Normal) -> Normal:
        """This layer's channels of a law of all probed channels."""
        return Normal(law.mean[self.start : self.stop], law.variance[self.start : self.stop])


@dataclass(frozen=True)
class WatchedLayers:
    """All probed layers in order, and the channels that count as features, as positions among all of theirs."""

    layers: tuple[WatchedLayer, ...]
    channels: NDArray[np.intp]

    def beside_law(self, observed: Normal) -> tuple[Normal, Normal] | None:
        """The layers that have a training law, one after the other: what was observed of them, and that law.

        None where no layer has one: its convolution came without a BatchNorm, so nothing tells what it gave.

        Args:
            observed: of all probed channels.
        """
        lawful = [(layer.part(observed), layer.law) for layer in self.layers if layer.law is not None]
        if not lawful:
            return None
        parts, laws = zip(*lawful, strict=True)
        return _joined(parts), _joined(laws)


def _joined(laws: Sequence[Normal]) -> Normal:
    return Normal(np.concatenate([law.mean for law in laws]), np.concatenate([law.variance for law in laws]))


def watch_layers(bundle: Bundle) -> WatchedLayers:
    """The layers that the bundle's probe measures."""
    names = ("gamma", "beta", "running_var")
    eps = {layer.name: layer.eps for layer in bundle.batchnorm.layers}
    arrays = bundle.all_batchnorm_arrays([p.batch_norm for p in bundle.probe.layers if p.batch_norm], names)
    watched, counting, start = [], [], 0
    for probed in bundle.probe.layers:
        stop = start + probed.channels
        law = None
        if probed.batch_norm is not None:
            gamma, beta, var = (arrays[probed.batch_norm][name].astype(np.float64) for name in names)
            law = training_law(gamma, beta, var, eps[probed.batch_norm])
        watched.append(WatchedLayer(probed.batch_norm or probed.conv, start, stop, law))
        counting += [start + channel for channel in probed.feature_channels]
        start = stop
    return WatchedLayers(tuple(watched), np.array(counting, np.intp))

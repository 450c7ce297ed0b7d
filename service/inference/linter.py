"""Looks at pictures or tensors for faults of their preprocessing, one after the other, then draws the conclusion."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service.drift.distances import Normal, law_distance
from service.drift.features import Samples
from service.drift.layers import WatchedLayers
from service.inference.probe import Probe, Reading
from service.lint.faults import RIGHT_SCALE, Scaling
from service.lint.padding import crop_padding, find_padding
from service.lint.report import (
    MISPLACED_CHANNELS,
    PADDED_PICTURE,
    PADDING_COLOR,
    WRONG_SIZE,
    Finding,
    LintReport,
    Look,
    conclude,
)
from service.lint.scale import confirms_scaling
from service.lint.signatures import Signatures
from service.lint.tensors import MIN_SIDE, GivenTensors
from service.preprocessing.letterbox import Letterbox, content_tensor

#: Half a step of eight bits: channels closer than that show no colour.
_SAME = 0.5 / 255


class Linter:
    """Finds what was done wrong to the input of one network."""

    def __init__(self, probe: Probe, watched: WatchedLayers, size: int) -> None:
        """
        Args:
            watched: what ``probe`` measures.
            size: side of the network's input, pixels.
        """
        self._probe, self._watched, self._size = probe, watched, size

    def look_at_picture(self, square: NDArray[np.uint8], plan: Letterbox) -> Look:
        """One picture that the service decoded and letterboxed itself, (S, S, 3) uint8 BGR.

        Raises:
            EngineError: the runtime failed.
        """
        # Not cut to multiples of 32 yet: that would add the service's own padding to thin pictures.
        return self._look(content_tensor(square, plan, multiple=1), (RIGHT_SCALE,))

    def look_at_tensor(self, given: GivenTensors, index: int, possible: tuple[Scaling, ...]) -> Look:
        """One of the tensors that a caller made; ``possible`` are the scalings of all of them. Raises EngineError."""
        return self._look(given.values[index], possible)

    def conclude_picture(self, look: Look, signatures: Signatures | None) -> LintReport:
        """What one picture shows."""
        return conclude([look], (RIGHT_SCALE,), signatures, padded_by_caller=PADDED_PICTURE)

    def conclude_tensors(
        self,
        given: GivenTensors,
        looks: Sequence[Look],
        possible: tuple[Scaling, ...],
        signatures: Signatures | None,
    ) -> tuple[LintReport, tuple[Finding, ...]]:
        """What tensors show together, and what their shape does."""
        report = conclude(looks, possible, signatures, padded_by_caller=PADDING_COLOR)
        return report, self._about_shape(given)

    def _about_shape(self, given: GivenTensors) -> tuple[Finding, ...]:
        findings = []
        if given.transposed:
            evidence = f"The shape is {given.shape}, the dtype {given.dtype}."
            findings.append(Finding(MISPLACED_CHANNELS, "exact", evidence))
        height, width = given.values.shape[2:]
        if (height, width) != (self._size, self._size):
            evidence = f"{height} rows and {width} columns; the network takes {self._size} x {self._size}."
            findings.append(Finding(WRONG_SIZE, "exact", evidence))
        return tuple(findings)

    def _look(self, tensor: NDArray[np.float32], possible: tuple[Scaling, ...]) -> Look:
        distances, features, paddings, confirmed = {}, {}, {}, set()
        grey = {}
        for scaling in possible:
            right = scaling.undo(tensor)
            padding = find_padding(right)
            content = crop_padding(right, padding)
            if min(content.shape[1:]) < MIN_SIDE:
                content = right
            reading = self._probe.measure(content)
            distances[scaling.name] = self._distance(reading)
            features[scaling.name] = features_of(reading, self._watched)
            paddings[scaling.name] = padding
            if confirms_scaling(right, padded_as_expected=padding is not None and padding.expected):
                confirmed.add(scaling.name)
            grey[scaling.name] = bool(np.ptp(content, axis=0).max() <= _SAME)
        return Look(distances, features, paddings, frozenset(confirmed), grey)

    def _distance(self, reading: Reading) -> float:
        """Nats per channel from the training law; 0 where no layer has one."""
        if all(layer.law is None for layer in self._watched.layers):
            return 0.0
        return law_distance(self._watched.lawful(Normal(reading.means, reading.variances)), self._watched.law)


def features_of(reading: Reading, watched: WatchedLayers) -> NDArray[np.float64]:
    """One picture's features (F,), as drift scores take them."""
    one = Samples(reading.means[None], reading.variances[None], reading.figures[None])
    features: NDArray[np.float64] = one.features(watched.channels)[0]
    return features

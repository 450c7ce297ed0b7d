"""Looks at pictures or tensors for faults of their preprocessing, one after the other, then draws the conclusion.

Looking takes several times the memory of the picture, which is held of the budget that decoding has.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service.bundle.manifest import InputSpec
from service.drift.distances import Normal, law_distance
from service.drift.features import Samples
from service.drift.layers import WatchedLayers
from service.inference.decode_budget import DecodeBudget
from service.inference.probe import Probe, Reading
from service.lint.faults import EXTREMES_BYTES, HALF_STEP, RIGHT_SCALE, Scaling
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
from service.lint.scale import confirms_scaling, possible_scalings
from service.lint.signatures import Signatures
from service.lint.tensors import MIN_SIDE, GivenTensors
from service.preprocessing.letterbox import Letterbox, content_tensor

#: Most memory taken at once, in bytes per value of a picture: by converting it from what was sent, and by looking at
#: it, with the scaling undone beside it.
_TAKING_BYTES, _LOOKING_BYTES = 5, 13
#: By the probe, in bytes per pixel: three maps of the first layer, which has half of the picture's rows and columns,
#: for each of its channels; and five maps of three planes. Measured with 16 channels: 46, and 88 with earlier bundles.
_PROBE_BYTES_PER_CHANNEL, _PROBE_BYTES = 3, 60


class Linter:
    """Finds what was done wrong to the input of one network."""

    def __init__(self, probe: Probe, watched: WatchedLayers, spec: InputSpec, budget: DecodeBudget) -> None:
        """
        Args:
            watched: what ``probe`` measures.
            spec: the network's input.
            budget: memory shared with whatever else holds whole pictures.
        """
        self._probe, self._watched, self._budget = probe, watched, budget
        self._size, self._rect = spec.height, spec.rect

    def look_at_picture(self, fitted: NDArray[np.uint8], plan: Letterbox) -> Look:
        """One picture that the service decoded and letterboxed itself, (H, W, 3) uint8 BGR.

        Raises:
            EngineError: the runtime failed.
        """
        with self._budget.hold(self._looking_bytes(fitted.size)):
            # Not cut to multiples of 32 yet: that would add the service's own padding to thin pictures.
            return self._look(content_tensor(fitted, plan, multiple=1), (RIGHT_SCALE,))

    def possible_scalings(self, given: GivenTensors) -> tuple[Scaling, ...]:
        """The scalings that all of the tensors can have, the right one first.

        Raises:
            BrokenTensor: a value is infinite or not a number.
        """
        with self._budget.hold(_TAKING_BYTES * given.sent[0].size + EXTREMES_BYTES * len(given)):
            return possible_scalings(given)

    def look_at_tensor(self, given: GivenTensors, index: int, possible: tuple[Scaling, ...]) -> Look:
        """One of the tensors that a caller made; ``possible`` are the scalings of all of them. Raises EngineError."""
        with self._budget.hold(self._looking_bytes(given.sent[index].size)):
            return self._look(given.picture(index), possible)

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
        height, width = given.size_hw
        if not self._takes(height, width):
            evidence = f"{height} rows and {width} columns; the network takes {self._size} x {self._size}"
            if self._rect is not None:
                evidence += f", or one side less by a multiple of {self._rect.multiple}, down to {self._rect.shortest}"
            findings.append(Finding(WRONG_SIZE, "exact", f"{evidence}."))
        return tuple(findings)

    def _takes(self, height: int, width: int) -> bool:
        shorter, longer = sorted((height, width))
        if longer != self._size:
            return False
        rect = self._rect
        return shorter == longer or (
            rect is not None and shorter >= rect.shortest and (longer - shorter) % rect.multiple == 0
        )

    def _looking_bytes(self, values: int) -> int:
        first = self._watched.layers[0]
        per_pixel = _PROBE_BYTES_PER_CHANNEL * (first.stop - first.start) + _PROBE_BYTES
        return _LOOKING_BYTES * values + per_pixel * min(values // 3, self._size**2)

    def _look(self, tensor: NDArray[np.float32], possible: tuple[Scaling, ...]) -> Look:
        distances, features, paddings, confirmed = {}, {}, {}, set()
        grey = {}
        for scaling in possible:
            right = scaling.undo(tensor)
            padding = find_padding(right)
            content = crop_padding(right, padding)
            if min(content.shape[1:]) < MIN_SIDE:
                content = right
            reading = self._probe.measure(_middle(content, self._size))
            compared = self._watched.beside_law(Normal(reading.means, reading.variances))
            if compared is not None:
                distances[scaling.name] = law_distance(*compared)
            features[scaling.name] = features_of(reading, self._watched)
            paddings[scaling.name] = padding
            if confirms_scaling(right, padded_as_expected=padding is not None and padding.expected):
                confirmed.add(scaling.name)
            grey[scaling.name] = bool(np.ptp(content, axis=0).max() <= HALF_STEP)
        return Look(distances, features, paddings, frozenset(confirmed), grey)


def _middle(tensor: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """The middle of a tensor (3, H, W), no more of it than the network would get: the probe's memory has a limit."""
    top, left = (max(0, side - size) // 2 for side in tensor.shape[1:])
    return tensor[:, top : top + size, left : left + size]


def features_of(reading: Reading, watched: WatchedLayers) -> NDArray[np.float64]:
    """One picture's features (F,), as drift scores take them."""
    features: NDArray[np.float64] = Samples.of([reading]).features(watched.channels)[0]
    return features

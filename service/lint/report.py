"""Findings about pictures that share one way of being preprocessed, put together from what each of them shows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from service.lint.faults import GREY, PICTURE_FAULTS, RIGHT_PICTURE, RIGHT_SCALE, Fault, Scaling
from service.lint.padding import Padding
from service.lint.scale import ScaleVerdict, choose_scaling
from service.lint.signatures import CERTAIN, Signatures

Floats = NDArray[np.float64]
#: Even pictures of different scenes count as a little fewer than they are, in the confusion figures too.
_ABOUT = 1.2
#: exact: the values themselves show it. law: the training law decides. measured: calibrated statistics decide.
Basis = Literal["exact", "law", "measured"]

WRONG_SIZE = Fault("wrong_size", "not the network's size", "Letterbox to the size that GET /model gives as input.")
MISPLACED_CHANNELS = Fault(
    "misplaced_channels",
    "channels on the wrong axis",
    "uint8 for the deployed graph is (N, H, W, 3); floats for the network are (N, 3, H, W).",
)
UNKNOWN_SCALE = Fault("unknown_scale", "values in no known range", "Scale to 0..1 by dividing by 255 once.")
PADDING_COLOR = Fault("padding_color", "padded with another colour than grey 114", "Pad with 114 in all channels.")
PADDED_PICTURE = Fault(
    "padded_picture",
    "a picture that has a border already",
    "Send the picture as it is: the service letterboxes it, and its border costs resolution.",
)


@dataclass(frozen=True)
class Look:
    """What one picture shows.

    Attributes:
        distances: from the training law, by the name of each possible scaling, that scaling undone; empty where no
            layer has such a law.
        features: (F,) by the name of each possible scaling, that scaling undone.
        paddings: by the name of each possible scaling, that scaling undone.
        confirmed: names of the scalings that the values themselves confirm.
        grey: by the name of each possible scaling, that scaling undone: its three channels are equal everywhere.
    """

    distances: Mapping[str, float]
    features: Mapping[str, Floats]
    paddings: Mapping[str, Padding | None]
    confirmed: frozenset[str]
    grey: Mapping[str, bool]


@dataclass(frozen=True)
class Finding:
    """One fault found.

    Attributes:
        evidence: what shows it, in words.
        probability: only where it was measured.
    """

    fault: Fault
    basis: Basis
    evidence: str
    probability: float | None = None


@dataclass(frozen=True)
class LintReport:
    """All that was found.

    Attributes:
        scale: the range that the values are in.
        probabilities: of each picture fault, by name; None without calibration or where the range is unknown.
        effective_pictures: how many different pictures would tell as much; None where ``probabilities`` is.
        confusion_group: number of different pictures that the confusion figures hold for, as many or fewer.
    """

    findings: tuple[Finding, ...]
    scale: ScaleVerdict
    probabilities: Mapping[str, float] | None
    effective_pictures: float | None
    confusion_group: int | None


def conclude(
    looks: Sequence[Look], possible: Sequence[Scaling], signatures: Signatures | None, *, padded_by_caller: Fault
) -> LintReport:
    """Put together what pictures with the same preprocessing show.

    Args:
        looks: of at least one picture.
        possible: scalings that their values can have, the keys of every look.
        signatures: None before calibration.
        padded_by_caller: what padding means here, `PADDING_COLOR` for tensors (only another colour is wrong),
            `PADDED_PICTURE` for pictures (any is).
    """
    # Every look has them, or none has, where no layer has a training law.
    distances = {name: float(np.mean([look.distances[name] for look in looks])) for name in looks[0].distances}
    confirmed = frozenset.intersection(*(look.confirmed for look in looks))
    scale = choose_scaling(possible, distances, confirmed)
    findings = [*_about_scale(scale, possible), *_about_padding(looks, scale, padded_by_caller)]
    if scale.scaling is not None and all(look.grey[scale.scaling.name] for look in looks):
        findings.append(Finding(GREY, "exact", "Red, green and blue are equal in every pixel."))
    probabilities, effective, group = None, None, None
    if signatures is not None and scale.scaling is not None:
        features = np.stack([look.features[scale.scaling.name] for look in looks])
        probabilities = signatures.named_probabilities(features)
        effective = signatures.effective_pictures(features)
        group = max(size for size in signatures.confusion if size <= max(1.0, effective * _ABOUT))
        known = {finding.fault for finding in findings}
        findings += _picture_findings(probabilities, known, _describe_pictures(len(looks), effective))
    return LintReport(tuple(findings), scale, probabilities, effective, group)


class FaultWords:
    """Names a window's faults in sentences."""

    def __init__(self, signatures: Signatures) -> None:
        self._signatures = signatures

    def __call__(self, features: Floats) -> list[str]:
        """One sentence for each fault that the pictures with these features (W, F) as good as certainly have."""
        probabilities = self._signatures.named_probabilities(features)
        pictures = _describe_pictures(len(features), self._signatures.effective_pictures(features))
        return [
            f"The pictures look {finding.fault.title} (probability {finding.probability:.3f}, of {pictures}). "
            f"{finding.fault.advice}"
            for finding in _picture_findings(probabilities, set(), pictures)
        ]


def _about_scale(scale: ScaleVerdict, possible: Sequence[Scaling]) -> list[Finding]:
    if scale.scaling is None:
        return [Finding(UNKNOWN_SCALE, "exact", "The extreme values fit none of the ranges that the linter knows.")]
    if scale.scaling == RIGHT_SCALE or not scale.certain:
        return []
    if len(possible) == 1:
        return [Finding(scale.scaling, "exact", "The extreme values fit no other range that the linter knows.")]
    if scale.confirmed:
        return [Finding(scale.scaling, "exact", "Undone, the values are those of eight bits, or their padding is.")]
    nearest, second = sorted(scale.distances.values())[:2]
    evidence = (
        f"Undone, the first layers are {nearest:.2f} nats per channel from their training law; "
        f"the next possible range leaves {second:.2f}."
    )
    return [Finding(scale.scaling, "law", evidence)]


def _about_padding(looks: Sequence[Look], scale: ScaleVerdict, fault: Fault) -> list[Finding]:
    if scale.scaling is None:
        return []
    found = [look.paddings[scale.scaling.name] for look in looks]
    wrong = [p for p in found if p is not None and (fault == PADDED_PICTURE or not p.expected)]
    if not wrong:
        return []
    red, green, blue = (round(255 * value) for value in wrong[0].color)
    bands = wrong[0]
    evidence = (
        f"{len(wrong)} of {len(looks)} pictures; the first has {bands.top} rows at the top, {bands.bottom} at the "
        f"bottom, {bands.left} columns left and {bands.right} right of colour ({red}, {green}, {blue})."
    )
    return [Finding(fault, "exact", evidence)]


def _describe_pictures(pictures: int, effective: float) -> str:
    alike = "" if pictures <= effective * _ABOUT else f", so alike that they count as {effective:.1f}"
    return f"{pictures} picture{'' if pictures == 1 else 's'}{alike}"


def _picture_findings(probabilities: Mapping[str, float], known: set[Fault], pictures: str) -> list[Finding]:
    """The picture faults, other than those ``known`` already, that are as good as certain."""
    return [
        Finding(
            fault,
            "measured",
            f"Over {pictures}, the first layers' statistics are those of this fault.",
            probabilities[fault.name],
        )
        for fault in PICTURE_FAULTS
        if fault not in known and fault != RIGHT_PICTURE and probabilities.get(fault.name, 0.0) >= CERTAIN
    ]

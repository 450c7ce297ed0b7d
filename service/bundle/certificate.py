"""``fold.json``: the proof that folding changed nothing, layer by layer and end to end."""

import math
from typing import Literal

from pydantic import Field

from service.bundle.manifest import Record

#: Two float32 results are compared, each with its own rounding and summation order; this leaves room for both.
_SAFETY = 4.0
_FLOAT32_UNIT = 2.0**-24
#: Raw head outputs, relative to their largest value: the layers' rounding, grown through about a hundred layers.
END_TO_END_TOLERANCE = 1e-3
#: Confidence from which detections are compared.
COMPARISON_THRESHOLD = 0.25


def layer_tolerance(terms: int) -> float:
    """Bound on a layer's error, relative to the sum of the magnitudes of the terms of each output.

    A float32 sum of n products errs by at most about sqrt(n) units in the last place of that sum with high
    probability (Higham and Mary 2019, "A New Approach to Probabilistic Rounding Error Analysis"); the BatchNorm adds
    three roundings.

    Args:
        terms: products in one output of the convolution, at least 1.
    """
    return _SAFETY * (math.sqrt(terms) + 3) * _FLOAT32_UNIT


class LayerProof(Record):
    """conv + BatchNorm against the folded conv, on the input the layer really received."""

    name: str = Field(description="The BatchNorm that was folded.")
    conv: str = Field(description="The convolution it was folded into.")
    max_abs_error: float = Field(description="Largest |folded - reference| over all proof inputs.")
    reference_peak: float = Field(description="Largest |reference| output over the same inputs.")
    relative_error: float = Field(
        description="Worst channel's error over the sum of the magnitudes of the terms that make up its output."
    )
    tolerance: float = Field(description="Bound on relative_error, from the number of terms and float32's precision.")
    passed: bool = Field(description="relative_error is at most tolerance.")


class EndToEndProof(Record):
    """The folded network against the unfolded one with the same head, on one input."""

    input: str = Field(description="Picture's file name, or the seed of the noise.")
    kind: Literal["photograph", "generated", "noise"] = Field(
        description="photograph: a real picture. generated: a drawn one. noise: random pixels."
    )
    raw_max_abs_error: float = Field(description="Largest difference in the decoded boxes (px) and scores.")
    raw_relative_error: float = Field(description="Worst of boxes and scores, each over its own largest value.")
    detections: int = Field(
        description="Boxes of the unfolded network above the comparison threshold; before suppression, if there is any."
    )
    matched: int = Field(
        description="Of these, boxes the folded network repeats (same class, IoU >= 0.99) or rightly suppresses."
    )
    extra: int = Field(description="Boxes only the folded network has.")
    max_box_error_px: float = Field(
        description="Largest difference of a corner among the matched boxes, pixels of the input."
    )
    max_confidence_error: float = Field(description="Largest difference of confidence among the matched boxes.")
    passed: bool = Field(
        description="raw_relative_error is within the end-to-end tolerance, every box was matched and there are no "
        "others."
    )


class Unfoldable(Record):
    """A BatchNorm that stays in the deployed graph."""

    name: str
    reason: str


class FoldCertificate(Record):
    """The whole of ``fold.json``."""

    schema_version: Literal[1] = 1
    passed: bool
    dtype: Literal["float32"] = "float32"
    end_to_end_tolerance: float
    comparison_threshold: float = Field(description="Confidence from which detections are compared.")
    layers: list[LayerProof]
    end_to_end: list[EndToEndProof]
    unfoldable: list[Unfoldable]
    checkpoint_sha256: str

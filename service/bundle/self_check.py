"""``self_check.json``: what the deployed graph must answer to one picture, wherever it is served.

The picture and the rows lie beside it in ``self_check.npz``: ``image`` (H, W, 3) uint8 BGR, letterboxed, and ``rows``
(N, 6) float64: x1, y1, x2, y2 in its pixels, confidence, class id.
"""

import math
from typing import Literal, Self

from pydantic import Field, model_validator

from service.bundle.manifest import Record

IMAGE, ROWS = "image", "rows"
#: The tolerance over the rounding measured in preparation: other processors add in other orders, with errors of the
#: same kind. Run under an emulator, ONNX Runtime's kernels for SSE and for AVX2 strayed as far as those for AVX-512,
#: 6e-5 px.
SAFETY = 10.0


class SelfCheckSpec(Record):
    """The whole of ``self_check.json``."""

    schema_version: Literal[1] = 1
    input: str = Field(description="The picture's file name, or the seed of the noise.", examples=["bus.jpg"])
    rows: int = Field(
        description="Boxes stored: those the checkpoint, its BatchNorm unfolded and computed in float64, is surest of. "
        "None where confidences are so nearly equal that rounding decides which boxes come, as in an untrained "
        "network.",
        examples=[50],
    )
    threshold: float = Field(description="Every box above this confidence was stored.", examples=[0.0055])
    highest_confidence: float | None = Field(
        None, description="Compared where no box is stored: the highest confidence answered. Else null."
    )
    rounding_box_px: float = Field(
        description="Largest difference of a corner between the unfolded network in float32 and in float64; never "
        "taken for less than 1e-4."
    )
    rounding_score: float = Field(description="The same of the score before the sigmoid; at least 2e-5.")
    box_tolerance_px: float = Field(description="What a float32 engine's corners may differ by, pixels of the input.")
    score_tolerance: float = Field(description="What a float32 engine's scores before the sigmoid may differ by.")

    @model_validator(mode="after")
    def _figures_go_together(self) -> Self:
        for rounding, tolerance in (
            (self.rounding_box_px, self.box_tolerance_px),
            (self.rounding_score, self.score_tolerance),
        ):
            if not 0 < rounding < math.inf or not math.isclose(tolerance, SAFETY * rounding):
                raise ValueError(f"a tolerance of {tolerance:g} does not belong to a rounding of {rounding:g}")
        if self.rows < 0 or (self.rows == 0) != (self.highest_confidence is not None):
            raise ValueError("either boxes are stored or the highest confidence is")
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"{self.threshold:g} is no threshold")
        return self

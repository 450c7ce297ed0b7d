"""``probe.json``: which folded convolutions ``probe.onnx`` measures while pictures are served.

The probe is the beginning of the deployed graph. It takes what lies behind the in-graph preprocessing, float32
(1, 3, H, W) RGB from 0 to 1 with sides that are multiples of 32, and gives the mean and the variance of every channel
over all positions: two float32 arrays (1, C), the channels of all probed layers one layer after the other. A third,
(1, 12), holds ``FIGURES`` of the picture itself: some damage, heavy JPEG compression above all, hardly moves any
channel's mean or variance.
"""

from typing import Literal

from pydantic import Field

from service.bundle.manifest import Record

SCHEMA_VERSION: Literal[1] = 1
PROBE_INPUT, PROBE_MEANS, PROBE_VARIANCES, PROBE_FIGURES = "tensor", "means", "variances", "figures"
PLANES = ("luminance", "blue_difference", "red_difference")
"""As in JPEG (ITU-R BT.601, full range), without the offset of the differences."""
KINDS = ("mean", "variance", "detail_square", "detail_magnitude")
"""The last two are the mean square and the mean magnitude of the Laplacian (4 at the centre)."""
FIGURES = tuple(f"{plane}_{kind}" for kind in KINDS for plane in PLANES)
#: Sides of the probe's input are multiples of this, so that no stride leaves a remainder.
PROBE_STRIDE = 32


class ProbedLayer(Record):
    """One convolution whose output is measured, before its activation."""

    conv: str = Field(description="Module path of the convolution.", examples=["model.0.conv"])
    batch_norm: str | None = Field(
        description="Module path of the BatchNorm folded into it, which gives its training law; None had none.",
        examples=["model.0.bn"],
    )
    channels: int
    feature_channels: list[int] = Field(description="The channels that enter drift scores: alive ones, at most 64.")
    chosen: Literal["first", "sensitive"] = Field(
        description="first: the first two convolutions always are. sensitive: it showed corruptions best."
    )
    sensitivity: dict[str, float] = Field(
        description="By corruption: how far the prepared pictures' statistics moved, root mean square over channels, "
        "in standard deviations between pictures."
    )


class ProbeSpec(Record):
    """The whole of ``probe.json``."""

    schema_version: Literal[1] = SCHEMA_VERSION
    layers: list[ProbedLayer] = Field(description="In the order in which they run.")
    macs_share: float = Field(description="The probe's share of the deployed graph's multiply-accumulates.")

    @property
    def channels(self) -> int:
        """Channels of all layers."""
        return sum(layer.channels for layer in self.layers)

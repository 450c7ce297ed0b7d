"""``probe.json``: what ``probe.onnx`` measures, the head of the deployed graph with the statistics of a few layers.

The graph takes ``picture`` (1, 3, H, W) float32, RGB in 0..1, H and W multiples of 32, and gives, all float32,

- ``mean`` and ``variance`` (channels,): of each probed convolution's output over its positions, layer after layer.
  The law they had in training is in ``bn_stats.npz``: mean beta, variance gamma^2 running_var / (running_var + eps).
- ``figures`` (12,): of the picture itself, in the order of ``FIGURES``: mean, variance, mean square and mean magnitude
  of the Laplacian (4 at the centre), each of luminance, blue difference and red difference as JPEG defines them.
"""

from typing import Literal

from pydantic import Field

from service.bundle.batchnorm import Stage
from service.bundle.manifest import Record

#: Part of what names a bundle, so that one with another probe has another name.
SCHEMA_VERSION: Literal[1] = 1
PICTURE = "picture"
MEAN, VARIANCE, FIGURES_OUTPUT = "mean", "variance", "figures"
OUTPUTS = (MEAN, VARIANCE, FIGURES_OUTPUT)
PLANES = ("luminance", "blue_difference", "red_difference")
#: Kinds of figures; the last two are of the Laplacian. Magnitude over root mean square tells how sparse edges are:
#: heavy compression flattens what lies between them.
KINDS = ("mean", "variance", "detail_square", "detail_magnitude")
FIGURES = tuple(f"{plane}_{kind}" for kind in KINDS for plane in PLANES)

Corruption = Literal["blur", "darkness", "jpeg", "noise", "swapped_channels"]


class ProbedLayer(Record):
    """One folded convolution whose output is measured."""

    name: str = Field(description="Module path of the BatchNorm that was folded into it.", examples=["model.0.bn"])
    conv: str = Field(description="Module path of the convolution.", examples=["model.0.conv"])
    stage: Stage
    channels: int
    why: Literal["first", "sensitive"] = Field(
        description="first: the first two folded convolutions always are; sensitive: chosen for what it adds."
    )


class ProbeCandidate(Record):
    """A folded convolution that could have been probed."""

    name: str = Field(description="Module path of its BatchNorm.")
    macs: int = Field(description="Multiply-accumulates of a graph that ends at it, for a full square.")
    sensitivity: dict[Corruption, float] = Field(
        description="By itself, for each way of spoiling the proof pictures: squared Mahalanobis distance of the mean "
        "shift of its statistics, over sqrt(2 features)."
    )


class ProbeSpec(Record):
    """The whole of ``probe.json``."""

    schema_version: Literal[1] = SCHEMA_VERSION
    layers: list[ProbedLayer] = Field(description="In the order of the outputs' channels.")
    macs: int = Field(description="Multiply-accumulates of the probe for a full square.")
    network_macs: int = Field(description="Those of the whole deployed network.")
    sensitivity: dict[Corruption, float] = Field(description="Of the probed layers together.")
    candidates: list[ProbeCandidate] = Field(description="In execution order, those probed included.")
    mean_error: float = Field(
        description="Largest difference of a channel's mean from the unfolded network's in torch, over that channel's "
        "standard deviation."
    )
    log_variance_error: float = Field(description="Largest difference of the logarithm of a channel's variance.")

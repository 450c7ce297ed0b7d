"""The answers of ``/model/drift``."""

from typing import Literal

from pydantic import BaseModel, Field

from service.api.schemas import ImageSize, ModelRef


class DriftScores(BaseModel):
    """How far outputs lie from a reference law, over the channels that varied there. All are 0 for no difference."""

    channels: int = Field(description="Channels that count; dead ones do not.", examples=[32])
    z_rms: float = Field(description="Shift of the mean in standard deviations, root mean square.", examples=[0.41])
    log_variance_ratio: float = Field(description="Median over the channels of |ln(v / s²)|.", examples=[0.22])
    symmetric_kl: float = Field(
        description="Mean of KL(observed || reference) + KL(reference || observed), nats.", examples=[0.37]
    )
    wasserstein2: float = Field(
        description="2-Wasserstein distance, root mean square, in units of the layer's output.", examples=[0.6]
    )


class LayerDrift(BaseModel):
    """One probed layer."""

    name: str = Field(description="The BatchNorm folded into it, or the convolution.", examples=["model.0.bn"])
    training: DriftScores | None = Field(description="Against the training law; null where no BatchNorm tells it.")
    baseline: DriftScores | None = Field(description="Against the calibration pictures; null without any.")
    worst_channels: list[int] = Field(description="Furthest from training by symmetric_kl, furthest first, at most 5.")
    revived: list[int] = Field(description="Channels that were constant in training and now are not that constant.")


class DriftBaseline(BaseModel):
    """What the windows are held against."""

    source: Literal["file", "first_pictures"] = Field(
        description="file: from `python -m service calibrate`. first_pictures: the first 256 sampled here, if they "
        "differ enough."
    )
    pictures: int = Field(description="Calibration pictures so far.", examples=[256])
    wanted: int = Field(description="Pictures after which it is in use.", examples=[256])
    created_at: str | None = Field(description="UTC, ISO 8601; null while it is being gathered.")
    threshold: float | None = Field(
        description="A window whose score exceeds it raises the alarm; null while gathering.", examples=[1.6]
    )
    false_alarm_rate: float | None = Field(
        description="Share of the windows of clean pictures that the threshold was set for, known faults included; "
        "null while gathering.",
        examples=[0.01],
    )
    measured_rate: float | None = Field(
        description="Share of windows left out of the fit that exceeded it; a check, no independent measurement. "
        "null while gathering."
    )
    faults: list[str] = Field(
        description="Known faults that windows are looked over for, each in its own direction; empty while gathering.",
        examples=[["red and blue swapped", "darker than before"]],
    )


class DriftWindow(BaseModel):
    """One full window of sampled pictures."""

    begun_at: str = Field(description="When its first picture was seen, UTC, ISO 8601.")
    ended_at: str = Field(description="When its last picture was seen, UTC, ISO 8601.")
    score: float | None = Field(
        description="Whitened distance of the window's mean features from the calibration's, per feature and in "
        "standard errors; or how far the mean went in the direction of a known fault, scaled to the same threshold, "
        "where that is more. Near 1 when nothing is wrong, null while there is no calibration.",
        examples=[1.04],
    )
    alarm: bool = Field(description="The score exceeded the threshold.")


class DriftAnswer(BaseModel):
    """Whether the pictures served still look like those of training and calibration."""

    model: ModelRef = Field(description="The model being served.")
    state: Literal["off", "calibrating", "watching", "drifting"] = Field(
        description="off: YOLOFOLD_DRIFT_CPU is 0. drifting: from the first window over the threshold until three in a "
        "row are not."
    )
    cpu_share: float = Field(description="Share of every core that sampling may take.", examples=[0.01])
    sampled: int = Field(description="Pictures measured since the start.", examples=[512])
    window: int = Field(description="Pictures in a window.", examples=[32])
    baseline: DriftBaseline = Field(description="What the windows are held against, and how far it is gathered.")
    onset: str | None = Field(
        description="When the first window of the present drift began, UTC, ISO 8601; null without one."
    )
    problems: list[str] = Field(
        description="What is wrong, in words; empty unless the last window raised the alarm.",
        examples=[["The pictures are darker than the calibration pictures: mean luminance 0.17 against 0.43."]],
    )
    failure: str | None = Field(
        description="Why the last 256 pictures gave no calibration; null unless they gave none."
    )
    training: DriftScores | None = Field(
        description="All probed layers of the last full window; null before it, and where no BatchNorm tells the law."
    )
    against_baseline: DriftScores | None = Field(
        description="The same against the calibration pictures; null without any."
    )
    layers: list[LayerDrift] = Field(description="Of the last full window, in execution order.")
    windows: list[DriftWindow] = Field(description="The last 256 at most, oldest first.")


class ChannelDrift(BaseModel):
    """One channel of one picture against its training law."""

    layer: str = Field(description="The BatchNorm folded into the probed convolution.", examples=["model.0.bn"])
    channel: int = Field(description="Its place in the layer, from 0.", examples=[3])
    mean: float = Field(description="Over the positions of the map, before the activation.")
    variance: float = Field(description="Over the same positions.")
    training_mean: float = Field(description="Mean of its output over the training data: beta.")
    training_variance: float = Field(
        description="Variance of its output over the training data: gamma² var / (var + eps)."
    )
    z: float = Field(description="Shift of the mean in standard deviations of training, with its sign.")
    log_variance_ratio: float = Field(description="ln(v / s²), negative where the picture varies less.")
    symmetric_kl: float = Field(description="KL(observed || training) + KL(training || observed), nats.")
    wasserstein2: float = Field(description="2-Wasserstein distance, in units of the layer's output.")


class ImageDrift(BaseModel):
    """One picture against training and calibration."""

    model: ModelRef = Field(description="The model being served.")
    image: ImageSize = Field(description="Size of the picture sent.")
    score: float | None = Field(
        description="Score against the calibration pictures as for a window, of this picture alone; null "
        "without a calibration. The threshold of windows does not hold for it: single pictures scatter more."
    )
    training: DriftScores | None = Field(
        description="All probed layers together; null where no BatchNorm tells the law."
    )
    layers: list[LayerDrift] = Field(description="Furthest from training first, by symmetric_kl.")
    channels: list[ChannelDrift] = Field(
        description="Furthest from training first, by symmetric_kl; only of layers whose law a BatchNorm tells."
    )
    figures: dict[str, float] = Field(
        description="Of the picture itself: mean, variance and the Laplacian's mean square and magnitude of luminance "
        "and the two colour differences, values from 0 to 1."
    )

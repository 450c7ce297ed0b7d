"""Shapes of ``POST /model/lint``."""

from typing import Literal

from pydantic import BaseModel, Field

from service.api.schemas import ModelRef
from service.drift.monitor import Source


class LintFinding(BaseModel):
    """One fault of the preprocessing."""

    code: str = Field(description="Stable name of the fault.", examples=["channels_swapped"])
    title: str = Field(description="The fault in words.", examples=["red and blue swapped"])
    advice: str = Field(description="How to put it right.")
    basis: Literal["exact", "law", "measured"] = Field(
        description="exact: the values show it. law: undone, the first layers come nearest to their training law. "
        "measured: the first layers' statistics are those of calibration pictures with this fault."
    )
    evidence: str = Field(description="What shows it, in words and figures.")
    probability: float | None = Field(
        description="Where it was measured, all faults being as likely beforehand; else null."
    )


class LintInput(BaseModel):
    """What was looked at."""

    kind: Literal["picture", "tensor"] = Field(description="picture: an image file. tensor: a .npy file.")
    pictures: int = Field(description="How many pictures it holds; 1 for an image file.")
    shape: list[int] = Field(description="As sent; of a picture its rows, columns and channels.")
    dtype: str = Field(description="Type of its values; uint8 for an image file.")
    contract: Literal["image", "deployed", "network"] = Field(
        description="image: a file for /detect. deployed: uint8 (N, S, S, 3) BGR for model.onnx. network: floats "
        "(N, 3, S, S) RGB from 0 to 1 for the network itself."
    )


class ScaleAnswer(BaseModel):
    """The range that values are taken to be in."""

    taken_for: str | None = Field(description="A code, none for 0 to 1; null where no known range fits.")
    certain: bool = Field(
        description="No other possible range comes near it, or the values themselves confirm this one alone."
    )
    distances: dict[str, float] = Field(
        description="By possible range: how far, once undone, the first layers are from their training law, in nats "
        "per channel. Empty where no probed layer had a BatchNorm, so that no law is known."
    )


class ConfusionAnswer(BaseModel):
    """How often each fault was told rightly on calibration pictures that were left out of the fit."""

    pictures: int = Field(description="Pictures per answer: about effective_pictures, or the next fewer measured.")
    faults: list[str] = Field(description="Of the rows, and of the columns but the last, which is undecided.")
    shares: list[list[float]] = Field(description="True fault in rows, answer in columns.")


class LintAnswer(BaseModel):
    """What was found; no findings means that nothing was seen, not that nothing is wrong."""

    model: ModelRef = Field(description="The model being served.")
    input: LintInput = Field(description="What was looked at, as it came.")
    findings: list[LintFinding] = Field(description="The faults found; empty where nothing was seen.")
    scale: ScaleAnswer = Field(description="The range that the values are taken to be in.")
    calibrated: bool = Field(
        description="Whether `python -m service calibrate` or the first pictures served have taught the linter. Until "
        "then colours, geometry and sharpness are not judged."
    )
    taught_by: Source | None = Field(
        description="first_pictures: those that this process was sent first were taken for right, whatever was wrong "
        "with them. null where it was not taught."
    )
    probabilities: dict[str, float] | None = Field(description="Of each fault, by code; null without calibration.")
    effective_pictures: float | None = Field(
        description="How many pictures of different scenes would tell as much: frames of a camera that stands still "
        "count as little more than one. The probabilities take it into account."
    )
    confusion: ConfusionAnswer | None = Field(
        description="How surely faults are told from so many pictures; null without calibration or where the range "
        "is unknown."
    )

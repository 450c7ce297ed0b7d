"""What is wrong with the pictures of a window, in words, as far as figures of the pictures themselves support them."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.bundle.probe import FIGURES
from service.drift.features import FIGURE_FLOOR

#: A trait's mean over a window must lie so many standard errors off before a word is said about it. Six traits in
#: both directions are looked at, and pictures of one scene resemble each other: 5 leaves room for both.
LEAST_SHIFT = 5.0


class Trait(NamedTuple):
    """Something people see in a picture, and what to call less and more of it."""

    name: str
    less: str
    more: str


TRAITS = (
    Trait("mean luminance", "darker", "brighter"),
    Trait("log contrast", "flatter in contrast", "richer in contrast"),
    Trait("log detail for their contrast", "blurrier or poorer in detail", "noisier or sharper"),
    Trait("mean blue difference", "less blue", "bluer"),
    Trait("mean red difference", "less red", "redder"),
    Trait(
        "log evenness of colour edges", "emptier of fine colour, as heavy compression leaves them,", "noisier in colour"
    ),
)


@dataclass(frozen=True)
class TraitLaw:
    """Means and standard deviations (6,) of the traits over N calibration pictures."""

    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]
    pictures: int


def traits(figures: NDArray[np.float64]) -> NDArray[np.float64]:
    """``TRAITS`` of pictures, (N, 6), from their figures (N, 12).

    Detail is held against contrast, for darkness lowers both. Evenness is the squared mean magnitude of the colour
    differences' Laplacian over its mean square, 2 / pi for Gaussian noise and near 0 for a few sharp edges.
    """
    column = dict(zip(FIGURES, np.asarray(figures, np.float64).T, strict=True))

    def log(name: str) -> NDArray[np.float64]:
        return np.asarray(np.log(column[name] + FIGURE_FLOOR))

    evenness = np.mean(
        [
            np.log(np.square(column[f"{plane}_detail_magnitude"]) + FIGURE_FLOOR) - log(f"{plane}_detail_square")
            for plane in ("blue_difference", "red_difference")
        ],
        axis=0,
    )
    contrast = log("luminance_variance")
    detail = log("luminance_detail_square") - contrast
    means = (column[f"{plane}_mean"] for plane in ("luminance", "blue_difference", "red_difference"))
    luminance, blue, red = means
    return np.stack([luminance, contrast, detail, blue, red, evenness], axis=1)


def trait_law(figures: NDArray[np.float64]) -> TraitLaw:
    """What calibration pictures with these figures (N, 12) look like."""
    values = traits(figures)
    return TraitLaw(values.mean(0), np.maximum(values.std(0), 1e-6), len(values))


def describe_pictures(figures: NDArray[np.float64], law: TraitLaw) -> list[str]:
    """A sentence for each trait of a window's pictures (W, 12) that differs beyond doubt, furthest first."""
    found = traits(figures).mean(0)
    shifts = (found - law.mean) / (law.deviation * np.sqrt(1 / len(figures) + 1 / law.pictures))
    order = [int(i) for i in np.argsort(-np.abs(shifts), kind="stable") if abs(shifts[i]) >= LEAST_SHIFT]
    return [
        f"The pictures are {TRAITS[i].less if shifts[i] < 0 else TRAITS[i].more} than the calibration pictures: "
        f"{TRAITS[i].name} {found[i]:.3g} against {law.mean[i]:.3g}."
        for i in order
    ]


def describe_fault(name: str, projection: float, limit: float) -> str:
    """A sentence about the known fault along whose direction a window moved, both figures in standard errors."""
    return (
        f"The features moved {projection:.1f} standard errors in the direction of a known fault, {name}; "
        f"the alarm begins at {limit:.1f}."
    )

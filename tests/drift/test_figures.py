"""Features of a picture's own figures, and the words they allow, on real pictures with figures from numpy."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from service.bundle.probe import FIGURES, KINDS, PLANES
from service.drift.features import Samples, figure_features, picture_features
from service.drift.words import TRAITS, describe_pictures, trait_law, traits
from service.preprocessing.corruptions import CORRUPTIONS
from tests.drift.photographs import cut_pictures


def figures_of(picture: np.ndarray) -> np.ndarray:
    """The twelve figures of uint8 (H, W, 3) BGR, in float64 and without our code."""
    blue, green, red = np.moveaxis(picture.astype(np.float64) / 255, -1, 0)
    planes = [
        0.299 * red + 0.587 * green + 0.114 * blue,
        -0.168736 * red - 0.331264 * green + 0.5 * blue,
        0.5 * red - 0.418688 * green - 0.081312 * blue,
    ]
    edges = [cv2.Laplacian(plane, cv2.CV_64F, ksize=1)[1:-1, 1:-1] for plane in planes]
    return np.array(
        [p.mean() for p in planes]
        + [p.var() for p in planes]
        + [np.square(e).mean() for e in edges]
        + [np.abs(e).mean() for e in edges]
    )


@pytest.fixture(scope="module")
def clean(samples: list[Path]) -> np.ndarray:
    return np.stack([figures_of(picture) for picture in cut_pictures(samples, 96, seed=0)])


def test_the_names_follow_the_order() -> None:
    assert FIGURES[0] == "luminance_mean" and FIGURES[-1] == "red_difference_detail_magnitude"
    assert len(set(FIGURES)) == len(PLANES) * len(KINDS) == 12


def test_features_are_means_and_logarithms(clean: np.ndarray) -> None:
    features = figure_features(clean)
    assert features.shape == clean.shape
    np.testing.assert_array_equal(features[:, :3], clean[:, :3])
    np.testing.assert_allclose(np.exp(features[:, 3:9]), clean[:, 3:9] + 1e-7, rtol=1e-12)
    np.testing.assert_allclose(np.exp(features[:, 9:]), clean[:, 9:] ** 2 + 1e-7, rtol=1e-12)


def test_a_flat_picture_has_finite_features_and_traits() -> None:
    flat = figures_of(np.zeros((8, 8, 3), np.uint8))[None]
    assert np.isfinite(figure_features(flat)).all() and np.isfinite(traits(flat)).all()


def test_another_number_of_figures_is_refused() -> None:
    with pytest.raises(ValueError, match="12 figures"):
        figure_features(np.zeros((4, 11)))


def test_features_of_samples_are_those_of_the_chosen_channels_and_of_the_pictures(clean: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    means, variances = rng.normal(size=(len(clean), 5)), rng.uniform(0.1, 2, (len(clean), 5))
    rows = Samples(means, variances, clean).features(np.array([4, 1]))
    expected = picture_features(means[:, [4, 1]], variances[:, [4, 1]])
    np.testing.assert_array_equal(rows, np.concatenate([expected, figure_features(clean)], axis=1))


def words(samples: list[Path], clean: np.ndarray, change: object = None) -> list[str]:
    pictures = cut_pictures(samples, 32, seed=1)
    spoilt = [picture if change is None else change(picture) for picture in pictures]
    return describe_pictures(np.stack([figures_of(picture) for picture in spoilt]), trait_law(clean))


def test_nothing_is_said_about_clean_pictures(samples: list[Path], clean: np.ndarray) -> None:
    assert words(samples, clean) == []


@pytest.mark.parametrize(
    ("corruption", "word"),
    [("darkness", "darker"), ("blur", "blurrier"), ("noise", "noisier")],
)
def test_what_is_seen_is_said_first(samples: list[Path], clean: np.ndarray, corruption: str, word: str) -> None:
    found = words(samples, clean, CORRUPTIONS[corruption])
    assert any(f"are {word} " in sentence or f" {word} " in sentence for sentence in found), found
    assert not any("brighter" in sentence for sentence in found)


def test_swapped_channels_are_not_called_dark_or_blurred(samples: list[Path], clean: np.ndarray) -> None:
    found = words(samples, clean, CORRUPTIONS["channels_swapped"])
    assert not any("darker" in sentence or "blurrier" in sentence or "noisier or" in sentence for sentence in found)


def test_darkness_is_not_called_blur(samples: list[Path], clean: np.ndarray) -> None:
    assert not any("blurrier" in sentence for sentence in words(samples, clean, CORRUPTIONS["darkness"]))


def test_the_figures_named_are_the_windows(samples: list[Path], clean: np.ndarray) -> None:
    dark = [CORRUPTIONS["darkness"](picture) for picture in cut_pictures(samples, 32, seed=1)]
    sentence = next(s for s in words(samples, clean, CORRUPTIONS["darkness"]) if "darker" in s)
    now, before = np.mean([figures_of(p)[0] for p in dark]), clean[:, 0].mean()
    assert f"{TRAITS[0].name} {now:.3g} against {before:.3g}" in sentence

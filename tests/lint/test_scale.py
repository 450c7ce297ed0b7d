"""Scalings: what they do, undo and leave possible."""

import cv2
import numpy as np
import pytest

from service.lint.faults import RIGHT_SCALE, SCALINGS
from service.lint.scale import MARGIN, choose_scaling, confirms_scaling, possible_scalings

PICTURE = np.random.default_rng(5).random((3, 24, 40)).astype(np.float32)


def reference(name: str) -> np.ndarray:
    """What people's code does, written as they write it."""
    pixels = PICTURE.astype(np.float64) * 255
    if name == "scale_0_255":
        return pixels
    if name == "divided_twice":
        return pixels / 255 / 255
    if name == "imagenet_normalised":
        mean, std = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
        return ((pixels.transpose(1, 2, 0) - mean) / std).transpose(2, 0, 1)
    if name == "scale_minus1_1":
        return (pixels - 127.5) / 127.5
    return pixels / 255


def possible_names(tensor: np.ndarray) -> list[str]:
    return [scaling.name for scaling in possible_scalings(np.asarray(tensor, np.float32)[None])]


@pytest.mark.parametrize("scaling", SCALINGS, ids=lambda s: s.name)
def test_each_scaling_is_what_its_name_says_and_can_be_undone(scaling):
    assert scaling.apply(PICTURE) == pytest.approx(reference(scaling.name), rel=1e-5, abs=1e-6)
    assert scaling.undo(scaling.apply(PICTURE)) == pytest.approx(PICTURE, abs=1e-6)
    assert scaling.name in possible_names(scaling.apply(PICTURE))


def test_the_range_alone_settles_most():
    assert possible_names(PICTURE) == ["none"]
    assert possible_names(0.05 * PICTURE) == ["none"]  # dark, but no faulty range
    assert possible_names(PICTURE * 255) == ["scale_0_255"]
    assert possible_names(PICTURE / 255) == ["none", "divided_twice"]  # a black picture looks the same
    assert possible_names(reference("imagenet_normalised")) == ["imagenet_normalised"]
    assert possible_names(PICTURE * 2 - 1) == ["imagenet_normalised", "scale_minus1_1"]
    assert possible_names(PICTURE * 1000) == []


@pytest.mark.parametrize("interpolation", [cv2.INTER_CUBIC, cv2.INTER_LANCZOS4])
def test_interpolation_that_overshoots_is_no_other_range(interpolation):
    blocks = np.kron(np.random.default_rng(1).integers(0, 2, (12, 16)), np.ones((8, 8)))
    smooth = np.tile(np.linspace(0, 1, 128), (96, 1))
    picture = np.where(np.arange(96)[:, None] < 12, blocks, smooth).astype(np.float32)
    resized = cv2.resize(np.dstack([picture] * 3), (320, 240), interpolation=interpolation).transpose(2, 0, 1)
    assert resized.min() < -0.05 and resized.max() > 1.05
    assert possible_names(resized) == ["none"]
    assert possible_names(resized * 255) == ["scale_0_255"]


def test_the_nearest_to_the_law_is_chosen_and_called_certain_only_at_a_distance():
    possible = possible_scalings(PICTURE[None] / 255)
    far = choose_scaling(possible, {"none": 9.0, "divided_twice": 1.0})
    assert (far.scaling, far.certain) == (possible[1], True)
    near = choose_scaling(possible, {"none": 1.0, "divided_twice": 1.0 + MARGIN / 2})
    assert (near.scaling, near.certain) == (RIGHT_SCALE, False)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("scaling", SCALINGS[:3], ids=lambda s: s.name)
def test_eight_bit_values_confirm_their_scaling_alone(scaling, dtype):
    picture = (np.rint(PICTURE * 255) / 255).astype(np.float32)
    # Half precision keeps too few digits of values beyond 0..1 for this, except where they are whole numbers.
    sent = scaling.apply(picture).astype(dtype).astype(np.float32)
    others = [s for s in SCALINGS if s is not scaling and s.name in possible_names(sent)]
    assert confirms_scaling(scaling.undo(sent), padded_as_expected=False)
    assert not any(confirms_scaling(s.undo(sent), padded_as_expected=False) for s in others)


def test_other_values_confirm_nothing_but_padding_does():
    assert not confirms_scaling(PICTURE, padded_as_expected=False)
    assert confirms_scaling(PICTURE, padded_as_expected=True)
    assert not confirms_scaling(np.zeros_like(PICTURE), padded_as_expected=False)


def test_a_confirmed_scaling_is_taken_whatever_the_law_says():
    possible = possible_scalings(PICTURE[None] / 255)
    verdict = choose_scaling(possible, {"none": 1.0, "divided_twice": 9.0}, {"divided_twice"})
    assert (verdict.scaling, verdict.certain, verdict.confirmed) == (possible[1], True, True)


def test_values_that_fit_no_scaling_are_said_to_fit_none():
    assert choose_scaling((), {}).scaling is None

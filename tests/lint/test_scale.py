"""Scalings: what they do, undo and leave possible."""

import numpy as np
import pytest

from service.lint.faults import SCALINGS
from service.lint.scale import judge_scale

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


@pytest.mark.parametrize("scaling", SCALINGS, ids=lambda s: s.name)
def test_each_scaling_is_what_its_name_says_and_can_be_undone(scaling):
    assert scaling.apply(PICTURE) == pytest.approx(reference(scaling.name), rel=1e-5, abs=1e-6)
    assert scaling.undo(scaling.apply(PICTURE)) == pytest.approx(PICTURE, abs=1e-6)


def closeness_to(picture: np.ndarray):
    """A stand-in for the training law that knows one picture."""
    return lambda tensor: float(np.abs(tensor - picture).mean())


@pytest.mark.parametrize("scaling", SCALINGS, ids=lambda s: s.name)
def test_the_scaling_that_was_applied_is_found(scaling):
    verdict = judge_scale(scaling.apply(PICTURE), closeness_to(PICTURE))
    assert verdict.scaling is scaling
    assert verdict.certain
    assert [c.scaling for c in verdict.candidates] == list(SCALINGS)
    assert all((c.distance is None) != c.possible for c in verdict.candidates)


def test_values_that_fit_no_scaling_are_said_to_fit_none():
    verdict = judge_scale(PICTURE * 1000, closeness_to(PICTURE))
    assert verdict.scaling is None
    assert not any(c.possible for c in verdict.candidates)


def test_two_scalings_alike_near_the_law_leave_it_open():
    verdict = judge_scale(PICTURE * 2 - 1, lambda _tensor: 1.0)
    assert not verdict.certain


def test_an_ordinary_picture_is_never_taken_for_a_wider_range():
    for share in (1.0, 0.3, 0.05):
        possible = [c.scaling.name for c in judge_scale(PICTURE * share, lambda _: 0.0).candidates if c.possible]
        assert possible == ["none"]

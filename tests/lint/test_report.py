"""Findings put together: each fault alone, faults together, and what must not be found."""

from dataclasses import replace

import numpy as np
import pytest

from service.lint.faults import CHANNELS_SWAPPED, GREY, PICTURE_FAULTS, SCALINGS
from service.lint.padding import Padding
from service.lint.report import PADDED_PICTURE, PADDING_COLOR, UNKNOWN_SCALE, Look, conclude
from service.lint.signatures import fit_signatures

NAMES = tuple(fault.name for fault in PICTURE_FAULTS)
CENTERS = 6 * np.eye(len(NAMES))
RNG = np.random.default_rng(8)
SIGNATURES = fit_signatures(
    CENTERS + RNG.normal(size=(60, 1, len(NAMES))) + 0.1 * RNG.normal(size=(60, len(NAMES), len(NAMES))),
    NAMES,
    lambda samples: samples.T @ samples / len(samples),
    np.random.default_rng(0),
)
RIGHT = (SCALINGS[0],)
BLACK = Padding(40, 40, 0, 0, (0.0, 0.0, 0.0))
GREY_114 = Padding(40, 40, 0, 0, (114 / 255,) * 3)


def look(fault: int = 0, distance: float = 1.0, padding: Padding | None = None, *, grey: bool = False) -> Look:
    return Look({"none": distance}, {"none": CENTERS[fault]}, {"none": padding}, frozenset(), {"none": grey})


def different(shown: Look, count: int) -> list[Look]:
    """So many pictures of different scenes that show the same."""
    rng = np.random.default_rng(9)
    return [
        replace(shown, features={name: own + rng.normal(size=len(own)) for name, own in shown.features.items()})
        for _ in range(count)
    ]


def codes(report) -> list[str]:
    return [finding.fault.name for finding in report.findings]


def test_a_right_picture_has_no_findings():
    report = conclude([look(padding=GREY_114)], RIGHT, SIGNATURES, padded_by_caller=PADDING_COLOR)
    assert codes(report) == []
    assert report.probabilities is not None
    assert max(report.probabilities, key=report.probabilities.get) == "none"


@pytest.mark.parametrize("fault", range(1, len(NAMES)))
def test_each_picture_fault_is_found_with_its_probability(fault):
    report = conclude(different(look(fault), 8), RIGHT, SIGNATURES, padded_by_caller=PADDING_COLOR)
    (finding,) = report.findings
    assert finding.fault is PICTURE_FAULTS[fault]
    assert (finding.basis, finding.probability) == ("measured", report.probabilities[NAMES[fault]])
    assert report.confusion_group == 8


def test_frames_of_one_scene_are_one_picture_and_said_to_be():
    one = conclude([look(1)], RIGHT, SIGNATURES, padded_by_caller=PADDING_COLOR)
    many = conclude([look(1)] * 32, RIGHT, SIGNATURES, padded_by_caller=PADDING_COLOR)
    assert many.probabilities == pytest.approx(one.probabilities)
    assert (many.effective_pictures, many.confusion_group) == (pytest.approx(1.0), 1)
    assert codes(many) == codes(one) == ["channels_swapped"]
    assert "32 pictures, so alike that they count as 1.0" in many.findings[0].evidence
    apart = conclude(different(look(1), 8), RIGHT, SIGNATURES, padded_by_caller=PADDING_COLOR)
    assert 7 < apart.effective_pictures <= 8 and "alike" not in apart.findings[0].evidence


def test_without_a_law_only_what_values_can_be_tells_the_range():
    shown = Look({}, {"none": CENTERS[0]}, {"none": None}, frozenset(), {"none": False})
    assert conclude([shown], RIGHT, SIGNATURES, padded_by_caller=PADDING_COLOR).scale.certain
    two = (SCALINGS[0], SCALINGS[2])
    names = [scaling.name for scaling in two]
    shown = Look({}, dict.fromkeys(names, CENTERS[0]), dict.fromkeys(names), frozenset(), dict.fromkeys(names, False))
    unsure = conclude([shown], two, SIGNATURES, padded_by_caller=PADDING_COLOR)
    assert (codes(unsure), unsure.scale.certain, unsure.scale.distances) == ([], False, {})
    sure = replace(shown, confirmed=frozenset({names[1]}))
    assert codes(conclude([sure], two, None, padded_by_caller=PADDING_COLOR)) == [names[1]]


def test_without_calibration_only_what_values_show_is_found():
    report = conclude([look(1, padding=BLACK)], RIGHT, None, padded_by_caller=PADDING_COLOR)
    assert codes(report) == ["padding_color"]
    assert "(0, 0, 0)" in report.findings[0].evidence
    assert report.probabilities is None
    assert report.confusion_group is None


def test_equal_channels_are_grey_whatever_the_statistics_say_and_said_once():
    report = conclude(different(look(3, grey=True), 32), RIGHT, SIGNATURES, padded_by_caller=PADDING_COLOR)
    assert [(f.fault, f.basis) for f in report.findings] == [(GREY, "exact")]


def test_one_grey_picture_among_others_is_no_finding():
    report = conclude([look(grey=True), look()], RIGHT, None, padded_by_caller=PADDING_COLOR)
    assert codes(report) == []


@pytest.mark.parametrize(("fault", "padding", "found"), [(PADDING_COLOR, GREY_114, []), (PADDED_PICTURE, GREY_114, 1)])
def test_grey_padding_is_right_in_a_tensor_and_wrong_in_a_picture(fault, padding, found):
    report = conclude([look(padding=padding)], RIGHT, None, padded_by_caller=fault)
    assert codes(report) == ([fault.name] if found else [])


@pytest.mark.parametrize("scaling", SCALINGS[1:], ids=lambda s: s.name)
def test_a_scaling_is_found_and_what_lies_behind_it_too(scaling):
    possible = (scaling, SCALINGS[0])
    shown = Look(
        {scaling.name: 0.5, "none": 4.0},
        {scaling.name: CENTERS[1], "none": CENTERS[0]},
        {scaling.name: None, "none": None},
        frozenset(),
        dict.fromkeys((scaling.name, "none"), False),
    )
    report = conclude(different(shown, 8), possible, SIGNATURES, padded_by_caller=PADDING_COLOR)
    assert [f.fault for f in report.findings] == [scaling, CHANNELS_SWAPPED]
    assert "0.50" in report.findings[0].evidence
    unsure = replace(shown, distances={scaling.name: 4.0, "none": 4.0})
    assert codes(conclude([unsure], possible, None, padded_by_caller=PADDING_COLOR)) == []


def test_values_that_confirm_a_scaling_outweigh_the_law():
    scaling = SCALINGS[2]
    shown = Look(
        {scaling.name: 4.0, "none": 0.5},
        dict.fromkeys((scaling.name, "none"), CENTERS[0]),
        dict.fromkeys((scaling.name, "none")),
        frozenset({scaling.name}),
        dict.fromkeys((scaling.name, "none"), False),
    )
    report = conclude([shown], (scaling, SCALINGS[0]), None, padded_by_caller=PADDING_COLOR)
    assert [(f.fault, f.basis) for f in report.findings] == [(scaling, "exact")]
    doubted = replace(shown, confirmed=frozenset())
    both = conclude([shown, doubted], (scaling, SCALINGS[0]), None, padded_by_caller=PADDING_COLOR)
    assert codes(both) == []


def test_values_in_no_known_range_are_said_to_be_so_and_nothing_else_is_guessed():
    shown = Look({}, {}, {}, frozenset(), {})
    report = conclude([shown], (), SIGNATURES, padded_by_caller=PADDING_COLOR)
    assert [f.fault for f in report.findings] == [UNKNOWN_SCALE]
    assert report.probabilities is None

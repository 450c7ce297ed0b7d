"""Pairs of boxes of two networks: what counts as one, and what is said about those that have none."""

import numpy as np
import pytest

from service.evaluation.agreement import Agreement, compare_boxes
from service.inference.detections import Detections
from tests.evaluation.invented import invent


def boxes(*rows: tuple[float, float, float, float, float, int]) -> Detections:
    values = np.array(rows, np.float64).reshape(-1, 6)
    return Detections(values[:, :4].astype(np.float32), values[:, 4].astype(np.float32), values[:, 5].astype(np.int64))


A = (10, 10, 60, 60, 0.9, 0)
B = (200, 100, 300, 180, 0.6, 1)


def test_the_same_boxes_agree_in_everything() -> None:
    _, found = invent(10, seed=20)
    clear = sum(int((one.confidence > 0.25).sum()) for one in found)
    agreement = compare_boxes(found, found, 0.25)
    assert clear > 20
    assert agreement == Agreement((clear, clear), clear, (0, 0), 0, 0.0, 0.0)


def test_differences_are_the_largest_within_pairs() -> None:
    moved = (200, 100.5, 300, 180, 0.58, 1)
    agreement = compare_boxes([boxes(A), boxes(B)], [boxes(A), boxes(moved)], 0.25)
    assert (agreement.pairs, agreement.unpaired) == (2, (0, 0))
    assert agreement.confidence == pytest.approx(0.02, abs=1e-6)
    assert agreement.corner_px == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize(
    "other",
    [(10, 10, 60, 60, 0.9, 1), (40, 40, 90, 90, 0.9, 0)],
    ids=["another class", "too little overlap"],
)
def test_what_is_no_pair_counts_on_both_sides(other: tuple) -> None:
    assert compare_boxes([boxes(A)], [boxes(other)], 0.25) == Agreement((1, 1), 0, (1, 1), 0, 0.0, 0.0)


def test_a_box_below_the_confidence_can_be_a_partner_but_needs_none() -> None:
    above, below, alone = (*A[:4], 0.26, 0), (*A[:4], 0.24, 0), (400, 400, 450, 450, 0.2, 0)
    agreement = compare_boxes([boxes(above, alone)], [boxes(below)], 0.25)
    assert (agreement.boxes, agreement.pairs) == ((1, 0), 1)
    assert (agreement.unpaired, agreement.one_side_only) == ((0, 0), 1)


def test_a_partner_serves_once() -> None:
    near = (10, 10, 60, 58, 0.8, 0)
    agreement = compare_boxes([boxes(A, near)], [boxes(A)], 0.25)
    assert (agreement.pairs, agreement.unpaired, agreement.corner_px) == (1, (1, 0), 0.0)


def test_of_boxes_in_one_place_those_of_like_confidence_are_paired() -> None:
    twice = boxes((*A[:4], 0.9, 0), (*A[:4], 0.5, 0))
    assert compare_boxes([twice], [boxes((*A[:4], 0.89, 0), (*A[:4], 0.51, 0))], 0.25).confidence < 0.02


def test_pictures_without_boxes_are_fine() -> None:
    assert compare_boxes([boxes()], [boxes()], 0.25) == Agreement((0, 0), 0, (0, 0), 0, 0.0, 0.0)

"""Pairing rows and judging a repetition, against the definitions written out."""

import math

import numpy as np
import pytest

from service.comparison import (
    SIGMOID_ERROR,
    Difference,
    Tolerance,
    iou,
    judge_highest,
    judge_repetition,
    measure_difference,
    pair_rows,
    pairwise_iou,
)

TOLERANCE = Tolerance(box_px=0.01, score=1e-3)
ROWS = np.array(
    [
        [10, 10, 110, 110, 0.9, 0],
        [12, 10, 112, 110, 0.8, 0],
        [10, 10, 110, 110, 0.7, 1],
        [300, 300, 300, 310, 0.6, 1],
        [400, 50, 410, 60, 0.5, 2],
    ]
)


def moved(row: int, **changes: float) -> np.ndarray:
    columns = {"x1": 0, "y1": 1, "x2": 2, "y2": 3, "confidence": 4, "class_id": 5}
    rows = ROWS.copy()
    for column, by in changes.items():
        rows[row, columns[column]] += by
    return rows


def judge(found: np.ndarray, *, suppressed: bool = False, expected: np.ndarray = ROWS, threshold: float = 0.4):
    return judge_repetition(expected, found, threshold=threshold, tolerance=TOLERANCE, suppressed=suppressed)


def overlap_by_hand(a: np.ndarray, b: np.ndarray) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height)


def test_overlaps_are_intersection_over_union() -> None:
    rng = np.random.default_rng(21)
    corners = rng.uniform(0, 100, (40, 2)).astype(np.float32)
    boxes = np.concatenate([corners, corners + rng.uniform(5, 90, (40, 2)).astype(np.float32)], axis=1)
    boxes = np.concatenate([boxes, np.zeros((1, 4), np.float32), boxes[:1]])
    expected = np.array([[overlap_by_hand(a, b) for b in boxes.astype(np.float64)] for a in boxes.astype(np.float64)])
    assert ((expected > 0.1) & (expected < 0.9)).sum() > 100
    assert pairwise_iou(boxes[:7], boxes) == pytest.approx(expected[:7], abs=1e-12)
    assert iou(boxes[3], boxes) == pytest.approx(expected[3], abs=1e-12)
    assert pairwise_iou(boxes[:0], boxes).shape == (0, len(boxes))


def test_rows_find_their_own_among_neighbours_in_any_order() -> None:
    order = np.array([4, 2, 0, 3, 1])
    pairing = pair_rows(ROWS, ROWS[order])
    assert dict(zip(pairing.expected, order[pairing.found], strict=True)) == {i: i for i in range(5)}
    assert not len(pairing.only_expected) and not len(pairing.only_found)


def test_each_row_has_one_partner() -> None:
    pairing = pair_rows(ROWS[[0, 0]], ROWS[[0]])
    assert pairing.expected.tolist() == [0] and pairing.found.tolist() == [0]
    assert pairing.only_expected.tolist() == [1]
    assert len(pair_rows(ROWS[:0], ROWS)) == len(pair_rows(ROWS, ROWS[:0])) == 0
    assert pair_rows(ROWS[:0], ROWS).only_found.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("changes", "pairs"),
    [
        ({"class_id": 1}, 4),
        ({"x1": 5.0}, 5),  # half of the box is left: IoU 0.5
        ({"x1": 5.1}, 4),
        ({"confidence": -0.5}, 5),
    ],
)
def test_what_may_pair(changes: dict[str, float], pairs: int) -> None:
    assert len(pair_rows(ROWS, moved(4, **changes))) == pairs


def test_an_empty_box_is_paired_by_its_place() -> None:
    assert len(pair_rows(ROWS, moved(3, x1=0.9))) == 5
    assert len(pair_rows(ROWS, moved(3, x1=1.1))) == 4


def test_a_difference_is_measured_before_the_sigmoid() -> None:
    for p in (0.001, 0.3, 0.98):
        score = math.log(p / (1 - p)) + 1e-4
        expected, found = ROWS[:1].copy(), ROWS[:1].copy()
        expected[0, 4], found[0, 4] = p, 1 / (1 + math.exp(-score))
        apart = measure_difference(expected, found)
        assert apart.confidence == pytest.approx(abs(found[0, 4] - p))
        assert apart.score == pytest.approx(max(0, 1e-4 - SIGMOID_ERROR / (p * (1 - p))), rel=0.01)
    assert measure_difference(ROWS, moved(2, y2=-0.25)).box_px == 0.25
    assert measure_difference(ROWS[:0], ROWS[:0]) == Difference(0.0, 0.0, 0.0)


def test_an_approximated_sigmoid_is_no_difference_of_score() -> None:
    expected = np.array([[0, 0, 9, 9, 1e-5, 0]])
    found = expected + np.array([0, 0, 0, 0, 9e-7, 0])
    assert measure_difference(expected, found).score == 0


def test_equal_answers_pass() -> None:
    repeated = judge(ROWS[::-1])
    assert repeated.passed and (repeated.matched, repeated.missing, repeated.extra) == (5, 0, 0)


@pytest.mark.parametrize(
    ("found", "passed"),
    [
        (moved(0, x2=0.009), True),
        (moved(0, x2=0.011), False),
        (moved(1, confidence=0.9e-3 * 0.16), True),
        (moved(1, confidence=1.1e-3 * 0.16), False),
        (moved(0, class_id=5), False),
        (ROWS[:4], False),
        (np.vstack([ROWS, [[0, 0, 20, 20, 0.45, 3]]]), False),
        (np.vstack([ROWS, [[0, 0, 20, 20, 0.4001, 3]]]), True),  # so near the threshold that rounding decides
        (np.vstack([ROWS, ROWS[:1]]), False),  # suppression that suppresses nothing
        (moved(0, x1=math.nan), False),
        (moved(0, confidence=math.nan), False),
        (np.zeros((300, 6)), False),
    ],
)
def test_what_passes(found: np.ndarray, passed: bool) -> None:
    assert judge(found).passed is passed


def test_suppression_may_drop_either_of_two_boxes() -> None:
    rows = np.array([[100 * i, 0, 100 * i + 50, 50, 0.9 - 0.01 * i, 0] for i in range(40)])
    one_other = rows.copy()
    one_other[7, :4] += 40
    two_fewer, three_fewer = rows[2:], rows[3:]
    judged = [judge(found, suppressed=True, expected=rows) for found in (one_other, two_fewer, three_fewer)]
    assert [repeated.passed for repeated in judged] == [True, True, False]
    assert not judge(one_other, expected=rows).passed


@pytest.mark.parametrize(
    ("confidence", "passed"),
    [
        (0.9, True),
        (0.9 - 0.9e-3 * 0.09, True),
        (0.9 - 1.1e-3 * 0.09, False),
        (0.9 + 1.1e-3 * 0.09, False),
        (0.0, False),
        (math.nan, False),
    ],
)
def test_the_highest_confidence_is_held_against_the_expected(confidence: float, passed: bool) -> None:
    found = ROWS[::-1].copy()
    found[-1, 4] = confidence
    found[:, :4] += 50  # wherever the boxes are
    judged = judge_highest(0.9, found, TOLERANCE)
    assert judged.passed is passed


def test_no_box_is_repeated_by_no_box() -> None:
    none = np.zeros((300, 6))
    assert judge_highest(0.0, none, TOLERANCE).passed
    some = none.copy()
    some[0, 4] = 2e-6
    assert not judge_highest(0.0, some, TOLERANCE).passed

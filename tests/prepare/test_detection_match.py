"""Pairing detections: what counts as repeated, missing and extra."""

import numpy as np
import pytest
import torch

from service.comparison import iou
from service.prepare.deployed_network import CLASS_OFFSET_PX, NMS_IOU, best_class, suppress
from service.prepare.detection_match import match_detections, match_suppressed
from tests.prepare.test_export import random_predictions

ROWS = np.array([[0, 0, 100, 100, 0.9, 0], [200, 0, 300, 100, 0.6, 1], [0, 200, 50, 260, 0.1, 0]], np.float32)


def changed(row: int, column: int, value: float) -> np.ndarray:
    rows = ROWS.copy()
    rows[row, column] = value
    return rows


def test_equal_rows_match_in_any_order() -> None:
    match = match_detections(ROWS, ROWS[::-1])
    assert match.complete and match.expected == 2
    assert match.max_box_error_px == match.max_confidence_error == 0


@pytest.mark.parametrize("found", [changed(0, 5, 1), changed(0, 2, 95), changed(1, 4, 0.2), ROWS[1:]])
def test_another_class_place_or_confidence_is_a_miss(found: np.ndarray) -> None:
    match = match_detections(ROWS, found)
    assert match.matched == 1 and not match.complete


def test_a_box_too_many() -> None:
    assert match_detections(ROWS[:1], ROWS).extra == 1


def test_rounding_across_the_threshold_is_neither_missing_nor_extra() -> None:
    above, below = changed(1, 4, 0.2504), changed(1, 4, 0.2496)
    assert match_detections(above, below).complete and match_detections(below, above).complete


@pytest.mark.parametrize("box", [[60, 40, 20, 90], [30, 30, 30, 30], [10, 50, 300, 50.4]])
def test_a_box_without_extent_is_repeated_where_it_is(box: list[float]) -> None:
    """Inverted, a point and thinner than a pixel: no overlap tells that such a box is the same."""
    row, rounded, elsewhere = (np.array([[*box, 0.9, 0]], np.float32) for _ in range(3))
    rounded[0, 1] += 0.05
    elsewhere[0, 1] += 2
    rest = np.zeros((2, 6), np.float32)
    row, rounded, elsewhere = (np.concatenate((one, rest)) for one in (row, rounded, elsewhere))
    assert match_detections(row, rounded).complete and match_suppressed(row, rounded, NMS_IOU, CLASS_OFFSET_PX).complete
    match = match_detections(row, elsewhere)
    assert (match.matched, match.extra) == (0, 1)
    assert match_suppressed(row, elsewhere, NMS_IOU, CLASS_OFFSET_PX).extra == 1


def test_a_small_box_is_held_to_its_overlap() -> None:
    small = np.array([[10, 10, 16, 16, 0.9, 0], [0] * 6], np.float32)
    moved = small + np.array([0.09, 0.09, 0.09, 0.09, 0, 0], np.float32)
    match = match_detections(small, moved)
    assert (match.expected, match.matched, match.extra) == (1, 0, 1)


def test_rounding_decides_the_last_rows_of_a_full_output() -> None:
    boxes = [[50 * i, 0, 50 * i + 40, 40, confidence, 0] for i, confidence in enumerate((0.9, 0.8, 0.7, 0.6997))]
    rows = np.array(boxes, np.float32)
    assert match_detections(rows[[0, 1, 2]], rows[[0, 1, 3]]).complete
    assert not match_detections(rows[[0, 1, 2]], rows[[0, 3, 2]]).complete  # one well above the last is gone


def test_overlap_against_hand_reckoned_figures() -> None:
    boxes = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30], [3, 3, 3, 3]], np.float32)
    np.testing.assert_allclose(iou(boxes[0], boxes), [1, 50 / 150, 0, 0])


@pytest.mark.parametrize("seed", range(5))
def test_suppression_satisfies_its_own_definition(seed: int) -> None:
    candidates = best_class(random_predictions(seed))
    for rows, kept in zip(candidates.numpy(), suppress(candidates).numpy(), strict=True):
        match = match_suppressed(rows, kept, NMS_IOU, CLASS_OFFSET_PX)
        assert match.complete and match.expected > 20


@pytest.mark.parametrize("seed", range(3))
def test_wrong_suppression_is_seen(seed: int) -> None:
    candidates = best_class(random_predictions(seed))
    rows, kept = candidates[0].numpy(), suppress(candidates)[0].numpy()
    assert not match_suppressed(rows, kept[1:], NMS_IOU, CLASS_OFFSET_PX).complete  # the best box is gone
    assert match_suppressed(rows, rows, NMS_IOU, CLASS_OFFSET_PX).extra > 0  # nothing was suppressed
    moved = kept + np.array([5, 5, 5, 5, 0, 0], np.float32)
    assert match_suppressed(rows, moved, NMS_IOU, CLASS_OFFSET_PX).extra > 0
    other_class = kept.copy()
    other_class[:, 5] += 1
    assert not match_suppressed(rows, other_class, NMS_IOU, CLASS_OFFSET_PX).complete


def test_suppression_of_the_last_of_eighty_classes_is_judged_as_it_sees_the_boxes() -> None:
    """Moved by 79 classes' worth, corners are rounded to a sixteenth of a pixel, and overlaps near 0.7 with them."""
    rng = np.random.default_rng(0)
    objects = np.array([[x, y, x + 20, y + 20] for x in range(0, 300, 60) for y in range(0, 300, 60)])
    boxes = objects.repeat(160, 0) + rng.uniform(-3, 3, (4000, 4))
    rows = np.concatenate((boxes, rng.uniform(0.3, 0.9, (4000, 1)), np.full((4000, 1), 79)), 1).astype(np.float32)
    kept = suppress(torch.from_numpy(rows)[None])[0].numpy()
    assert match_suppressed(rows, kept, NMS_IOU, CLASS_OFFSET_PX).complete
    assert not match_suppressed(rows, kept[1:], NMS_IOU, CLASS_OFFSET_PX).complete
    assert not match_suppressed(rows, kept, NMS_IOU, 0).complete  # or it would prove nothing


def test_an_exact_tie_may_go_either_way() -> None:
    tied = torch.tensor([[[0.0, 0, 100, 100, 0.8, 0], [2.0, 0, 102, 100, 0.8, 0]]])
    assert all(
        match_suppressed(tied[0].numpy(), tied[0, i : i + 1].numpy(), NMS_IOU, CLASS_OFFSET_PX).complete for i in (0, 1)
    )

"""Selecting rows, against a few lines of plain Python."""

import numpy as np
import pytest

from service.inference.detections import select_detections
from service.preprocessing.letterbox import plan_letterbox

PLAN = plan_letterbox(640, 320, 320)  # scale 0.5, 80 px of padding above and below
ROWS = np.array(
    [
        [10, 90, 110, 190, 0.50, 2],
        [0, 80, 320, 240, 0.90, 0],
        [-40, 0, 400, 320, 0.25, 1],
        [20, 100, 30, 110, 0.90, 1],
        [0, 0, 0, 0, 0.0, 0],
    ],
    np.float32,
)


def select(**options: object):
    return select_detections(ROWS, PLAN, **({"conf": 0.1, "max_det": 300} | options))


def test_boxes_come_back_in_picture_pixels_by_falling_confidence() -> None:
    found = select()
    assert found.confidence.tolist() == pytest.approx([0.9, 0.9, 0.5, 0.25])
    assert found.class_id.tolist() == [0, 1, 2, 1]
    assert found.xyxy.tolist() == [[0, 0, 640, 320], [40, 40, 60, 60], [20, 20, 220, 220], [0, 0, 640, 320]]
    assert (found.xyxy.dtype, found.confidence.dtype, found.class_id.dtype) == (
        np.float32,
        np.float32,
        np.int64,
    )


@pytest.mark.parametrize(("conf", "count"), [(0, 4), (0.2499, 4), (0.25, 3), (0.5, 2), (0.95, 0), (1, 0)])
def test_confidence_must_be_strictly_above(conf: float, count: int) -> None:
    assert len(select(conf=conf)) == count


@pytest.mark.parametrize(
    ("classes", "ids"), [(None, [0, 1, 2, 1]), ([], []), ([1], [1, 1]), ([2, 0], [0, 2]), ([7], [])]
)
def test_class_filter(classes: list[int] | None, ids: list[int]) -> None:
    assert select(classes=classes).class_id.tolist() == ids


@pytest.mark.parametrize("max_det", [1, 2, 4, 300])
def test_the_most_confident_are_kept_after_filtering(max_det: int) -> None:
    assert len(select(max_det=max_det)) == min(max_det, 4)
    assert select(max_det=max_det, classes=[1]).confidence[0] == pytest.approx(0.9)


def test_input_is_left_alone_and_the_result_does_not_alias_it() -> None:
    before = ROWS.copy()
    found = select()
    found.xyxy[:], found.confidence[:] = -1, -1
    np.testing.assert_array_equal(ROWS, before)


def test_boxes_turned_inside_out_are_no_boxes() -> None:
    turned = np.array([[30, 100, 20, 110, 0.8, 1], [20, 110, 30, 100, 0.7, 1], [20, 100, 20, 100, 0.6, 1]], np.float32)
    found = select_detections(np.concatenate((ROWS, turned)), PLAN, conf=0.1, max_det=300)
    assert found.confidence.tolist() == pytest.approx([0.9, 0.9, 0.6, 0.5, 0.25])

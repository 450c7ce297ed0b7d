"""What became of each box, against cases written out and against a count by hand."""

import numpy as np
import pytest

from service.evaluation.agreement import compare_boxes
from service.inference.detections import Detections
from service.recalibration.box_changes import count_changes
from service.recalibration.report import ClassChanges
from tests.evaluation.invented import CLASSES, invent

NAMES = [f"class {number}" for number in range(CLASSES)]
PLACE, ELSEWHERE = (10, 10, 60, 60), (200, 100, 300, 180)


def boxes(*rows: tuple[tuple[int, int, int, int], float, int]) -> Detections:
    xyxy = np.array([row[0] for row in rows], np.float32).reshape(-1, 4)
    return Detections(xyxy, np.array([r[1] for r in rows], np.float32), np.array([r[2] for r in rows], np.int64))


def changes(before: Detections, after: Detections) -> ClassChanges:
    return count_changes([before], [after], 0.5, NAMES).total


@pytest.mark.parametrize(
    ("before", "after", "fate"),
    [
        (boxes((PLACE, 0.9, 0)), boxes((PLACE, 0.7, 0)), "kept"),
        (boxes((PLACE, 0.9, 0)), boxes((PLACE, 0.1, 0)), "sunk"),
        (boxes((PLACE, 0.9, 0)), boxes((ELSEWHERE, 0.1, 0)), "gone"),
        (boxes((PLACE, 0.1, 0)), boxes((PLACE, 0.9, 0)), "risen"),
        (boxes((ELSEWHERE, 0.1, 0)), boxes((PLACE, 0.9, 0)), "new"),
        (boxes(), boxes((PLACE, 0.9, 0)), "new"),
        (boxes((PLACE, 0.9, 0)), boxes((PLACE, 0.1, 1)), "gone"),
    ],
)
def test_each_fate(before: Detections, after: Detections, fate: str) -> None:
    found = changes(before, after).model_dump()
    assert {name: found[name] for name in ("kept", "sunk", "gone", "risen", "new")} == {
        name: int(name == fate) for name in ("kept", "sunk", "gone", "risen", "new")
    }
    assert count_changes([before], [after], 0.5, NAMES).pictures_changed == int(fate != "kept")
    if fate in ("kept", "sunk", "risen"):
        expected = float(after.confidence[0]) - float(before.confidence[0])
        assert found["mean_confidence_change"] == pytest.approx(expected)
    else:
        assert found["mean_confidence_change"] is None


def test_a_box_that_only_changes_its_class_is_gone_in_one_and_new_in_the_other() -> None:
    result = count_changes([boxes((PLACE, 0.9, 0))], [boxes((PLACE, 0.8, 2))], 0.5, NAMES)
    assert [(one.gone, one.new) for one in result.classes] == [(1, 0), (0, 0), (0, 1)]


def test_boxes_below_the_confidence_in_both_do_not_count() -> None:
    low = boxes((PLACE, 0.5, 0), (ELSEWHERE, 0.3, 1))
    assert changes(low, low) == ClassChanges(
        name="all", before=0, after=0, kept=0, sunk=0, gone=0, risen=0, new=0, mean_confidence_change=None
    )


def test_the_classes_add_up_and_agree_with_the_evaluation() -> None:
    (_, before), (_, after) = invent(40, seed=30), invent(40, seed=30)
    rng = np.random.default_rng(31)
    after = [Detections(a.xyxy, rng.permutation(a.confidence), a.class_id) for a in after]
    result = count_changes(before, after, 0.4, NAMES)
    for name in ("before", "after", "kept", "sunk", "gone", "risen", "new"):
        assert sum(getattr(one, name) for one in result.classes) == getattr(result.total, name)
    total, agreement = result.total, compare_boxes(before, after, 0.4)
    assert (total.before, total.after) == agreement.boxes
    assert (total.gone, total.new) == agreement.unpaired
    assert (total.kept + total.sunk + total.risen, total.sunk + total.risen) == (
        agreement.pairs,
        agreement.one_side_only,
    )
    for class_id, one in enumerate(result.classes):
        assert one.before == sum(int(((b.confidence > 0.4) & (b.class_id == class_id)).sum()) for b in before)
        assert one.after == sum(int(((a.confidence > 0.4) & (a.class_id == class_id)).sum()) for a in after)
    assert min(total.kept, total.sunk, total.risen, total.before) > 5

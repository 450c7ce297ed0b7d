"""The stated tolerances are those that decide, to either side."""

import numpy as np
import pytest

from service.bundle.store import Bundle
from service.inference.engine import Precision
from service.tuning.tolerance import LEAST_BOXES, RECURRENCE, Reference

#: Boxes of 100 px stand apart on a grid, in two pictures.
PICTURES, BOXES = 2, 30
SIDE = 100.0


def rows(confidence: float = 0.8, count: int = BOXES) -> np.ndarray:
    """(N, 6): boxes that overlap no other."""
    x, y = np.divmod(np.arange(count), 6)
    corner = np.stack([x, y], 1) * 2 * SIDE
    confidences = confidence + np.linspace(0, 0.01, count)[::-1]
    return np.column_stack([corner, corner + SIDE, confidences, np.zeros(count)]).astype(np.float32)


@pytest.fixture
def answers() -> list[np.ndarray]:
    return [rows() for _ in range(PICTURES)]


@pytest.fixture
def reference(bundle: Bundle) -> Reference:
    assert bundle.manifest.model.default_confidence < 0.8
    return Reference(bundle, [rows() for _ in range(PICTURES)])


def moved(answer: np.ndarray, column: int, by: float, boxes: slice = slice(None)) -> np.ndarray:
    answer = answer.copy()
    answer[boxes, [column, column + 2] if column < 2 else column] += np.float32(by)
    return answer


@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16", "bf16"])
def test_the_same_boxes_pass_in_any_order(
    reference: Reference, answers: list[np.ndarray], precision: Precision
) -> None:
    found = reference.judge(precision, [answer[::-1].copy() for answer in answers])
    assert (found.boxes, found.matched, found.extra, found.fault) == (PICTURES * BOXES, PICTURES * BOXES, 0, None)
    assert found.box_px == found.confidence == 0


@pytest.mark.parametrize("precision", ["tf32", "fp16", "bf16"])
def test_overlap_and_confidence(reference: Reference, answers: list[np.ndarray], precision: Precision) -> None:
    rule = RECURRENCE[precision]
    # Shifted by d, a box of side s overlaps by (s - d) / (s + d).
    furthest = SIDE * (1 - rule.iou) / (1 + rule.iou)
    for column, limit in ((0, furthest), (1, furthest), (4, rule.confidence)):
        for share, passes in ((0.95, True), (1.05, False)):
            found = reference.judge(precision, [moved(answer, column, share * limit) for answer in answers])
            assert (found.fault is None) == passes, (column, share, found)
            assert found.matched == (found.boxes if passes else 0)
            expected = (0.0, share * limit) if column == 4 else (share * limit, 0.0)
            assert (found.box_px, found.confidence) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("precision", ["tf32", "fp16", "bf16"])
def test_the_share_that_must_recur(reference: Reference, answers: list[np.ndarray], precision: Precision) -> None:
    # 1 of 60 in TF32 and fp16 (98 %), 3 of 60 in bf16 (95 %).
    spare = {"tf32": 1, "fp16": 1, "bf16": 3}[precision]
    assert spare == int(PICTURES * BOXES * (1 - RECURRENCE[precision].share) + 1e-9)
    for many, passes in ((spare, True), (spare + 1, False)):
        for lost in (moved(answers[0], 5, 1.0, slice(many)), moved(answers[0], 0, 50.0, slice(many))):
            found = reference.judge(precision, [lost, answers[1]])
            assert (found.matched, found.fault is None) == (PICTURES * BOXES - many, passes)
        new = moved(rows(0.7), 1, 5000.0)[:many]
        found = reference.judge(precision, [np.concatenate([answers[0], new]), answers[1]])
        assert (found.matched, found.extra, found.fault is None) == (PICTURES * BOXES, many, passes)


def test_near_the_threshold_rounding_decides_and_nothing_else(bundle: Bundle) -> None:
    threshold, rule = bundle.manifest.model.default_confidence, RECURRENCE["bf16"]
    sure, unsure = rows(), moved(rows(threshold - 0.011, 6), 1, 2000.0)
    reference = Reference(bundle, [np.concatenate([sure, unsure])])
    for rise, extra in ((0.9 * rule.confidence, 0), (rule.confidence + 0.012, 6)):
        found = reference.judge("bf16", [np.concatenate([sure, moved(unsure, 4, rise)])])
        assert (found.boxes, found.matched, found.extra, found.fault is None) == (BOXES, BOXES, extra, extra == 0)


def test_where_little_is_sure_the_surest_are_compared(bundle: Bundle) -> None:
    low = rows(0.05)
    assert Reference(bundle, [low]).judge("bf16", [low]).boxes == LEAST_BOXES
    few = rows(0.9, LEAST_BOXES - 1)
    found = Reference(bundle, [few]).judge("bf16", [few])
    assert found.matched == found.boxes == LEAST_BOXES - 1
    assert found.fault == f"only {LEAST_BOXES - 1} boxes to compare, where {LEAST_BOXES} would tell"


def test_fp32_may_differ_by_rounding_only(bundle: Bundle, reference: Reference, answers: list[np.ndarray]) -> None:
    allowed = 2 * bundle.self_check.box_tolerance_px
    for share, passes in ((0.8, True), (1.2, False)):
        # Of one box in one picture: no share of them may.
        found = reference.judge("fp32", [answers[0], moved(answers[1], 0, share * allowed, slice(1))])
        assert (found.fault is None) == passes
        assert found.box_px == pytest.approx(share * allowed, abs=1e-4)
    found = reference.judge("fp32", [answers[0][1:], answers[1]])
    assert found.matched == found.boxes - 1 and "in 1 of 2 pictures" in str(found.fault)


@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16", "bf16"])
@pytest.mark.parametrize("fill", [0.0, np.nan])
def test_broken_answers_are_refused(
    reference: Reference, answers: list[np.ndarray], precision: Precision, fill: float
) -> None:
    assert reference.judge(precision, [np.full_like(answer, fill) for answer in answers]).fault is not None


def test_the_words_name_the_figures(bundle: Bundle, reference: Reference) -> None:
    assert reference.tolerance_in_words("bf16").startswith("95% of the boxes")
    assert "IoU of 0.9 " in reference.tolerance_in_words("bf16")
    assert f"within {2 * bundle.self_check.box_tolerance_px:g} px" in reference.tolerance_in_words("fp32")

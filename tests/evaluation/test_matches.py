"""Average precision against faster-coco-eval, an implementation of its own, given all classes at once."""

import numpy as np
import pytest
from faster_coco_eval import COCO, COCOeval_faster

from service.evaluation.data_set import objects_of
from service.evaluation.matches import IOU_THRESHOLDS, SIZES, ClassResult, match_class
from tests.evaluation.invented import CLASSES, as_coco, invent

MAX_DET = 300


def judge(truth, found, max_det: int = MAX_DET) -> list[ClassResult]:
    return [match_class(class_id, truth, found, max_det) for class_id in range(CLASSES)]


def independent_precision(truth, found, max_det: int) -> np.ndarray:
    """(T, 101, classes, sizes) precision."""
    document, results = as_coco(truth, found)
    coco = COCO(document)
    evaluator = COCOeval_faster(coco, coco.loadRes(results), "bbox")
    evaluator.params.maxDets = [max_det]
    evaluator.evaluate()
    evaluator.accumulate()
    return evaluator.eval["precision"][..., 0]


@pytest.mark.parametrize(("crowds", "max_det"), [(False, MAX_DET), (True, MAX_DET), (False, 3)])
def test_average_precision_is_that_of_another_evaluator(crowds: bool, max_det: int) -> None:
    truth, found = invent(30, seed=1, crowds=crowds)
    precision = independent_precision(truth, found, max_det)
    assert np.ptp(precision[precision >= 0]) == 1  # or there would be little to compare
    for class_id, result in enumerate(judge(truth, found, max_det)):
        for number, size in enumerate(SIZES):
            expected = precision[:, :, class_id, number].mean(1)
            found_precision = result.sizes[size].average_precision
            if expected[0] == -1:  # its sign for "no such objects"
                assert found_precision is None
            else:
                assert found_precision == pytest.approx(expected, abs=1e-12)


def test_objects_are_counted_by_size_without_crowds() -> None:
    truth, found = invent(30, seed=1, crowds=True)
    for class_id, result in enumerate(judge(truth, found)):
        areas = np.concatenate([p.objects.area[(p.objects.class_id == class_id) & ~p.objects.crowd] for p in truth])
        bounds = {"all": (0, 1e10), "small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 1e10)}
        for size, (low, high) in bounds.items():
            assert result.sizes[size].objects == ((areas >= low) & (areas <= high)).sum()
        assert result.matches.objects.sum() == len(areas)


def test_matches_are_sorted_and_know_their_picture() -> None:
    truth, found = invent(12, seed=2)
    for class_id, result in enumerate(judge(truth, found)):
        matches = result.matches
        assert (np.diff(matches.confidence) <= 0).all()
        assert matches.right.shape == matches.ignored.shape == (len(IOU_THRESHOLDS), len(matches.confidence))
        for number, boxes in enumerate(found):
            expected = sorted(boxes.confidence[boxes.class_id == class_id].tolist())
            assert sorted(matches.confidence[matches.picture == number].tolist()) == expected


def test_a_class_without_objects_has_no_average_precision_but_wrong_boxes() -> None:
    truth, found = invent(12, seed=3)
    bare = [type(p)(p.path, p.width, p.height, objects_of([], [])) for p in truth]
    for result in judge(bare, found):
        assert all(one.average_precision is None and one.objects == 0 for one in result.sizes.values())
        assert len(result.matches.confidence) > 0 and not result.matches.right.any()


def test_a_class_without_boxes_scores_zero() -> None:
    truth, _ = invent(12, seed=3)
    _, none = invent(12, seed=3)
    empty = [type(boxes)(boxes.xyxy[:0], boxes.confidence[:0], boxes.class_id[:0]) for boxes in none]
    for result in judge(truth, empty):
        assert result.sizes["all"].average_precision == pytest.approx(np.zeros(len(IOU_THRESHOLDS)))
        assert len(result.matches.confidence) == 0

"""Precision and recall above a confidence against a plain float64 pairing written out here."""

import numpy as np
import pytest

from service.evaluation.thresholds import GRID, SLACK, Counts, best_confidence, count_above, lenient_confidence
from service.inference.detections import Detections
from tests.evaluation.invented import CLASSES, invent
from tests.evaluation.test_matches import judge


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height)


def count_by_hand(truth, found, confidence: float, classes: range) -> Counts:
    """Each box in falling order of confidence takes the free object of its class that it overlaps most, from 0.5."""
    right = wrong = missed = in_empty = 0
    for picture, boxes in zip(truth, found, strict=True):
        for class_id in classes:
            objects = picture.objects.xyxy[picture.objects.class_id == class_id].tolist()
            total = len(objects)
            kept = (boxes.class_id == class_id) & (boxes.confidence > np.float32(confidence))
            hits = 0
            for box in boxes.xyxy[kept].astype(np.float64):
                overlaps = [overlap(box, np.array(other)) for other in objects]
                if overlaps and max(overlaps) >= 0.5:
                    objects.pop(int(np.argmax(overlaps)))
                    hits += 1
            right, missed = right + hits, missed + total - hits
            wrong += int(kept.sum()) - hits
            in_empty += 0 if len(picture.objects) else int(kept.sum())
    return Counts(right, wrong, missed, in_empty)


@pytest.fixture(scope="module")
def made():
    truth, found = invent(40, seed=5)
    matches = [result.matches for result in judge(truth, found)]
    return truth, found, matches, np.array([len(p.objects) == 0 for p in truth])


@pytest.mark.parametrize("confidence", [0.0, 0.25, 0.5, 0.93, 1.0])
def test_counts_are_those_of_a_plain_pairing(made, confidence: float) -> None:
    truth, found, matches, empty = made
    everything = count_above(matches, confidence, empty)
    assert everything == count_by_hand(truth, found, confidence, range(CLASSES))
    assert (everything.in_empty > 0) == (confidence < 0.9)
    for class_id in range(CLASSES):
        by_hand = count_by_hand(truth, found, confidence, range(class_id, class_id + 1))
        assert count_above([matches[class_id]], confidence, empty) == by_hand


def test_shares_follow_their_definitions() -> None:
    counts = Counts(right=6, wrong=2, missed=4, in_empty=0)
    precision, recall = 6 / 8, 6 / 10
    assert (counts.precision, counts.recall) == (precision, recall)
    assert counts.f1 == pytest.approx(2 * precision * recall / (precision + recall))
    nothing = Counts(0, 0, 0, 0)
    assert (nothing.precision, nothing.recall, nothing.f1) == (0, 0, 0)


def test_no_confidence_has_a_higher_f1_than_the_best(made) -> None:
    _, _, matches, empty = made
    for classes in (matches, matches[:1], matches[1:2]):
        best = best_confidence(classes)
        all_f1 = [count_above(classes, float(confidence), empty).f1 for confidence in GRID]
        assert count_above(classes, best, empty).f1 == max(all_f1)
        assert all_f1[0] < max(all_f1) > all_f1[-1]


def test_the_lenient_confidence_is_the_lowest_that_is_nearly_as_good(made) -> None:
    _, _, matches, empty = made
    for classes in (matches, matches[:1], matches[1:2]):
        all_f1 = {float(conf): count_above(classes, float(conf), empty).f1 for conf in GRID}
        nearly = [conf for conf, f1 in all_f1.items() if f1 >= max(all_f1.values()) - SLACK]
        assert lenient_confidence(classes) == nearly[0] <= best_confidence(classes)
        assert nearly[0] > GRID[0]


def test_of_equally_good_confidences_the_middle_one_is_taken() -> None:
    truth, _ = invent(5, seed=6)
    perfect = [
        Detections(p.objects.xyxy.astype(np.float32), np.full(len(p.objects), 0.8, np.float32), p.objects.class_id)
        for p in truth
    ]
    best = best_confidence([result.matches for result in judge(truth, perfect)])
    assert best == pytest.approx(0.4, abs=0.002)


def test_without_a_right_box_there_is_no_best(made) -> None:
    truth, found, _, _ = made
    elsewhere = [Detections(boxes.xyxy + 5000, boxes.confidence, boxes.class_id) for boxes in found]
    for choose in (best_confidence, lenient_confidence):
        assert choose([result.matches for result in judge(truth, elsewhere)]) is None


def test_a_box_exactly_at_the_confidence_does_not_count_as_in_the_service() -> None:
    truth, found = invent(6, seed=7)
    # 0.3 is not a float32: compared in float64 these boxes would lie above it.
    at = [Detections(boxes.xyxy, np.full(len(boxes), 0.3, np.float32), boxes.class_id) for boxes in found]
    matches = [result.matches for result in judge(truth, at)]
    empty = np.zeros(len(truth), bool)
    assert count_above(matches, 0.3, empty).right == 0
    assert count_above(matches, 0.299, empty).right > 0

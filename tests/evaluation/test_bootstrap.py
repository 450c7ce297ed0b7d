"""Resampled average precision against pycocotools run on pictures that were really repeated."""

from dataclasses import replace

import numpy as np
import pytest

from service.evaluation.bootstrap import draw_weights, interval, resampled_precision
from service.inference.detections import Detections
from tests.evaluation.invented import invent
from tests.evaluation.test_matches import judge


def mean_precision(truth, found) -> np.ndarray:
    """(T,) by pycocotools, over the classes with objects."""
    results = [result.sizes["all"].average_precision for result in judge(truth, found)]
    return np.mean([one for one in results if one is not None], axis=0)


@pytest.mark.parametrize("crowds", [False, True])
def test_a_resample_scores_what_the_repeated_pictures_score(crowds: bool) -> None:
    truth, found = invent(20, seed=11, crowds=crowds)
    matches = [result.matches for result in judge(truth, found)]
    weights = np.concatenate([np.ones((1, 20)), draw_weights(20, 4)])
    resampled = resampled_precision(matches, weights)
    for weight, precision in zip(weights.astype(int), resampled, strict=True):
        chosen = np.repeat(np.arange(20), weight)
        expected = mean_precision([truth[i] for i in chosen], [found[i] for i in chosen])
        assert precision == pytest.approx(expected, abs=1e-12)


def test_a_resample_without_a_class_leaves_it_out_and_without_objects_is_no_number() -> None:
    truth, found = invent(20, seed=11)
    matches = [result.matches for result in judge(truth, found)]
    only_first = np.zeros((2, 20))
    only_first[0, 0] = 1  # a picture with objects
    only_first[1, 5] = 1  # an empty one
    precision = resampled_precision(matches, only_first)
    assert precision[0] == pytest.approx(mean_precision(truth[:1], found[:1]), abs=1e-12)
    assert np.isnan(precision[1]).all()


def test_weights_are_resamples_and_the_same_every_time() -> None:
    weights = draw_weights(30, 200)
    assert (weights.sum(1) == 30).all() and weights.max() > 1 and weights.min() == 0
    assert (weights == draw_weights(30, 200)).all()


def difference(truth, first, second):
    weights = draw_weights(len(truth), 300)
    ours, theirs = (
        resampled_precision([result.matches for result in judge(truth, found)], weights) for found in (first, second)
    )
    return interval((ours - theirs).mean(1))


def test_the_same_boxes_do_not_differ() -> None:
    truth, found = invent(20, seed=12)
    same = difference(truth, found, found)
    assert (same.low, same.high) == (0, 0)


def test_boxes_that_are_off_by_a_tenth_are_seen_to_be_worse() -> None:
    truth, found = invent(40, seed=12)
    shifted = [replace(boxes, xyxy=boxes.xyxy + _tenth_of_the_sides(boxes)) for boxes in found]
    worse = difference(truth, found, shifted)
    assert 0 < worse.low < worse.high
    better = difference(truth, shifted, found)
    assert (better.low, better.high) == pytest.approx((-worse.high, -worse.low))


def _tenth_of_the_sides(boxes: Detections) -> np.ndarray:
    sides = boxes.xyxy[:, 2:] - boxes.xyxy[:, :2]
    return np.concatenate([sides, sides], axis=1) / 10

"""Faults learnt from pictures, told on pictures that were not seen, and kept in a file."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from service.bundle.store import Bundle
from service.drift.layers import watch_layers
from service.errors import CalibrationUnusable
from service.inference.calibration_pictures import even_choice, measure_folder
from service.inference.learn import learn_faults, teach_faults
from service.inference.linter import features_of
from service.inference.probe import Probe
from service.lint.faults import PICTURE_FAULTS, spoil_picture
from service.lint.report import FaultWords
from service.lint.signatures import CERTAIN, Signatures, describe_signatures
from service.preprocessing.letterbox import content_of, content_tensor, letterbox, picture_tensor, plan_letterbox
from tests.lint.pictures import picture, write_pictures

FRESH, GROUP = 2000, 32


@pytest.fixture(scope="module")
def learnt(bundle_copy: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Signatures:
    folder = write_pictures(tmp_path_factory.mktemp("learnt") / "pictures", 160)
    return learn_faults(measure_folder(bundle_copy, folder, 50_000_000, lambda _done, _total: None).faults)


@pytest.fixture(scope="module")
def spoilt(bundle_copy: Bundle) -> np.ndarray:
    """Features (GROUP, faults, F) of pictures that were not learnt from, made here step by step."""
    probe, watched = Probe(bundle_copy.probe_graph), watch_layers(bundle_copy)
    side = bundle_copy.manifest.model.input.height
    rows = []
    for index in range(FRESH, FRESH + GROUP):
        image = picture(index)
        plan = plan_letterbox(image.shape[1], image.shape[0], side)
        content = np.ascontiguousarray(content_of(letterbox(image, plan), plan))
        versions = spoil_picture(content, cv2.resize(image, (side, side)))
        readings = [probe.measure(picture_tensor(version)) for version in versions]
        rows.append([features_of(reading, watched) for reading in readings])
    return np.array(rows)


def test_a_window_of_new_pictures_is_told_and_no_fault_is_claimed_falsely(learnt: Signatures, spoilt: np.ndarray):
    told = {}
    for number, fault in enumerate(PICTURE_FAULTS):
        probabilities = learnt.probabilities(spoilt[:, number])
        if probabilities.max() >= CERTAIN:
            told[fault.name] = learnt.names[int(probabilities.argmax())]
    assert all(name == answer for name, answer in told.items())
    # What changes light, colour or sharpness of every pixel leaves no doubt over 32 pictures.
    assert {"channels_swapped", "inverted", "grey", "blurred", "dark", "noisy", "compressed"} <= set(told)


def test_the_words_name_the_fault_and_what_to_do(learnt: Signatures, spoilt: np.ndarray):
    say = FaultWords(learnt)
    dark = [fault.name for fault in PICTURE_FAULTS].index("dark")
    (sentence,) = say(spoilt[:, dark])
    assert "darker" in sentence
    assert "light" in sentence
    assert say(spoilt[:, 0]) == []


def test_the_table_has_a_row_for_each_fault(learnt: Signatures):
    lines = describe_signatures(learnt)
    assert [line.split()[0] for line in lines[2:]] == [fault.name for fault in PICTURE_FAULTS]


def test_frames_of_one_scene_tell_no_more_than_one_of_them(learnt: Signatures, spoilt: np.ndarray, bundle_copy: Bundle):
    """A camera that stands still: the same scene, lit a little differently, with the noise of a sensor."""
    probe, watched = Probe(bundle_copy.probe_graph), watch_layers(bundle_copy)
    side, rng = bundle_copy.manifest.model.input.height, np.random.default_rng(0)
    scene = picture(FRESH).astype(np.float64)
    plan = plan_letterbox(scene.shape[1], scene.shape[0], side)
    frames = []
    for _ in range(8):
        noisy = scene * rng.normal(1, 0.01) + rng.normal(0, 2, scene.shape)
        square = letterbox(np.clip(noisy, 0, 255).astype(np.uint8), plan)
        frames.append(features_of(probe.measure(content_tensor(square, plan)), watched))
    assert learnt.effective_pictures(np.array(frames)) < 1.2
    for true in range(len(PICTURE_FAULTS)):
        assert learnt.effective_pictures(spoilt[:, true]) > 0.75 * GROUP


def test_drift_is_taught_what_each_fault_changes():
    features = np.random.default_rng(0).normal(size=(3, len(PICTURE_FAULTS), 5))
    taught = teach_faults(features, even_choice(7, 3))
    assert taught.rows.tolist() == [0, 3, 6]
    assert taught.names[0] == "red and blue swapped" and len(taught.names) == len(PICTURE_FAULTS) - 1
    np.testing.assert_array_equal(taught.changes[2, 0], features[2, 1] - features[2, 0])


def test_too_few_pictures_are_refused(bundle_copy: Bundle, tmp_path: Path):
    folder = write_pictures(tmp_path / "few", 3)
    with pytest.raises(CalibrationUnusable, match="3 different pictures"):
        measure_folder(bundle_copy, folder, 50_000_000, lambda _done, _total: None)

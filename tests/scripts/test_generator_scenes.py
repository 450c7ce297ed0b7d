"""A few hundred composed pictures: what is in them, and whether an independent decoder agrees with the labels."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from scripts.embedded_model import dataset, occlusion
from scripts.embedded_model.camera import devices
from scripts.embedded_model.canvas import Canvas
from scripts.embedded_model.scenes import compose
from scripts.embedded_model.symbols import CLASS_NAMES
from scripts.embedded_model.textures.paint import flat
from tests.scripts.decoding import read_codes
from tests.scripts.red_patch import red_patch

COUNT = 240


@pytest.fixture(scope="module")
def scenes():
    """The first training pictures of one seed."""
    return [compose(dataset.picture_rng(9, "train", index)) for index in range(COUNT)]


@pytest.fixture(scope="module")
def targets(scenes):
    """(target, width, height) of every labelled code."""
    return [(t, s.image.shape[1], s.image.shape[0]) for s in scenes for t in s.targets]


def extent(target, width, height):
    """Longer side of the box relative to that of the picture."""
    x0, y0, x1, y1 = target.box
    return max(x1 - x0, y1 - y0) / max(width, height)


def share(values):
    values = list(values)
    return sum(values) / len(values)


def test_boxes_lie_inside_the_picture_and_have_an_extent(targets):
    for target, width, height in targets:
        x0, y0, x1, y1 = target.box
        assert 0 <= x0 < x1 <= width
        assert 0 <= y0 < y1 <= height
        assert min(x1 - x0, y1 - y0) > 1


def test_pictures_with_and_without_codes(scenes):
    assert 0.12 < share(not s.targets for s in scenes) < 0.32
    assert share(len(s.targets) > 2 for s in scenes) > 0.04


def test_classes_are_balanced(targets):
    counts = [sum(t.class_id == c for t, _, _ in targets) for c in range(len(CLASS_NAMES))]
    # A fifth each, give or take: the standard error of a share over these pictures is about 0.03.
    assert min(counts) > 0.12 * sum(counts)
    assert max(counts) < 0.34 * sum(counts)


def test_codes_are_tiny_to_frame_filling_and_some_are_cut(targets):
    assert share(extent(*t) < 0.1 for t in targets) > 0.03
    assert share(extent(*t) > 0.6 for t in targets) > 0.1
    assert share(extent(*t) > 0.95 for t in targets) > 0.01
    cut = [
        t.code.outline.min() < -1 or (t.code.outline.max(axis=0) > (width + 1, height + 1)).any()
        for t, width, height in targets
    ]
    assert 0.05 < share(cut) < 0.35


def test_matrix_codes_are_mostly_large_enough_to_be_told_apart(targets):
    pitches = []
    for target, width, height in targets:
        if CLASS_NAMES[target.class_id] in ("qr_code", "data_matrix", "aztec"):
            modules = target.code.symbol.modules.size
            pitches.append(np.sqrt(cv2.contourArea(target.code.outline) / modules) * 640 / max(width, height))
    assert share(p >= 2.5 for p in pitches) > 0.55


def test_picture_sizes(scenes):
    long_sides = [max(s.image.shape[:2]) for s in scenes]
    assert share(side == 640 for side in long_sides) > 0.4
    assert share(side < 260 for side in long_sides) > 0.05
    assert share(max(s.image.shape[:2]) > 2 * min(s.image.shape[:2]) for s in scenes) > 0.03
    assert all(min(s.image.shape[:2]) >= 32 and max(s.image.shape[:2]) <= 1200 for s in scenes)
    assert all(s.image.dtype == np.uint8 and s.image.shape[2] == 3 for s in scenes)


def test_whatever_a_decoder_reads_is_labelled_with_its_class(scenes):
    read = 0
    for number, scene in enumerate(scenes):
        for class_id, points in read_codes(scene.image):
            (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
            overlapping = [
                t.class_id
                for t in scene.targets
                if t.box[0] <= right and left <= t.box[2] and t.box[1] <= bottom and top <= t.box[3]
            ]
            assert class_id in overlapping, (number, points.tolist())
            read += 1
    # Otherwise this would say nothing: a fair part of the codes must be within a decoder's reach.
    assert read > 0.15 * sum(len(s.targets) for s in scenes)


def test_every_code_stands_out_from_an_even_grey(scenes):
    for scene in scenes:
        for target in scene.targets:
            x0, y0, x1, y1 = (int(v) for v in target.box)
            assert scene.image[y0 : y1 + 1, x0 : x1 + 1].std() > 3


def test_things_in_the_way_hide_only_part_of_a_code():
    hiding = 0
    for seed in range(40):
        canvas = Canvas(flat(480, 640, (0, 230, 0)))
        canvas.codes += red_patch().codes
        canvas.image[40:170, 60:250] = (0, 0, 230)
        before = canvas.image.copy()
        hidden = occlusion.occlude(np.random.default_rng(seed), canvas)
        # A third of the code at most, and a pixel of rounding along its edge.
        assert np.count_nonzero(hidden[40:170, 60:250]) < 0.37 * 130 * 190
        core = cv2.erode(hidden, np.ones((5, 5), np.uint8)) > 0
        if core.any():
            hiding += 1
            # What the mask calls hidden is painted over, its soft rim aside.
            assert (canvas.image != before).any(axis=-1)[core].mean() > 0.99
    assert hiding > 20


@pytest.mark.parametrize("device", [devices.photograph, devices.scan], ids=lambda device: device.__name__)
def test_cameras_keep_size_and_place(device):
    scene = flat(300, 400, (250, 250, 250))
    scene[100:200, 150:250] = 10
    darker = 0
    for seed in range(30):
        shot = device(np.random.default_rng(seed), scene)
        assert shot.shape == scene.shape
        assert shot.dtype == np.uint8
        darker += shot[120:180, 170:230].mean() + 5 < min(shot[120:180, 20:80].mean(), shot[120:180, 320:380].mean())
    assert darker >= 28

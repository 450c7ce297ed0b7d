"""Outlines follow their pixels through every bend, so that boxes are tight."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from scripts.embedded_model import geometry, relief, warps
from scripts.embedded_model.canvas import Canvas
from scripts.embedded_model.textures.paint import flat
from tests.scripts.red_patch import GROUND, red_patch, seen_box


@pytest.mark.parametrize("shape", [relief.bend, relief.wave, relief.crumple], ids=lambda shape: shape.__name__)
@pytest.mark.parametrize("box", [(60, 40, 250, 170), (0, 0, 300, 220)], ids=["inside", "to the edge"])
def test_bent_surfaces_move_outlines_with_the_pixels(shape, box):
    for seed in range(12):
        bent = shape(np.random.default_rng(seed), red_patch(box=box))
        expected = seen_box(
            cv2.bitwise_and(bent.texture, cv2.merge([np.where(bent.alpha > 127, 255, 0).astype(np.uint8)] * 3))
        )
        assert geometry.hull_box(bent.codes[0].outline) == pytest.approx(expected, abs=2), seed


@pytest.mark.parametrize("strength", [-0.4, 0.0, 0.4])
def test_pictures_in_perspective_and_through_a_lens_keep_tight_boxes(strength):
    for seed in range(8):
        rng = np.random.default_rng(seed)
        canvas = Canvas(flat(480, 640, GROUND))
        if not canvas.paste(rng, red_patch(), geometry.draw_pose(rng, 1.0), (320, 240)):
            continue
        canvas.distort(warps.lens_distortion(480, 640, strength))
        box = geometry.hull_box(geometry.clip_outline(canvas.codes[0].outline, *canvas.size))
        assert box == pytest.approx(seen_box(canvas.image), abs=2), seed


def test_a_cylinder_moves_points_and_pixels_alike():
    bend = warps.Cylinder(0.9, 0.2, 300, 200)
    plane = np.zeros((200, 300), np.uint8)
    cv2.circle(plane, (80, 120), 4, 255, -1)
    bent = cv2.remap(plane, *bend.maps(), cv2.INTER_LINEAR)
    seen = np.argwhere(bent > 127).mean(axis=0)[::-1] + 0.5
    assert bend.forward(np.array([[80.5, 120.5]], np.float32))[0] == pytest.approx(seen, abs=0.7)


def test_displacements_are_solved_to_a_hundredth_of_a_pixel():
    yy, xx = np.mgrid[0:200, 0:300].astype(np.float32)
    warp = warps.gentle(np.sin(xx / 25) * np.cos(yy / 31), (0.6, 0.8), warps.MAX_SLOPE)
    points = np.random.default_rng(2).uniform((20, 20), (280, 180), (50, 2)).astype(np.float32)
    seen = warp.forward(points)
    x, y = (np.ascontiguousarray(seen[:, i : i + 1] - 0.5) for i in (0, 1))
    offset = np.concatenate([cv2.remap(d, x, y, cv2.INTER_LINEAR) for d in (warp.dx, warp.dy)], axis=1)
    # OpenCV samples at 1/32 of a pixel, where the offset changes by at most half of that.
    assert seen + offset == pytest.approx(points, abs=1 / 32)


def test_gentle_bounds_the_slope():
    field = np.random.default_rng(3).standard_normal((60, 80)).astype(np.float32)
    warp = warps.gentle(field, (1.0, 0.0), 9.0)
    assert np.abs(np.diff(warp.dx, axis=1)).max() <= warps.MAX_SLOPE + 1e-5


@pytest.mark.parametrize("strength", [-0.4, 0.4])
def test_lens_distortion_leaves_the_corners_and_the_middle(strength):
    warp = warps.lens_distortion(480, 640, strength)
    points = np.array([[320, 240], [0.5, 0.5], [320, 120]], np.float32)
    middle, corner, between = warp.forward(points)
    assert middle == pytest.approx((320, 240), abs=0.05)
    assert corner == pytest.approx((0.5, 0.5), abs=0.5)
    # r' = r (1 + k (r^2 - 1)) turned round at r = 0.3: positive strength is a barrel, which swells in the middle.
    assert (240 - between[1] > 120) == (strength > 0)


def test_a_canvas_takes_no_code_that_it_would_cut_or_blur_away():
    rng = np.random.default_rng(4)
    pose = geometry.Pose(0, 0, 0, 2.0)
    assert Canvas(flat(480, 640, GROUND)).paste(rng, red_patch(), pose, (40, 240))
    assert not Canvas(flat(480, 640, GROUND), whole=True).paste(rng, red_patch(), pose, (40, 240))
    assert not Canvas(flat(480, 640, GROUND)).paste(rng, red_patch(box=(60, 40, 70, 50)), pose, (320, 240))


def test_surfaces_never_lie_on_each_other():
    rng = np.random.default_rng(5)
    canvas, pose = Canvas(flat(480, 640, GROUND)), geometry.Pose(0, 0, 0, 2.0)
    assert canvas.paste(rng, red_patch(), pose, (320, 240))
    assert not canvas.paste(rng, red_patch(), pose, (360, 260))

"""Backgrounds and look-alikes: many, repeatable, and without a code that a decoder could read."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from scripts.embedded_model import goods, labels, papers, relief
from scripts.embedded_model.textures import backdrops, fields, materials, paint, patterns
from tests.scripts.decoding import read_codes

TEXTURES = sorted(
    {*materials.MATERIALS, *backdrops.VISTAS, *backdrops.STRUCTURES, *patterns.LOOKALIKES}, key=lambda t: t.__name__
)

SURFACES = (*goods.BIG_SURFACES, papers.scrap, papers.shelf_ticket)
#: Sizes far below and beside those of pictures: parts of a scene may be cut to any of them.
EXTREME_SIZES = (
    *itertools.product((1, 2, 3, 12), repeat=2), (1, 640), (640, 1), (4, 300), (300, 4), (9, 400), (400, 9),
)  # fmt: skip
SEEDS = range(10)


@pytest.mark.parametrize("texture", [*TEXTURES, materials.clouds], ids=lambda texture: texture.__name__)
def test_textures_fill_tiny_and_narrow_pictures_whatever_they_draw_by_chance(texture):
    for size, seed in itertools.product(EXTREME_SIZES, SEEDS):
        image = texture(np.random.default_rng([seed, *size]), *size)
        assert image.shape == (*size, 3) and image.dtype == np.uint8


@pytest.mark.parametrize("draw", SURFACES, ids=lambda draw: draw.__name__)
def test_surfaces_can_be_tiny_and_narrow_and_bent(draw):
    for (height, width), seed in itertools.product(EXTREME_SIZES, SEEDS):
        rng = np.random.default_rng([seed, height, width])
        surface = draw(rng, width, height)
        grown = np.subtract(surface.size, (width, height))
        assert (grown > 0).all() if draw is goods.screen else (grown == 0).all()  # a screen has its bezel around it
        relief.shaped(rng, surface)


@pytest.mark.parametrize("long_side", [0.5, 1, 3, 20, 900])
def test_codes_can_be_printed_at_any_size_asked_for(long_side):
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        black, white = (0, 0, 0), (255, 255, 255)
        for surface in (
            labels.label(rng, long_side),
            labels.direct_mark(rng, long_side, rng.uniform(0, 255)),
            labels.bare_print(rng, long_side, white, black),
        ):
            assert len(surface.codes) == 1


def test_the_joint_of_a_low_cardboard_is_one_row_at_least():
    """Found in a run of 16,000 pictures: a height below 13, and a tape that only three in ten boards have."""
    for height, seed in itertools.product(range(1, 14), range(30)):
        assert materials.cardboard(np.random.default_rng(seed), height, 40).shape == (height, 40, 3)


@pytest.mark.parametrize("texture", TEXTURES, ids=lambda texture: texture.__name__)
def test_textures_fill_any_size_repeatably_and_hold_no_code(texture):
    for seed, (height, width) in enumerate([(480, 640), (300, 200), (17, 230), (230, 19)]):
        image = texture(np.random.default_rng(seed), height, width)
        assert image.shape == (height, width, 3)
        assert image.dtype == np.uint8
        assert (image == texture(np.random.default_rng(seed), height, width)).all()
        assert read_codes(np.ascontiguousarray(image)) == []


def test_there_are_many_unlike_textures():
    small = [t(np.random.default_rng(1), 120, 160).astype(np.float32).ravel() for t in TEXTURES]
    assert len(TEXTURES) >= 50
    likeness = np.corrcoef(np.stack(small))
    assert (np.abs(likeness - np.eye(len(small))) < 0.98).all()


@pytest.mark.parametrize("slope", [0.6, 1.0, 1.5])
def test_fractal_fields_fall_off_as_promised(slope):
    sheet = fields._fractal_sheet(slope)
    power = np.abs(np.fft.rfft2(sheet))[1:400, 0]
    frequency = np.arange(1, 400)
    measured = np.polyfit(np.log(frequency), np.log(power), 1)[0]
    assert measured == pytest.approx(-slope, abs=0.1)


@pytest.mark.parametrize("stretch", [0.2, 1.0, 6.0])
def test_fields_are_normal_and_stretch_along_an_axis(stretch):
    field = fields.fractal_field(np.random.default_rng(4), 300, 300, 0.6, stretch)
    assert field.shape == (300, 300)
    assert field.mean() == pytest.approx(0, abs=0.01)
    assert field.std() == pytest.approx(1, abs=0.01)
    along, down = np.abs(np.diff(field, axis=1)).mean(), np.abs(np.diff(field, axis=0)).mean()
    assert (along < 0.7 * down) == (stretch > 1)
    assert (down < 0.7 * along) == (stretch < 1)


def test_ramps_end_at_two_deviations():
    field = np.array([[-2.0, 0.0, 2.0]], np.float32)
    image = paint.colorize(field, [(0, 10, 20), (100, 110, 120), (200, 210, 220)])
    assert image[0].tolist() == pytest.approx(np.array([[0, 10, 20], [100, 110, 120], [200, 210, 220]]), abs=2)

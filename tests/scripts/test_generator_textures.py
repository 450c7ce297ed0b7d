"""Backgrounds and look-alikes: many, repeatable, and without a code that a decoder could read."""

from __future__ import annotations

import numpy as np
import pytest

from scripts.embedded_model.textures import backdrops, fields, materials, paint, patterns
from tests.scripts.decoding import read_codes

TEXTURES = sorted(
    {*materials.MATERIALS, *backdrops.VISTAS, *backdrops.STRUCTURES, *patterns.LOOKALIKES}, key=lambda t: t.__name__
)


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

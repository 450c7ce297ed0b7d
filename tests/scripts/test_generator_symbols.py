"""What codes the generator writes, and what printing and wear do to them."""

from __future__ import annotations

from collections import Counter

import cv2
import numpy as np
import pytest
import zxingcpp

from scripts.embedded_model import payloads, prints, rendering, wear
from scripts.embedded_model.symbols import CLASS_NAMES, CLASS_WEIGHTS, SYMBOLOGIES, draw_symbology, write_symbol
from scripts.embedded_model.textures.paint import flat

# Rows and columns of the rectangular symbols in ISO/IEC 16022 and of a few that DMRE (ISO/IEC 21471) adds.
RECTANGLES = {(8, 18), (8, 32), (12, 26), (12, 36), (16, 36), (16, 48)}
EXTENDED = {(8, 48), (8, 64), (12, 64), (16, 64), (24, 48), (24, 64), (26, 40), (26, 48), (26, 64)}


def named(name):
    return next(s for s in SYMBOLOGIES if s.name == name)


def test_every_symbology_comes_up_and_classes_as_often_as_stated():
    rng = np.random.default_rng(1)
    drawn = Counter(draw_symbology(rng) for _ in range(6000))
    assert set(drawn) == set(SYMBOLOGIES)
    shares = [sum(n for s, n in drawn.items() if s.class_id == c) / 6000 for c in range(len(CLASS_NAMES))]
    # Three standard errors of a share near 0.2 over 6000 draws.
    assert shares == pytest.approx(CLASS_WEIGHTS, abs=0.016)


def test_data_matrix_codes_are_square_rectangular_and_extended():
    rng = np.random.default_rng(2)
    sizes = {write_symbol(rng, named("DataMatrix")).modules.shape for _ in range(400)}
    assert len([s for s in sizes if s[0] == s[1]]) > 5
    assert len(sizes & RECTANGLES) > 2
    assert len(sizes & EXTENDED) > 2


def test_some_retail_codes_have_an_add_on_that_the_decoder_reads():
    rng = np.random.default_rng(3)
    symbols = [write_symbol(rng, named("EAN13")) for _ in range(60)]
    extended = [s for s in symbols if s.modules.shape[1] > 95]
    assert 2 <= len(extended) <= 25
    image = np.pad(255 - cv2.resize(extended[0].modules, None, fx=4, fy=4, interpolation=cv2.INTER_NEAREST), 60,
                   constant_values=255)  # fmt: skip
    found = zxingcpp.read_barcodes(image, ean_add_on_symbol=zxingcpp.EanAddOnSymbol.Require)
    assert [f.text.replace(" ", "")[13:] for f in found] == [extended[0].text.split(" ")[1]]


# Check digits as printed on goods and in the GS1 General Specifications: EAN-13, UPC-A, EAN-8, GTIN-14.
@pytest.mark.parametrize("number", ["4006381333931", "036000291452", "96385074", "00012345600012"])
def test_check_digits(number):
    assert payloads.gtin_check(number[:-1]) == int(number[-1])


@pytest.mark.parametrize("kind", wear.KINDS, ids=lambda kind: kind.__name__)
def test_wear_changes_a_code_but_leaves_it_one(kind):
    rng = np.random.default_rng(4)
    code = prints.print_code(rng, write_symbol(rng, named("QRCode")), 240, plain=True)
    for _ in range(5):
        worn = kind(rng, code.coverage)
        assert worn.dtype == np.uint8
        assert worn.shape == code.coverage.shape
        assert (worn != code.coverage).any()
        assert np.corrcoef(worn.ravel(), code.coverage.ravel())[0, 1] > 0.5


def test_dotted_qr_codes_can_still_be_read():
    read = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        symbol = write_symbol(rng, named("QRCode"))
        side = symbol.modules.shape[0] * 6
        ink = rendering.render(rng, symbol.modules, side, side, plain=False, finders=True)
        found = zxingcpp.read_barcodes(np.pad(255 - ink, 40, constant_values=255))
        read += [f.text for f in found] == [symbol.text]
    assert read > 30


@pytest.mark.parametrize("name", ["EAN13", "UPCA", "EAN8", "UPCE", "Code128"])
def test_captions_stay_clear_of_the_bars(name):
    for seed in range(8):
        rng = np.random.default_rng(seed)
        code = prints.print_code(rng, write_symbol(rng, named(name)), 420, plain=True)
        height, width = code.coverage.shape
        image = flat(height + 260, width + 260, (255, 255, 255))
        prints.stamp_code(image, code, 130, 130, (0, 0, 0))
        bare = [f.text for f in zxingcpp.read_barcodes(image)]
        prints.decorate(rng, image, code, 130, 130, (255, 255, 255), (0, 0, 0))
        assert [f.text for f in zxingcpp.read_barcodes(image)] == bare, seed


def test_paper_and_ink_differ():
    rng = np.random.default_rng(5)
    for _ in range(300):
        paper, ink = (np.array(color) for color in prints.inks(rng))
        assert np.abs(paper - ink).max() > 15

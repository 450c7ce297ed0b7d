"""The generated pictures: repeatable, truly labelled, and readable by an independent decoder."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import zxingcpp

from scripts.embedded_model import data_stamp, dataset, geometry, prints, samples, surfaces
from scripts.embedded_model.canvas import Canvas
from scripts.embedded_model.data_stamp import DataRefused
from scripts.embedded_model.symbols import CLASS_NAMES, SYMBOLOGIES, write_symbol
from scripts.embedded_model.textures.paint import flat
from tests.conftest import ROOT
from tests.scripts.decoding import CLASS_OF_FORMAT, corners


def plain_picture(symbology, seed, scale=5, margin=60):
    """White picture with the crisp symbol, and its true box (x0, y0, x1, y1)."""
    symbol = write_symbol(np.random.default_rng(seed), symbology)
    ink = cv2.resize(symbol.modules, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)
    image = np.pad(255 - ink, margin, constant_values=255)
    return symbol, image, (margin, margin, margin + ink.shape[1], margin + ink.shape[0])


@pytest.mark.parametrize("symbology", SYMBOLOGIES, ids=lambda s: s.name)
def test_symbols_decode_to_their_class_inside_their_bitmap(symbology):
    symbol, image, (x0, y0, x1, y1) = plain_picture(symbology, seed=3)
    found = zxingcpp.read_barcodes(image)
    assert len(found) == 1
    assert CLASS_OF_FORMAT[str(found[0].format)] == symbol.symbology.class_id
    points = corners(found[0].position)
    # The decoder rounds to whole pixels and may report module centres: one module (5 px) of slack.
    assert (points >= (x0 - 5, y0 - 5)).all()
    assert (points <= (x1 + 5, y1 + 5)).all()


@pytest.mark.parametrize("symbology", SYMBOLOGIES, ids=lambda s: s.name)
def test_every_symbology_can_be_written_many_times(symbology):
    rng = np.random.default_rng(8)
    for _ in range(12):
        modules = write_symbol(rng, symbology).modules
        assert modules.dtype == np.uint8
        assert set(np.unique(modules)) == {0, 255}


def test_all_classes_are_covered():
    assert {s.class_id for s in SYMBOLOGIES} == set(range(len(CLASS_NAMES)))


@pytest.mark.parametrize(
    ("name", "roll"),
    [(name, roll) for name in ("QRCode", "AztecCode", "DataMatrix", "Code128") for roll in (0, 25, 180)]
    + [("PDF417", 0), ("PDF417", 180)],
)
def test_pasted_codes_lie_where_the_decoder_sees_them(name, roll):
    rng = np.random.default_rng(21)
    symbology = next(s for s in SYMBOLOGIES if s.name == name)
    symbology = replace(symbology, payload=lambda _rng: "SAYS LITTLE")
    paper = flat(520, 620, (255, 255, 255))
    code = prints.print_code(rng, write_symbol(rng, symbology), 380, plain=True)
    surface = surfaces.opaque(paper, [prints.stamp_code(paper, code, 110, 70, (0, 0, 0))])
    canvas = Canvas(flat(900, 900, (200, 200, 200)))
    pose = geometry.Pose(roll, 12, -10, 2.5)
    assert canvas.paste(np.random.default_rng(1), surface, pose, (450, 450))
    x0, y0, x1, y1 = geometry.hull_box(canvas.codes[0].outline)
    found = zxingcpp.read_barcodes(canvas.image)
    assert [CLASS_OF_FORMAT[str(f.format)] for f in found] == [symbology.class_id]
    points = corners(found[0].position)
    # The decoder rounds to whole pixels and extrapolates an Aztec code from its core: half a module of slack.
    slack = max(4, code.module / 2)
    assert (points >= (x0 - slack, y0 - slack)).all()
    assert (points <= (x1 + slack, y1 + slack)).all()
    if symbology.class_id in (1, 2):
        # The decoder reports the whole symbol of these two, so the hull must also not be too large.
        assert [*points.min(axis=0), *points.max(axis=0)] == pytest.approx([x0, y0, x1, y1], abs=12)


@pytest.mark.parametrize(
    ("outline", "expected"),
    [
        ([[10, 10], [30, 10], [30, 20], [10, 20]], (10, 10, 30, 20)),
        ([[-10, 5], [30, 5], [30, 20], [-10, 20]], (0, 5, 30, 20)),
        ([[90, 90], [140, 90], [140, 130], [90, 130]], (90, 90, 100, 100)),
    ],
)
def test_boxes_end_at_the_border(outline, expected):
    clipped = geometry.clip_outline(np.array(outline, np.float32), 100, 100)
    assert geometry.hull_box(clipped) == pytest.approx(expected)


def test_nothing_is_left_of_an_outline_beside_the_picture():
    outline = geometry.rectangle_outline(120, 5, 20, 20)
    assert len(geometry.clip_outline(outline, 100, 100)) == 0


def test_the_same_seed_gives_the_same_bytes():
    assert dataset.make_picture(5, "val", 17) == dataset.make_picture(5, "val", 17)


def test_splits_and_indices_give_other_pictures():
    pictures = {dataset.make_picture(5, split, index)[0] for split in dataset.SPLITS for index in range(2)}
    assert len(pictures) == 6


def test_the_layout_is_what_ultralytics_reads(tmp_path):
    counts = {"train": 3, "val": 2, "test": 1}
    description = dataset.write_dataset(tmp_path, 4, counts, processes=1)
    assert description.read_text().splitlines()[1:4] == [f"{s}: images/{s}" for s in dataset.SPLITS]
    for split, count in counts.items():
        pictures = sorted((tmp_path / "images" / split).iterdir())
        assert [p.name for p in pictures] == [f"{i:06d}.jpg" for i in range(count)]
        for picture in pictures:
            assert cv2.imread(str(picture)) is not None
            for line in (tmp_path / "labels" / split / f"{picture.stem}.txt").read_text().splitlines():
                number, *box = line.split()
                assert 0 <= int(number) < len(CLASS_NAMES)
                assert len(box) == 4
                assert all(0 <= float(v) <= 1 for v in box)


def test_existing_pictures_are_kept(tmp_path):
    dataset.write_dataset(tmp_path, 4, {"val": 2}, processes=1)
    kept = tmp_path / "images" / "val" / "000000.jpg"
    kept.write_bytes(b"kept")
    (tmp_path / "images" / "val" / "000001.jpg").unlink()
    dataset.write_dataset(tmp_path, 4, {"val": 2}, processes=1)
    assert kept.read_bytes() == b"kept"
    assert cv2.imread(str(tmp_path / "images" / "val" / "000001.jpg")) is not None


def test_pictures_of_another_seed_or_of_nobody_knows_what_are_refused(tmp_path):
    dataset.write_dataset(tmp_path, 4, {"val": 2}, processes=1)
    with pytest.raises(DataRefused, match=r"says seed 4.*another --work.*--adopt"):
        dataset.write_dataset(tmp_path, 5, {"val": 3}, processes=1)
    stamp = tmp_path / "generator.json"
    stamp.write_text(stamp.read_text().replace('"sources_sha256": "', '"sources_sha256": "0'))
    with pytest.raises(DataRefused, match="its sources have changed since"):
        dataset.write_dataset(tmp_path, 4, {"val": 3}, processes=1)
    stamp.unlink()
    with pytest.raises(DataRefused, match=r"there is no generator\.json"):
        dataset.write_dataset(tmp_path, 4, {"val": 3}, processes=1)
    assert len(list((tmp_path / "images/val").iterdir())) == 2
    dataset.write_dataset(tmp_path, 4, {"val": 2}, processes=1, adopt=True)
    dataset.write_dataset(tmp_path, 4, {"val": 2}, processes=1)


def test_a_later_run_draws_training_pictures_that_no_earlier_one_has_seen(tmp_path):
    dataset.write_dataset(tmp_path, 4, {"train": 2, "val": 1}, processes=1, first_train=7)
    assert sorted(p.name for p in (tmp_path / "images/train").iterdir()) == ["000007.jpg", "000008.jpg"]
    assert [p.name for p in (tmp_path / "images/val").iterdir()] == ["000000.jpg"]
    assert (tmp_path / "images/train/000008.jpg").read_bytes() == dataset.make_picture(4, "train", 8)[0]
    with pytest.raises(DataRefused, match=r"000007\.jpg"):
        dataset.write_dataset(tmp_path, 4, {"train": 2, "val": 1}, processes=1)


@pytest.mark.parametrize("adopt", [False, True])
def test_more_pictures_than_wanted_are_refused(tmp_path, adopt):
    dataset.write_dataset(tmp_path, 4, {"val": 3}, processes=1)
    with pytest.raises(DataRefused, match=r"holds 1 pictures besides the 2 .* 000002\.jpg"):
        dataset.write_dataset(tmp_path, 4, {"val": 2}, processes=1, adopt=adopt)
    (tmp_path / "images/val/000002.jpg").rename(tmp_path / "images/val/holiday.jpg")
    with pytest.raises(DataRefused, match=r"holiday\.jpg"):
        dataset.write_dataset(tmp_path, 4, {"val": 3}, processes=1, adopt=adopt)


def test_the_stamp_is_about_the_modules_that_draw_and_no_others():
    """Loaded by a process that draws: independent of how the stamp finds them."""
    program = "import sys, scripts.embedded_model.dataset; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {Path(*name.split(".")) for name in done.stdout.split() if name.startswith("scripts.embedded_model.")}
    loaded = {ROOT / path.with_suffix(".py") for path in loaded if (ROOT / path.with_suffix(".py")).exists()}
    stamped = set(data_stamp.generator_sources())
    assert stamped == loaded - {Path(data_stamp.__file__)}
    assert {"goods.py", "materials.py", "sensor.py", "payloads.py"} <= {path.name for path in stamped}


def test_the_committed_samples_are_what_the_command_draws(tmp_path):
    for drawn in samples.write_samples(tmp_path):
        committed = cv2.imread(str(ROOT / "samples" / drawn.name))
        # Other builds of OpenCV may round and compress a little differently.
        assert np.abs(cv2.imread(str(drawn)).astype(int) - committed).mean() < 1, drawn.name


def test_samples_are_small_and_show_the_codes_they_promise(tmp_path):
    paths = samples.write_samples(tmp_path)
    formats = {p.stem: {str(f.format) for f in zxingcpp.read_barcodes(cv2.imread(str(p)))} for p in paths}
    assert all(p.stat().st_size < 250_000 for p in paths)
    assert formats["negative"] == set()
    assert formats["parcel"] >= {"QR Code", "Data Matrix"}
    assert formats["screen"] == {"QR Code"}

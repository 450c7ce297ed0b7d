"""Calibration files: what is saved comes back, and everything else is refused by name."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from service.bundle.store import Bundle, load_bundle
from service.drift.calibration import (
    Calibration,
    calibrate,
    calibration_path,
    load_calibration,
    save_calibration,
)
from service.drift.features import Samples
from service.drift.layers import watch_layers
from service.errors import CalibrationUnusable


def invented_samples(bundle: Bundle, count: int, seed: int = 0) -> Samples:
    rng = np.random.default_rng(seed)
    shape = (count, bundle.probe.channels)
    return Samples(rng.normal(size=shape), np.exp(rng.normal(size=shape)), np.exp(rng.normal(size=(count, 12))))


@pytest.fixture
def copy(bundle_path: Path, tmp_path: Path) -> Bundle:
    """A bundle in a folder of its own, where a calibration may lie beside it."""
    return load_bundle(Path(shutil.copytree(bundle_path, tmp_path / "kept" / "bundle")))


@pytest.fixture
def calibration(copy: Bundle) -> Calibration:
    samples = invented_samples(copy, 128)
    return calibrate(samples, watch_layers(copy).channels, 0.02, "2026-01-02T03:04:05+00:00")


def test_there_is_none_at_first(copy: Bundle) -> None:
    assert load_calibration(copy) is None


def test_what_is_saved_comes_back(copy: Bundle, calibration: Calibration) -> None:
    path = save_calibration(calibration, copy)
    assert path == calibration_path(copy) and path.parent == copy.path.parent
    load_bundle(copy.path)  # the sealed folder was not touched
    found = load_calibration(copy)
    assert found is not None and found.created_at == calibration.created_at
    for part in ("baseline", "law", "trait_law"):
        for name, value in vars(getattr(calibration, part)).items():
            np.testing.assert_array_equal(getattr(getattr(found, part), name), value)


def test_another_one_replaces_it_and_leaves_nothing_else(copy: Bundle, calibration: Calibration) -> None:
    save_calibration(calibration, copy)
    path = save_calibration(replace(calibration, created_at="later"), copy)
    found = load_calibration(copy)
    assert found is not None and found.created_at == "later"
    assert sorted(copy.path.parent.iterdir()) == sorted([copy.path, path])


def test_the_calibration_is_of_the_pictures(copy: Bundle, calibration: Calibration) -> None:
    samples = invented_samples(copy, 128)
    assert calibration.baseline.pictures == 128 and calibration.baseline.rate == 0.02
    np.testing.assert_allclose(calibration.law.mean, samples.means.mean(0), rtol=1e-12)
    total = samples.variances.mean(0) + samples.means.var(0)
    np.testing.assert_allclose(calibration.law.variance, total, rtol=1e-12)


def test_few_or_like_pictures_are_refused(copy: Bundle) -> None:
    channels, few = watch_layers(copy).channels, invented_samples(copy, 63)
    twice = Samples(*(np.concatenate([part, part]) for part in (few.means, few.variances, few.figures)))
    for samples, count in ((few, 63), (twice, 126)):
        with pytest.raises(CalibrationUnusable, match=f"Only 63 of {count} pictures differ"):
            calibrate(samples, channels, 0.01, "")


def test_a_calibration_of_another_bundle(copy: Bundle, calibration: Calibration) -> None:
    save_calibration(calibration, copy)
    manifest = copy.manifest
    other = manifest.model_copy(update={"model": manifest.model.model_copy(update={"version": "0123456789ab"})})
    with pytest.raises(CalibrationUnusable, match=rf"belongs to bundle {manifest.model.version}, not 0123456789ab"):
        load_calibration(replace(copy, manifest=other))


def test_a_calibration_with_another_probe(copy: Bundle, calibration: Calibration) -> None:
    save_calibration(calibration, copy)
    files = copy.manifest.files
    changed = {**files, "probe.onnx": files["probe.onnx"].model_copy(update={"sha256": "0" * 64})}
    with pytest.raises(CalibrationUnusable, match="another probe"):
        load_calibration(replace(copy, manifest=copy.manifest.model_copy(update={"files": changed})))


@pytest.mark.parametrize("keep", [0, 1, 100, -200])
def test_a_damaged_file(copy: Bundle, calibration: Calibration, keep: int) -> None:
    path = save_calibration(calibration, copy)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CalibrationUnusable, match=r"cannot be read.*calibrate"):
        load_calibration(copy)


@pytest.mark.parametrize("name", ["center", "scale", "whitening", "law_mean", "law_variance", "trait_mean"])
@pytest.mark.parametrize(
    "spoil", [lambda a: a[:-1], lambda a: a.astype(np.float32), lambda a: a * np.nan, lambda a: np.array("text")]
)
def test_an_array_that_does_not_fit(copy: Bundle, calibration: Calibration, name: str, spoil: object) -> None:
    path = save_calibration(calibration, copy)
    with np.load(path) as stored:
        arrays = dict(stored)
    arrays[name] = spoil(arrays[name])
    with path.open("wb") as stream:
        np.savez(stream, **arrays)
    with pytest.raises(CalibrationUnusable, match=f"no usable {name}"):
        load_calibration(copy)


def test_a_folder_that_cannot_be_written_to(copy: Bundle, calibration: Calibration, tmp_path: Path) -> None:
    with pytest.raises(CalibrationUnusable, match="cannot be written"):
        save_calibration(calibration, replace(copy, path=tmp_path / "nowhere" / "bundle"))

"""The file that `calibrate` leaves: what is saved comes back, both parts or none, and all else is refused by name."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from service.bundle.store import Bundle, load_bundle
from service.drift.layers import watch_layers
from service.errors import CalibrationUnusable
from service.inference.calibration_file import Learnt, calibration_path, load_calibration, save_calibration
from service.lint.faults import PICTURE_FAULTS
from service.lint.signatures import fit_signatures
from tests.drift.readings import invented_calibration, invented_samples

NAMES = [fault.name for fault in PICTURE_FAULTS]
_DRIFT = ("center", "scale", "whitening", "directions", "limits", "law_mean", "law_variance", "trait_mean")


@pytest.fixture(scope="module")
def copy(bundle_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle in a folder of its own, where a calibration may lie beside it."""
    return load_bundle(Path(shutil.copytree(bundle_path, tmp_path_factory.mktemp("kept") / "bundle")))


@pytest.fixture(scope="module")
def learnt(bundle: Bundle) -> Learnt:
    features = invented_samples(bundle, 8 * len(NAMES)).features(watch_layers(bundle).channels)
    ridge = lambda samples: samples.T @ samples / len(samples) + np.eye(samples.shape[1])  # noqa: E731
    signatures = fit_signatures(features.reshape(8, len(NAMES), -1), NAMES, ridge, np.random.default_rng(0))
    return Learnt(invented_calibration(bundle), signatures)


def test_there_is_none_at_first(copy: Bundle) -> None:
    calibration_path(copy).unlink(missing_ok=True)
    assert load_calibration(copy) is None


def test_what_is_saved_comes_back(copy: Bundle, learnt: Learnt) -> None:
    path = save_calibration(learnt, copy)
    assert path == calibration_path(copy) and path.parent == copy.path.parent
    load_bundle(copy.path)  # the sealed folder was not touched
    found = load_calibration(copy)
    assert found is not None and found.drift.created_at == learnt.drift.created_at
    for part in ("baseline", "law", "trait_law"):
        for name, value in vars(getattr(learnt.drift, part)).items():
            np.testing.assert_array_equal(getattr(getattr(found.drift, part), name), value)
    for name, value in vars(learnt.faults).items():
        if name != "confusion":
            np.testing.assert_array_equal(getattr(found.faults, name), value)
    assert list(found.faults.confusion) == list(learnt.faults.confusion) == [1, 8]
    for size, shares in learnt.faults.confusion.items():
        np.testing.assert_array_equal(found.faults.confusion[size], shares)


def test_one_file_holds_both_parts_so_that_none_is_ever_of_another_run(copy: Bundle, learnt: Learnt) -> None:
    save_calibration(learnt, copy)
    later = Learnt(replace(learnt.drift, created_at="later"), replace(learnt.faults, temperature=7.0))
    path = save_calibration(later, copy)
    found = load_calibration(copy)
    assert found is not None and (found.drift.created_at, found.faults.temperature) == ("later", 7.0)
    assert sorted(copy.path.parent.iterdir()) == sorted([copy.path, path])


def test_what_was_learnt_with_another_model(copy: Bundle, learnt: Learnt) -> None:
    save_calibration(learnt, copy)
    manifest = copy.manifest
    other = manifest.model_copy(update={"model": manifest.model.model_copy(update={"version": "0123456789ab"})})
    with pytest.raises(CalibrationUnusable, match=rf"belongs to bundle {manifest.model.version}, not 0123456789ab"):
        load_calibration(replace(copy, manifest=other))


def test_what_was_learnt_with_another_probe(copy: Bundle, learnt: Learnt) -> None:
    save_calibration(learnt, copy)
    files = copy.manifest.files
    changed = {**files, "probe.onnx": files["probe.onnx"].model_copy(update={"sha256": "0" * 64})}
    with pytest.raises(CalibrationUnusable, match="another probe"):
        load_calibration(replace(copy, manifest=copy.manifest.model_copy(update={"files": changed})))


@pytest.mark.parametrize("keep", [0, 1, 100, -200])
def test_a_damaged_file(copy: Bundle, learnt: Learnt, keep: int) -> None:
    path = save_calibration(learnt, copy)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CalibrationUnusable, match=r"cannot be read.*calibrate"):
        load_calibration(copy)


def change(path: Path, name: str, spoil: Callable[[np.ndarray], np.ndarray]) -> None:
    with np.load(path) as stored:
        arrays = dict(stored)
    arrays[name] = spoil(arrays[name])
    with path.open("wb") as stream:
        np.savez(stream, **arrays)


@pytest.mark.parametrize(
    "name",
    [
        *(f"drift/{part}" for part in _DRIFT),
        *(f"faults/{part}" for part in ("centers", "scale", "precision", "confusion_1", "confusion_8")),
    ],
)
@pytest.mark.parametrize(
    "spoil", [lambda a: a[:-1], lambda a: a.astype(np.float32), lambda a: a * np.nan, lambda a: np.array("text")]
)
def test_an_array_that_does_not_fit(copy: Bundle, learnt: Learnt, name: str, spoil: object) -> None:
    path = save_calibration(learnt, copy)
    change(path, name, spoil)
    with pytest.raises(CalibrationUnusable, match=f"no usable {name}.*calibrate"):
        load_calibration(copy)


def test_a_precision_that_is_none(copy: Bundle, learnt: Learnt) -> None:
    path = save_calibration(learnt, copy)
    change(path, "faults/precision", lambda precision: -precision)
    with pytest.raises(CalibrationUnusable, match="not positive definite"):
        load_calibration(copy)


def test_pickled_arrays_are_never_loaded(copy: Bundle, learnt: Learnt) -> None:
    path = save_calibration(learnt, copy)
    change(path, "faults/centers", lambda _: np.array([{"a": 1}], object))
    with pytest.raises(CalibrationUnusable, match="cannot be read"):
        load_calibration(copy)


@pytest.mark.parametrize(
    ("part", "figures", "words"),
    [
        ("faults", {"names": ["none", "upside_down"]}, "knows the faults none, upside_down"),
        ("faults", {"groups": [8]}, r"in groups of \[8\]"),
        ("faults", {"groups": [1, 8, 32]}, "holds the arrays"),
        ("faults", {"near": 0.0}, "cannot be read"),
        ("drift", {"window": 16}, "another probe or window"),
        ("drift", {"faults": ["one fault"]}, "no usable drift/directions"),
    ],
)
def test_figures_that_do_not_fit(copy: Bundle, learnt: Learnt, part: str, figures: dict, words: str) -> None:
    def spoil(spec: np.ndarray) -> np.ndarray:
        document = json.loads(str(spec))
        document[part] |= figures
        return np.array(json.dumps(document))

    path = save_calibration(learnt, copy)
    change(path, "spec", spoil)
    with pytest.raises(CalibrationUnusable, match=words):
        load_calibration(copy)


def test_a_file_of_another_release_is_refused_and_says_so(copy: Bundle, learnt: Learnt) -> None:
    def age(spec: np.ndarray) -> np.ndarray:
        document = json.loads(str(spec)) | {"schema_version": 2}
        del document["drift"]["faults"]
        return np.array(json.dumps(document))

    change(save_calibration(learnt, copy), "spec", age)
    with pytest.raises(CalibrationUnusable, match=r"format of another release; this one reads 4\. Delete it, or run"):
        load_calibration(copy)


def test_a_folder_that_cannot_be_written_to(copy: Bundle, learnt: Learnt, tmp_path: Path) -> None:
    with pytest.raises(CalibrationUnusable, match="cannot be written"):
        save_calibration(learnt, replace(copy, path=tmp_path / "nowhere" / "bundle"))

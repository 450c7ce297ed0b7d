"""Bundles on disk: whole ones load, and every way of not being whole has its own error."""

import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from service.bundle import store
from service.errors import (
    BundleCorrupt,
    BundleDirUnusable,
    BundleError,
    BundleIncomplete,
    BundleMissing,
    BundleSchemaError,
    BundleUncertified,
)
from tests.bundles import rehash, rewrite


@pytest.fixture
def copy(bundle_path: Path, tmp_path: Path) -> Path:
    """A bundle of our own to spoil."""
    return Path(shutil.copytree(bundle_path, tmp_path / "bundle"))


def test_a_whole_bundle_loads(copy: Path) -> None:
    bundle = store.load_bundle(copy)
    layer = bundle.batchnorm.layers[0]
    arrays = bundle.batchnorm_arrays(layer.name, ("gamma", "scale"))
    assert arrays["gamma"].shape == arrays["scale"].shape == (layer.channels,)
    assert arrays["gamma"].dtype == np.float32
    assert bundle.deployed_graph.is_file() and bundle.reference_graph.is_file()


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(BundleMissing, match="prepare"):
        store.load_bundle(tmp_path / "nothing")


@pytest.mark.parametrize("file", sorted(store.REQUIRED))
def test_a_missing_file(copy: Path, file: str) -> None:
    (copy / file).unlink()
    with pytest.raises(BundleIncomplete, match=file):
        store.load_bundle(copy)


def test_a_missing_manifest(copy: Path) -> None:
    (copy / store.MANIFEST).unlink()
    with pytest.raises(BundleMissing):
        store.load_bundle(copy)


@pytest.mark.parametrize("file", sorted(store.REQUIRED))
def test_one_changed_byte(copy: Path, file: str) -> None:
    data = bytearray((copy / file).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / file).write_bytes(data)
    with pytest.raises(BundleCorrupt, match=file):
        store.load_bundle(copy)


@pytest.mark.parametrize("file", sorted(store.REQUIRED))
def test_a_truncated_file(copy: Path, file: str) -> None:
    data = (copy / file).read_bytes()
    (copy / file).write_bytes(data[: len(data) // 2])
    with pytest.raises(BundleCorrupt, match=file):
        store.load_bundle(copy)


def test_a_surplus_file(copy: Path) -> None:
    (copy / "model.onnx.data").write_bytes(b"weights from elsewhere")
    with pytest.raises(BundleIncomplete, match=r"model\.onnx\.data"):
        store.load_bundle(copy)


def test_a_link_in_place_of_a_file(copy: Path, tmp_path: Path) -> None:
    shutil.move(copy / store.DEPLOYED, tmp_path / "elsewhere.onnx")
    (copy / store.DEPLOYED).symlink_to(tmp_path / "elsewhere.onnx")
    with pytest.raises(BundleCorrupt, match="regular file"):
        store.load_bundle(copy)


def test_a_manifest_that_does_not_list_a_required_file(copy: Path) -> None:
    rewrite(copy, store.MANIFEST, lambda m: m["files"].pop(store.LATENCY))
    with pytest.raises(BundleIncomplete):
        store.load_bundle(copy)


@pytest.mark.parametrize(
    "file",
    [
        store.MANIFEST,
        store.BN_STATS,
        store.HEALTH,
        store.LAYERS,
        store.LATENCY,
        store.CERTIFICATE,
        store.SELF_CHECK,
        store.PROBE,
    ],
)
def test_another_schema_version(copy: Path, file: str) -> None:
    rewrite(copy, file, lambda document: document.update(schema_version=99))
    with pytest.raises(BundleSchemaError, match="schema_version"):
        store.load_bundle(copy)


def test_a_bundle_from_before_there_was_a_health_report(copy: Path) -> None:
    (copy / store.HEALTH).unlink()
    rewrite(copy, store.MANIFEST, lambda m: m["files"].pop(store.HEALTH))
    with pytest.raises(BundleIncomplete, match=r"bn_health\.json\. Prepare it again"):
        store.load_bundle(copy)


def test_a_manifest_that_is_not_json(copy: Path) -> None:
    (copy / store.MANIFEST).write_text("{")
    with pytest.raises(BundleSchemaError):
        store.load_bundle(copy)


def test_a_certificate_that_failed(copy: Path) -> None:
    rewrite(copy, store.CERTIFICATE, lambda c: c.update(passed=False))
    with pytest.raises(BundleUncertified):
        store.load_bundle(copy)


def test_a_certificate_of_other_weights(copy: Path) -> None:
    rewrite(copy, store.CERTIFICATE, lambda c: c.update(checkpoint_sha256="0" * 64))
    with pytest.raises(BundleUncertified):
        store.load_bundle(copy)


def overshoot(part: str) -> Callable[[dict], None]:
    """Leave every verdict on "passed" but put one figure over its bound."""

    def change(certificate: dict) -> None:
        if part == "layers":
            certificate["layers"][3]["relative_error"] = certificate["layers"][3]["tolerance"] * 1.01
        else:
            certificate["end_to_end"][0]["raw_relative_error"] = certificate["end_to_end_tolerance"] * 1.01

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c["layers"][3].update(passed=False), "it failed on model."),
        (lambda c: c["end_to_end"][0].update(passed=False), "it failed on bus.jpg"),
        (overshoot("layers"), "it failed on model."),
        (overshoot("end_to_end"), "it failed on bus.jpg"),
        (lambda c: c["layers"].pop(3), "not the layers that were folded"),
        (lambda c: c["layers"][3].update(conv="model.0.conv"), "not the layers that were folded"),
        (lambda c: c.update(end_to_end=[]), "no end-to-end proof"),
        (lambda c: c["layers"][3].update(relative_error=float("nan")), "it failed on model."),
        (lambda c: c["end_to_end"][0].update(raw_relative_error=float("nan")), "it failed on bus.jpg"),
        (lambda c: c["end_to_end"][0].update(matched=c["end_to_end"][0]["detections"] - 1), "it failed on bus.jpg"),
        (lambda c: c["end_to_end"][0].update(extra=1), "it failed on bus.jpg"),
        (lambda c: c["layers"][3].update(relative_error=0.1, tolerance=0.2), "not the one that float32 allows"),
        (lambda c: c.update(end_to_end_tolerance=0.5), "the whole network is not the one that float32 allows"),
        (lambda c: c.update(comparison_threshold=0.99), "it compares boxes from a confidence of 0.99 on only"),
        (lambda c: c["layers"][3].update(tolerance=c["layers"][3]["relative_error"] / 2), "it failed on model."),
        (lambda c: c["layers"][3].update(relative_error=-1e-9), "figures for model.* contradict each other"),
        (lambda c: c["layers"][3].update(relative_error=0.0), "figures for model.* contradict each other"),
        (lambda c: c["layers"][3].update(max_abs_error=float("nan")), "figures for model.* contradict each other"),
        (lambda c: c["end_to_end"][0].update(raw_max_abs_error=0.0), "figures for bus.jpg contradict each other"),
        (lambda c: c["end_to_end"][0].update(max_box_error_px=-1.0), "figures for bus.jpg contradict each other"),
        (
            lambda c: c["end_to_end"][0].update(detections=-2, matched=-2),
            "figures for bus.jpg contradict each other",
        ),
        (
            lambda c: c.update(end_to_end=[p for p in c["end_to_end"] if p["kind"] == "noise"]),
            "no end-to-end proof on a picture",
        ),
        (
            lambda c: c["unfoldable"].append({"name": "model.0.bn", "reason": "it is"}),
            "it calls unfoldable are not those that were left",
        ),
    ],
)
def test_a_certificate_is_read_not_believed(copy: Path, change: Callable[[dict], None], says: str) -> None:
    rewrite(copy, store.CERTIFICATE, change)
    with pytest.raises(BundleUncertified, match=says):
        store.load_bundle(copy)


def test_the_picture_of_the_self_check_is_small_and_as_the_bundle_says(copy: Path) -> None:
    bundle = store.load_bundle(copy)
    image, rows = bundle.self_check_arrays()
    side = bundle.manifest.model.input.height
    assert (image.shape, image.dtype) == ((side, side, 3), np.uint8)
    assert rows.shape == (bundle.self_check.rows, 6) and rows.dtype == np.float64
    assert (rows[:, 4] > bundle.self_check.threshold).all() and (np.diff(rows[:, 4]) <= 0).all()
    assert (copy / store.SELF_CHECK_ARRAYS).stat().st_size < 0.25 * image.nbytes


def write_arrays(path: Path, **arrays: np.ndarray) -> None:
    with path.open("wb") as stream:
        np.savez_compressed(stream, **arrays)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path, image, rows: path.write_bytes(b""),
        lambda path, image, rows: path.write_bytes(b"not an archive"),
        lambda path, image, rows: path.write_bytes(path.read_bytes()[:-200]),
        lambda path, image, rows: np.save(path.open("wb"), image),
        lambda path, image, rows: write_arrays(path, image=image),
        lambda path, image, rows: write_arrays(path, image=image, rows=rows[:-1]),
        lambda path, image, rows: write_arrays(path, image=image, rows=rows.astype(np.float32)),
        lambda path, image, rows: write_arrays(path, image=image[:-1], rows=rows),
        lambda path, image, rows: write_arrays(path, image=image.astype(np.float32), rows=rows),
        lambda path, image, rows: write_arrays(path, image=image, rows=np.array([print, None])),
    ],
)
def test_self_check_arrays_that_are_something_else(copy: Path, spoil: Callable[..., None]) -> None:
    path = copy / store.SELF_CHECK_ARRAYS
    spoil(path, *store.load_bundle(copy).self_check_arrays())
    rehash(copy, store.SELF_CHECK_ARRAYS)
    with pytest.raises(BundleSchemaError, match=r"self_check\.npz"):
        store.load_bundle(copy).self_check_arrays()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: s.update(box_tolerance_px=100.0), "a tolerance of 100 does not belong to a rounding of"),
        (lambda s: s.update(score_tolerance=2 * s["score_tolerance"]), "does not belong to a rounding of"),
        (lambda s: s.update(rounding_box_px=float("nan")), "does not belong to a rounding of"),
        (lambda s: s.update(rows=0), "either boxes are stored or the highest confidence is"),
        (lambda s: s.update(highest_confidence=0.5), "either boxes are stored or the highest confidence is"),
        (lambda s: s.update(threshold=1.5), "is no threshold"),
    ],
)
def test_a_self_check_that_contradicts_itself(copy: Path, change: Callable[[dict], None], says: str) -> None:
    rewrite(copy, store.SELF_CHECK, change)
    with pytest.raises(BundleSchemaError, match=rf"self_check\.json.*{says}"):
        store.load_bundle(copy)


def test_stored_boxes_below_the_threshold_or_of_no_number_are_refused(copy: Path) -> None:
    image, rows = store.load_bundle(copy).self_check_arrays()
    for column, value in ((4, 0.0), (0, np.nan)):
        spoilt = rows.copy()
        spoilt[-1, column] = value
        write_arrays(copy / store.SELF_CHECK_ARRAYS, image=image, rows=spoilt)
        rehash(copy, store.SELF_CHECK_ARRAYS)
        with pytest.raises(BundleSchemaError, match=r"self_check\.npz holds boxes that are not above"):
            store.load_bundle(copy).self_check_arrays()


def test_a_damaged_array_inside_the_archive(copy: Path) -> None:
    path = copy / store.SELF_CHECK_ARRAYS
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 0xFF
    path.write_bytes(data)
    rehash(copy, store.SELF_CHECK_ARRAYS)
    with pytest.raises(BundleSchemaError, match=r"self_check\.npz"):
        store.load_bundle(copy).self_check_arrays()


def test_a_bundle_of_a_release_without_the_self_check(copy: Path) -> None:
    for file in (store.SELF_CHECK, store.SELF_CHECK_ARRAYS):
        (copy / file).unlink()
        rewrite(copy, store.MANIFEST, lambda m, file=file: m["files"].pop(file))
    with pytest.raises(BundleIncomplete, match=r"self_check\.json, self_check\.npz.*Prepare it again"):
        store.load_bundle(copy)


def test_a_bundle_of_a_release_without_the_probe(copy: Path) -> None:
    for file in (store.PROBE, store.PROBE_GRAPH):
        (copy / file).unlink()
        rewrite(copy, store.MANIFEST, lambda m, file=file: m["files"].pop(file))
    with pytest.raises(BundleIncomplete, match=r"probe\.json, probe\.onnx.*Prepare it again"):
        store.load_bundle(copy)


@pytest.mark.parametrize(
    "change",
    [
        {"batch_norm": "model.0.norm"},
        {"conv": "model.1.conv"},
        {"channels": 15},
        {"feature_channels": [0, 16]},
        {"feature_channels": [-1]},
    ],
)
def test_a_probe_of_another_network(copy: Path, change: dict) -> None:
    rewrite(copy, store.PROBE, lambda document: document["layers"][0].update(change))
    with pytest.raises(BundleSchemaError, match=r"probe\.json.*model\.0"):
        store.load_bundle(copy)


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), store.bundle_writer(tmp_path, "auto-640-auto-x") as folder:
        (folder / store.MANIFEST).write_text("{}")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_an_unfinished_folder_is_never_found(tmp_path: Path) -> None:
    with store.bundle_writer(tmp_path, "auto-640-auto-x") as folder:
        (folder / store.MANIFEST).write_text("{}")
        assert store.find_bundle(tmp_path, "auto-640-auto") is None
    found = store.find_bundle(tmp_path, "auto-640-auto")
    assert found is not None and found.name == "auto-640-auto-x"


def test_of_several_bundles_the_one_made_last_is_found_also_in_a_copy(tmp_path: Path) -> None:
    for age, (version, made) in enumerate({"b": "2026-11-30T10:00:00+00:00", "a": "2026-11-30T09:00:00+00:00"}.items()):
        with store.bundle_writer(tmp_path, f"auto-640-auto-{version}") as folder:
            (folder / store.MANIFEST).write_text(json.dumps({"created_at": made}))
        os.utime(tmp_path / f"auto-640-auto-{version}", (age, age))  # the older one was copied last
    assert store.find_bundle(tmp_path, "auto-640-auto") == tmp_path / "auto-640-auto-b"


def test_bundles_of_one_name_that_are_finished_at_once_replace_each_other(tmp_path: Path) -> None:
    def write(writer: int) -> None:
        for _ in range(100):
            with store.bundle_writer(tmp_path, "auto-640-auto-x") as folder:
                for part in ("a", "b"):
                    (folder / part).write_text(str(writer))

    with ThreadPoolExecutor(4) as writers:
        list(writers.map(write, range(4)))
    assert [path.name for path in tmp_path.iterdir()] == ["auto-640-auto-x"]
    assert (tmp_path / "auto-640-auto-x/a").read_text() == (tmp_path / "auto-640-auto-x/b").read_text()


def test_a_link_to_a_bundle_elsewhere_is_replaced_and_what_it_leads_to_is_left(tmp_path: Path) -> None:
    (elsewhere := tmp_path / "elsewhere").mkdir()
    (root := tmp_path / "bundles").mkdir()
    (root / "auto-640-auto-x").symlink_to(elsewhere)
    with store.bundle_writer(root, "auto-640-auto-x") as folder:
        (folder / "new").touch()
    assert [path.name for path in root.iterdir()] == ["auto-640-auto-x"] and (root / "auto-640-auto-x/new").exists()
    assert not (root / "auto-640-auto-x").is_symlink() and list(elsewhere.iterdir()) == []


def test_a_bundle_folder_may_be_named_directly(bundle_path: Path) -> None:
    assert store.find_bundle(bundle_path, "anything") == bundle_path


def test_a_bundle_replaces_the_one_of_the_same_name(tmp_path: Path) -> None:
    for content in ("old", "new"):
        with store.bundle_writer(tmp_path, "auto-640-auto-x") as folder:
            (folder / store.MANIFEST).write_text(content)
    assert (tmp_path / "auto-640-auto-x" / store.MANIFEST).read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["auto-640-auto-x"]


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BundleDirUnusable, match="YOLOFOLD_BUNDLE_DIR"):
        store.require_writable(tmp_path / "file")


def test_what_a_killed_preparation_left_is_cleared_after_a_day(tmp_path: Path) -> None:
    old, recent = tmp_path / ".partial-old", tmp_path / ".partial-recent"
    old.mkdir()
    recent.mkdir()
    os.utime(old, (0, 0))
    store.require_writable(tmp_path)
    assert recent.exists() and not old.exists()


def test_two_names_that_look_alike_do_not_share_a_key() -> None:
    keys = {store.bundle_key(name, 640, "auto") for name in ("a b.pt", "a_b.pt", "é.pt", "ü.pt", "x/a_b.pt")}
    assert len(keys) == 5


def test_one_file_has_one_key_however_it_is_spelt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    spellings = ("best.pt", "./best.pt", str(tmp_path / "best.pt"))
    assert len({store.bundle_key(name, 640, "auto") for name in spellings}) == 1


def test_what_a_link_leads_to_does_not_matter(tmp_path: Path) -> None:
    """A server may not see the target that the preparation saw, and a link turned elsewhere changes no name."""
    link = tmp_path / "best.pt"
    before = store.bundle_key(str(link), 640, "auto")
    (tmp_path / "run.pt").write_bytes(b"weights")
    link.symlink_to("run.pt")
    assert store.bundle_key(str(link), 640, "auto") == before


def test_a_bundle_is_no_folder_to_keep_bundles_in(copy: Path) -> None:
    before = sorted(copy.iterdir())
    with pytest.raises(BundleDirUnusable, match="is a bundle itself"):
        store.require_writable(copy)
    assert sorted(copy.iterdir()) == before


def test_two_paths_with_the_same_file_name_do_not_share_a_key() -> None:
    assert store.bundle_key("a/best.pt", 640, "auto") != store.bundle_key("b/best.pt", 640, "auto")
    assert "/" not in store.bundle_key("../a b/best.pt", 640, "auto")


def test_every_bundle_error_is_one_tree() -> None:
    kinds = (BundleMissing, BundleIncomplete, BundleCorrupt, BundleSchemaError, BundleUncertified)
    assert all(issubclass(kind, BundleError) for kind in kinds)


def test_bundles_of_other_default_confidences_are_other_bundles(tmp_path: Path) -> None:
    confidences = (None, 0.0, 0.3, 0.31, 0.25, 0.250000001)
    names = {conf: f"{store.bundle_key('auto', 640, 'auto', conf)}-x" for conf in confidences}
    assert len(set(names.values())) == len(confidences)
    assert names[None] == "auto-640-auto-x"
    for name in names.values():
        with store.bundle_writer(tmp_path, name) as folder:
            (folder / store.MANIFEST).write_text("{}")
    for conf, name in names.items():
        found = store.find_bundle(tmp_path, store.bundle_key("auto", 640, "auto", conf))
        assert found == tmp_path / name


@pytest.mark.parametrize("weights", ["auto", "embedded", "yolo26n.pt", "/some/where/my best-model (2).pt"])
@pytest.mark.parametrize("head", ["auto", "one2one", "one2many"])
@pytest.mark.parametrize("confidence", [None, 0.0, 0.3, 1e-5])
def test_a_name_that_serving_might_find_is_known_as_such(weights: str, head: str, confidence: float | None) -> None:
    assert store.is_settings_name(f"{store.bundle_key(weights, 640, head, confidence)}-32ffe45519d7")


@pytest.mark.parametrize("name", ["night", "yolo26n_codes_recalibrated_061b1bd530ba", "camera-7", "auto-640"])
def test_other_names_are_found_by_nobody(name: str, tmp_path: Path) -> None:
    assert not store.is_settings_name(name)
    (tmp_path / name).mkdir()
    for weights in ("auto", "embedded", name):
        for head in ("auto", "one2one", "one2many"):
            assert store.find_bundle(tmp_path, store.bundle_key(weights, 640, head)) is None


def test_a_scratch_folder_is_no_bundle_and_goes_away(tmp_path: Path) -> None:
    with store.scratch_folder(tmp_path) as folder:
        (folder / "some.npy").write_bytes(b"")
        assert folder.parent == tmp_path and store.bundle_names(tmp_path) == []
    assert list(tmp_path.iterdir()) == []

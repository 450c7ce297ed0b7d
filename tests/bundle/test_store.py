"""Bundles on disk: whole ones load, and every way of not being whole has its own error."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from service.bundle import store
from service.bundle.manifest import FileRecord
from service.errors import (
    BundleCorrupt,
    BundleDirUnusable,
    BundleError,
    BundleIncomplete,
    BundleMissing,
    BundleSchemaError,
    BundleUncertified,
)


@pytest.fixture
def copy(bundle_path: Path, tmp_path: Path) -> Path:
    """A bundle of our own to spoil."""
    return Path(shutil.copytree(bundle_path, tmp_path / "bundle"))


def rewrite(folder: Path, file: str, change: Callable[[dict], None]) -> None:
    """Change a JSON file and record its new hash, so that only the change itself can be at fault."""
    document = json.loads((folder / file).read_text())
    change(document)
    (folder / file).write_text(json.dumps(document))
    if file != store.MANIFEST:
        record = FileRecord(sha256=store.sha256_file(folder / file), bytes=(folder / file).stat().st_size)
        rewrite(folder, store.MANIFEST, lambda m: m["files"].update({file: record.model_dump()}))


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
    "file", [store.MANIFEST, store.BN_STATS, store.HEALTH, store.LAYERS, store.LATENCY, store.CERTIFICATE]
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


def test_two_paths_with_the_same_file_name_do_not_share_a_key() -> None:
    assert store.bundle_key("a/best.pt", 640, "auto") != store.bundle_key("b/best.pt", 640, "auto")
    assert "/" not in store.bundle_key("../a b/best.pt", 640, "auto")


def test_every_bundle_error_is_one_tree() -> None:
    kinds = (BundleMissing, BundleIncomplete, BundleCorrupt, BundleSchemaError, BundleUncertified)
    assert all(issubclass(kind, BundleError) for kind in kinds)

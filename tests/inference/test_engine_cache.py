"""What is kept between starts is whole or not there, and never taken for a bundle."""

import logging
import os
from pathlib import Path

import pytest

from service.bundle.store import bundle_names, find_bundle
from service.errors import EngineError
from service.inference.engine_cache import cache_folder, open_cached


class Runtime:
    """Stands for one that builds where it finds nothing, as TensorRT does."""

    def __init__(self, *, broken: bool = False) -> None:
        self.built, self._broken = 0, broken

    def __call__(self, folder: Path | None) -> str:
        kept = None if folder is None else folder / "graph.engine"
        if kept is not None and kept.exists():
            if kept.read_text() != "engine":
                raise EngineError("it cannot be deserialized")
            return "kept"
        self.built += 1
        if kept is not None:
            kept.write_text("engi")
            if self._broken:
                raise EngineError("out of memory")
            kept.write_text("engine")
        return "built"


def test_what_was_built_is_kept(tmp_path: Path) -> None:
    folder, runtime = cache_folder(tmp_path, "tensorrt", {"graph": "a"}), Runtime()
    assert [open_cached(folder, runtime) for _ in range(3)] == ["built", "kept", "kept"]
    assert runtime.built == 1 and list(tmp_path.iterdir()) == [folder]


def test_a_build_that_fails_leaves_nothing(tmp_path: Path) -> None:
    folder = cache_folder(tmp_path, "tensorrt", {"graph": "a"})
    with pytest.raises(EngineError, match="out of memory"):
        open_cached(folder, Runtime(broken=True))
    assert list(tmp_path.iterdir()) == []
    assert open_cached(folder, Runtime()) == "built"


def test_what_is_damaged_is_built_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder, runtime = cache_folder(tmp_path, "tensorrt", {"graph": "a"}), Runtime()
    open_cached(folder, runtime)
    (folder / "graph.engine").write_text("eng")
    with caplog.at_level(logging.WARNING):
        assert open_cached(folder, runtime) == "built"
    assert "built anew" in caplog.text and "cannot be deserialized" in caplog.text
    assert open_cached(folder, runtime) == "kept"


def test_what_cannot_be_loaded_stays_until_something_else_was_built(tmp_path: Path) -> None:
    folder, runtime = cache_folder(tmp_path, "tensorrt", {"graph": "a"}), Runtime()
    open_cached(folder, runtime)

    def out_of_memory(_: Path | None) -> str:
        raise EngineError("out of memory")

    with pytest.raises(EngineError, match="out of memory"):
        open_cached(folder, out_of_memory)
    assert list(tmp_path.iterdir()) == [folder]
    assert open_cached(folder, runtime) == "kept" and runtime.built == 1


def test_where_nothing_can_be_kept_each_start_builds_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    no_folder = tmp_path / "file"
    no_folder.touch()
    folder, runtime = cache_folder(no_folder, "tensorrt", {"graph": "a"}), Runtime()
    with caplog.at_level(logging.WARNING):
        assert [open_cached(folder, runtime) for _ in range(2)] == ["built", "built"]
    assert "YOLOFOLD_STATE_DIR" in caplog.text


@pytest.mark.parametrize("name", ["", "graph.engine"])
def test_what_others_may_write_to_is_neither_loaded_nor_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    folder, runtime = cache_folder(tmp_path, "tensorrt", {"graph": "a"}), Runtime()
    open_cached(folder, runtime)
    path = folder / name
    for mode in (0o020, 0o002):
        path.chmod(path.stat().st_mode | mode)
        with caplog.at_level(logging.WARNING):
            assert open_cached(folder, runtime) == "built"
        assert f"{path.name} is a link, or others may write to it" in caplog.text
        path.chmod(path.stat().st_mode & ~mode)
    assert open_cached(folder, runtime) == "kept"
    assert list(tmp_path.iterdir()) == [folder]


def test_a_link_to_a_folder_of_engines_is_not_followed(tmp_path: Path) -> None:
    folder, runtime = cache_folder(tmp_path, "tensorrt", {"graph": "a"}), Runtime()
    elsewhere = tmp_path / "elsewhere"
    open_cached(elsewhere, runtime)
    folder.symlink_to(elsewhere)
    assert open_cached(folder, runtime) == "built"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_engines_of_another_user_are_not_loaded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder, runtime = cache_folder(tmp_path, "tensorrt", {"graph": "a"}), Runtime()
    open_cached(folder, runtime)
    os.chown(folder / "graph.engine", 1234, -1)
    with caplog.at_level(logging.WARNING):
        assert open_cached(folder, runtime) == "built"
    assert "graph.engine belongs to another user" in caplog.text


def test_what_is_kept_is_trusted_whatever_the_umask(tmp_path: Path) -> None:
    folder, runtime = cache_folder(tmp_path, "tensorrt", {"graph": "a"}), Runtime()
    before = os.umask(0o002)
    try:
        open_cached(folder, runtime)
    finally:
        os.umask(before)
    assert open_cached(folder, runtime) == "kept"


def test_any_difference_has_a_folder_of_its_own_and_none_is_a_bundle(tmp_path: Path) -> None:
    parts = {"graph": "a", "gpu": "A100, 8.0", "driver": "580", "onnxruntime": "1.31.1", "tensorrt": 101303, "batch": 1}
    folders = {cache_folder(tmp_path, "tensorrt", parts)}
    for name in parts:
        folders.add(cache_folder(tmp_path, "tensorrt", parts | {name: "other"}))
    assert len(folders) == 1 + len(parts)
    for folder in folders:
        open_cached(folder, Runtime())
    assert bundle_names(tmp_path) == []
    for key in ("auto-640-auto", "embedded-640-auto", "tensorrt-640-auto"):
        assert find_bundle(tmp_path, key) is None

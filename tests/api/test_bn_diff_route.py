"""``GET /model/bn-diff`` over a real socket, with a bundle, its copy and a damaged copy in one folder."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.bundle.store import Bundle
from tests.api.serving import Serving, assert_problem, serving

PATH = "/model/bn-diff"


@pytest.fixture(scope="module")
def kept(faulty_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("kept")
    for name in ("copy-128-auto-0", "damaged-128-auto-0"):
        shutil.copytree(faulty_bundle.path, root / name)
    (root / "damaged-128-auto-0" / "bn_stats.json").write_text("{}")
    (root / "empty").mkdir()
    shutil.copytree(faulty_bundle.path, root / ".partial-x")
    return root


@pytest.fixture(scope="module")
def server(kept: Path, bundle: Bundle) -> Iterator[Serving]:
    with serving(bundle, bundle_dir=kept, workers=1, threads=1) as running:
        yield running


def test_another_network_is_compared_layer_by_layer(server: Serving, bundle: Bundle, faulty_bundle: Bundle) -> None:
    response = server.client.get(PATH, params={"other": "copy-128-auto-0"})
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer["first"].endswith(faulty_bundle.manifest.model.version)
    assert answer["second"].endswith(bundle.manifest.model.version)
    theirs = {layer.name: layer.channels for layer in faulty_bundle.batchnorm.layers}
    same = [layer.name for layer in bundle.batchnorm.layers if theirs.get(layer.name) == layer.channels]
    assert sorted(layer["name"] for layer in answer["layers"]) == sorted(same)
    assert answer["verdicts"] and all(verdict["message"] for verdict in answer["verdicts"])


def test_a_bundle_is_identical_to_its_copy(kept: Path, faulty_bundle: Bundle) -> None:
    with serving(faulty_bundle, bundle_dir=kept, workers=1, threads=1) as server:
        answer = server.client.get(PATH, params={"other": "copy-128-auto-0"}).json()
    assert [verdict["code"] for verdict in answer["verdicts"]] == ["identical"]


@pytest.mark.parametrize("name", ["none", "", "empty", ".partial-x", "../kept0/copy-128-auto-0", "/etc", "x" * 5000])
def test_only_bundles_kept_here_are_opened(server: Serving, name: str) -> None:
    document = assert_problem(server.client.get(PATH, params={"other": name}), 404, "bundle-not-found", field="other")
    assert document["detail"].endswith("Kept here: copy-128-auto-0, damaged-128-auto-0.")


def test_a_damaged_bundle_is_refused_without_naming_paths(server: Serving, kept: Path) -> None:
    response = server.client.get(PATH, params={"other": "damaged-128-auto-0"})
    assert "BundleCorrupt" in assert_problem(response, 409, "bundle-unusable", field="other")["detail"]
    assert str(kept) not in response.text


def test_the_other_bundle_has_to_be_named(server: Serving) -> None:
    assert_problem(server.client.get(PATH), 422, "invalid-parameter", field="other")
    assert_problem(server.client.get(PATH, params={"othr": "x"}), 422, "unknown-parameter", field="othr")

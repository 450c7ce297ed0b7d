"""The arms in ONNX Runtime: what each one really runs."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from service.bundle.store import Bundle
from service.errors import MeasurementRefused
from service.measurement import runtime_arms
from service.measurement.runtime_arms import count_batch_normalization, open_session, random_images, require_unfolded
from tests.tiny_network import SIZE, Nets


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> Nets:
    return Nets(tmp_path_factory.mktemp("nets"))


def ops(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(str(path)).graph.node]


def test_the_files_are_what_the_other_tests_take_them_for(nets: Nets) -> None:
    assert (count_batch_normalization(nets.reference), count_batch_normalization(nets.deployed)) == (2, 0)


def test_nodes_are_counted_as_onnx_counts_them(bundle: Bundle) -> None:
    for path, spec in (
        (bundle.reference_graph, bundle.manifest.reference),
        (bundle.deployed_graph, bundle.manifest.deployed),
    ):
        assert (
            count_batch_normalization(path) == ops(path).count("BatchNormalization") == spec.batch_normalization_nodes
        )


@pytest.mark.parametrize("batch", [1, 3])
def test_the_arms_agree_on_a_batch(nets: Nets, batch: int) -> None:
    images = random_images(SIZE, batch)
    outputs = [arm.open()()[0] for arm in runtime_arms.runtime_arms(nets.reference, nets.deployed, images, threads=1)]
    assert len(outputs) == 5
    for output in outputs:
        assert output.shape == (batch, 4, SIZE, SIZE)
        np.testing.assert_allclose(output, outputs[0], rtol=1e-4, atol=1e-5)


def test_onnxruntime_folds_by_itself_at_its_defaults(nets: Nets, tmp_path: Path) -> None:
    open_session(nets.reference, 1, save_as=tmp_path / "reference.onnx")
    open_session(nets.deployed, 1, save_as=tmp_path / "deployed.onnx")
    assert count_batch_normalization(tmp_path / "reference.onnx") == 0
    assert sorted(ops(tmp_path / "reference.onnx")) == sorted(ops(tmp_path / "deployed.onnx"))


def test_the_unfolded_arm_keeps_every_batch_normalization(nets: Nets, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[tuple[str, int]] = []

    def spy(path: Path) -> int:
        counted.append((path.name, count_batch_normalization(path)))
        return counted[-1][1]

    monkeypatch.setattr(runtime_arms, "count_batch_normalization", spy)
    require_unfolded(nets.reference, 1)
    assert counted == [("reference.onnx", 2), ("optimised.onnx", 2)]


def test_the_extended_pair_differs_in_batch_normalization_only(nets: Nets, tmp_path: Path) -> None:
    paths = {}
    for name, source in (("unfolded", nets.reference), ("folded", nets.deployed)):
        paths[name] = tmp_path / f"{name}.onnx"
        open_session(
            source,
            1,
            level=runtime_arms.EXTENDED,
            disabled=runtime_arms.FOLDING_OPTIMISERS,
            save_as=paths[name],
        )
    assert [op for op in ops(paths["unfolded"]) if op != "BatchNormalization"] == ops(paths["folded"])


def test_a_runtime_that_folds_regardless_is_noticed(nets: Nets, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime_arms, "FOLDING_OPTIMISERS", ())
    with pytest.raises(MeasurementRefused, match=r"kept 0 of 2 BatchNormalization nodes of reference\.onnx"):
        require_unfolded(nets.reference, 1)


def test_batch_normalization_turned_into_convolution_is_noticed(nets: Nets, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime_arms, "EXTENDED", ort.GraphOptimizationLevel.ORT_ENABLE_ALL)
    with pytest.raises(MeasurementRefused, match="kept 0 of 2"):
        require_unfolded(nets.reference, 1)


def test_a_reference_without_batch_normalization_is_refused(nets: Nets) -> None:
    with pytest.raises(MeasurementRefused, match=r"model\.onnx has no BatchNormalization"):
        require_unfolded(nets.deployed, 1)


def test_compared_sessions_differ_in_their_file_only(nets: Nets, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[tuple[str, int, dict[str, object]]] = []
    by_arm: dict[str, list[tuple[str, int, dict[str, object]]]] = {}

    def spy_open(path: Path, threads: int, **options: object) -> ort.InferenceSession:
        opened.append((path.name, threads, options))
        return open_session(path, threads, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(runtime_arms, "open_session", spy_open)
    arms = runtime_arms.runtime_arms(nets.reference, nets.deployed, random_images(SIZE, 2), threads=2)
    for arm in arms:
        opened.clear()
        first, second = arm.open(), arm.open()
        assert first is not second
        by_arm[arm.name] = list(opened)

    kept = {"level": runtime_arms.EXTENDED, "disabled": runtime_arms.FOLDING_OPTIMISERS}
    assert by_arm == {
        "ort_reference_default": 2 * [("reference.onnx", 2, {})],
        "ort_reference_unfolded": 2 * [("reference.onnx", 2, kept)],
        "ort_deployed_extended": 2 * [("model.onnx", 2, kept)],
        "ort_deployed": 2 * [("model.onnx", 2, {})],
        "ort_deployed_copy": 2 * [("model.onnx", 2, {})],
    }

"""The engine on the real graph, and on files that are not one."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import onnxruntime as ort
import pytest
import torch
from ultralytics.utils import ASSETS

from service.bundle.store import Bundle
from service.errors import EngineError
from service.inference.onnxruntime_engine import OnnxRuntimeEngine
from service.prepare.checkpoint import choose_head, drop_unused_head, load_model
from service.prepare.deployed_network import DeployedNetwork, match_rows
from service.preprocessing.letterbox import letterbox, plan_letterbox
from tests.inference.graphs import OTHER_INPUTS, UINT8, mean_graph


def frames(bundle: Bundle, count: int, seed: int = 0) -> np.ndarray:
    size = bundle.manifest.model.input.height
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def test_it_answers_what_a_plain_session_answers(bundle: Bundle) -> None:
    engine = OnnxRuntimeEngine(bundle.deployed_graph, "cpu", 1)
    assert (engine.provider, engine.threads) == ("CPUExecutionProvider", 1)
    images = frames(bundle, 1)
    session = ort.InferenceSession(str(bundle.deployed_graph), providers=["CPUExecutionProvider"])
    rows = engine.run(images)
    assert rows.shape == (1, 300, 6)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, session.run(None, {"images": images})[0], rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def unfolded(bundle: Bundle, embedded_checkpoint: Path) -> DeployedNetwork:
    """The checkpoint in torch as it was trained, with all its BatchNorm layers."""
    loaded = load_model(embedded_checkpoint)
    head = choose_head(loaded.network, "auto")
    assert head == bundle.manifest.model.head.kind
    drop_unused_head(loaded.network, head)
    network = DeployedNetwork(loaded.network, head).eval()
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())
    return network


def test_photographs_are_seen_as_the_unfolded_torch_network_sees_them(
    bundle: Bundle, unfolded: DeployedNetwork, samples: list[Path]
) -> None:
    engine = OnnxRuntimeEngine(bundle.deployed_graph, "cpu", 2)
    compared = 0
    for path in (ASSETS / "bus.jpg", *samples):
        image = cv2.imread(str(path))
        plan = plan_letterbox(image.shape[1], image.shape[0], bundle.manifest.model.input.height)
        square = letterbox(image, plan)[None]
        with torch.inference_mode():
            expected = unfolded.candidates(torch.from_numpy(square))
            finished = unfolded.finish(expected)[0].numpy()
        found = engine.run(square)[0]
        match = match_rows(unfolded, expected, found)
        assert match.complete, (path.name, match)
        assert match.max_box_error_px < 0.1, path.name
        assert match.max_confidence_error < 1e-3, path.name
        # All 300 confidences, also where the model is sure of nothing.
        np.testing.assert_allclose(found[:, 4], finished[:, 4], atol=1e-3)
        compared += match.expected
    assert compared


def test_threads_share_it_safely(bundle: Bundle) -> None:
    engine = OnnxRuntimeEngine(bundle.deployed_graph, "auto", 2)
    inputs = [frames(bundle, 1, seed) for seed in range(8)]
    alone = [engine.run(images) for images in inputs]
    with ThreadPoolExecutor(4) as executor:
        together = list(executor.map(engine.run, inputs))
    for expected, found in zip(alone, together, strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.skipif("CUDAExecutionProvider" in ort.get_available_providers(), reason="CUDA is there")
def test_cuda_is_not_silently_replaced(bundle: Bundle) -> None:
    with pytest.raises(EngineError, match="onnxruntime-gpu"):
        OnnxRuntimeEngine(bundle.deployed_graph, "cuda", 1)


def test_a_file_that_is_no_graph(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"not a graph")
    with pytest.raises(EngineError, match="cannot load"):
        OnnxRuntimeEngine(path, "cpu", 1)
    with pytest.raises(EngineError, match="cannot load"):
        OnnxRuntimeEngine(tmp_path / "absent.onnx", "cpu", 1)


@pytest.mark.parametrize(("name", "element", "shape"), OTHER_INPUTS)
def test_another_signature_is_refused(tmp_path: Path, name: str, element: int, shape: list[int | str]) -> None:
    path = mean_graph(tmp_path / "m.onnx", name=name, element=element, shape=shape, output=shape[:-1])
    with pytest.raises(EngineError):
        OnnxRuntimeEngine(path, "cpu", 1)


def test_a_run_that_fails_or_answers_another_shape(tmp_path: Path) -> None:
    shape: list[int | str] = ["b", 32, "w", 3]
    path = mean_graph(tmp_path / "m.onnx", name="images", element=UINT8, shape=shape, output=["b", 32, "w"])
    engine = OnnxRuntimeEngine(path, "cpu", 1)
    with pytest.raises(EngineError, match="answered"):
        engine.run(np.zeros((1, 32, 32, 3), np.uint8))
    with pytest.raises(EngineError, match="failed"):
        engine.run(np.zeros((1, 31, 32, 3), np.uint8))

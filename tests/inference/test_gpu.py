"""On a real GPU: CUDA and TensorRT, in TF32 and fp16. Nobody has run these yet; here is what has to hold."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.bundle.store import Bundle
from service.inference.engine import InferenceEngine
from service.inference.engine_choice import open_engine
from service.inference.onnxruntime_engine import OnnxRuntimeEngine
from service.inference.self_check import check_engine
from service.settings import load_settings
from service.tuning.pictures import comparison_pictures
from service.tuning.tolerance import Reference
from tests.inference.processors import needs_cuda, needs_tensorrt

WAYS = [
    pytest.param({"engine": "onnxruntime"}, ("CUDAExecutionProvider", "tf32"), marks=needs_cuda),
    pytest.param({"engine": "onnxruntime", "precision": "fp16"}, ("CUDAExecutionProvider", "fp16"), marks=needs_cuda),
    pytest.param({"engine": "tensorrt"}, ("TensorrtExecutionProvider", "tf32"), marks=needs_tensorrt),
    pytest.param(
        {"engine": "tensorrt", "precision": "fp16"}, ("TensorrtExecutionProvider", "fp16"), marks=needs_tensorrt
    ),
]


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where TensorRT keeps its engines, for all tests: building one takes minutes."""
    return tmp_path_factory.mktemp("engines")


def on_gpu(bundle: Bundle, engines: Path, **settings: Any) -> InferenceEngine:
    settled = load_settings({}, device="cuda", state_dir=str(engines), **settings)
    return open_engine(bundle, settled, cores=2, workers=2)


@pytest.mark.parametrize(("settings", "expected"), WAYS)
def test_it_finds_what_the_processor_finds(
    halved: Bundle, engines: Path, settings: dict[str, Any], expected: tuple[str, str]
) -> None:
    engine = on_gpu(halved, engines, **settings)
    assert (engine.provider, engine.precision) == expected
    assert check_engine(halved, engine).matched == halved.self_check.rows
    exact = OnnxRuntimeEngine(halved.deployed_graph, "cpu", 2)
    pictures = comparison_pictures(halved)
    reference = Reference(halved, [exact.run(picture[None])[0] for picture in pictures])
    found = reference.judge(engine.precision, [engine.run(picture[None])[0] for picture in pictures])
    assert found.fault is None


@pytest.mark.parametrize(("settings", "expected"), WAYS)
def test_batches_and_callers_at_once_get_their_own(
    halved: Bundle, engines: Path, settings: dict[str, Any], expected: tuple[str, str]
) -> None:
    """Also after memory was given back in between."""
    batching = on_gpu(halved, engines, **settings, max_batch_size=4)
    assert (batching.provider, batching.precision) == expected
    assert check_engine(halved, batching).matched == halved.self_check.rows  # in each size of batch
    image, _ = halved.self_check_arrays()
    pictures = [np.roll(image[None], 23 * number, axis=2) for number in range(8)]
    alone = [batching.run(picture) for picture in pictures]
    with ThreadPoolExecutor(8) as callers:
        for _ in range(3):
            for found, wanted in zip(callers.map(batching.run, pictures), alone, strict=True):
                sure = int((wanted[0, :, 4] > 0.1).sum())
                assert sure and np.allclose(found[0, :sure], wanted[0, :sure], rtol=0, atol=1.0)
            batching.release_memory()


@needs_cuda
def test_bound_runs_answer_what_plain_runs_do(bundle: Bundle, engines: Path) -> None:
    engine = on_gpu(bundle, engines)
    assert isinstance(engine, OnnxRuntimeEngine)
    image, _ = bundle.self_check_arrays()
    for number in range(4):
        images = np.roll(image[None], 31 * number, axis=2)
        (plain,) = engine._session.run(None, {"images": images})
        np.testing.assert_allclose(engine.run(images), plain, rtol=0, atol=1e-3)


@needs_tensorrt
def test_a_second_start_finds_the_engines_of_the_first(bundle: Bundle, engines: Path) -> None:
    on_gpu(bundle, engines, engine="tensorrt")
    kept = {path: path.stat().st_mtime_ns for path in engines.rglob("*.engine")}
    assert kept  # TensorRT took a part of the graph
    on_gpu(bundle, engines, engine="tensorrt")
    assert {path: path.stat().st_mtime_ns for path in engines.rglob("*.engine")} == kept

"""What of TensorRT can be seen without it: graphs for one size of batch, and why it is not used."""

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from service.bundle.store import Bundle
from service.errors import EngineError
from service.inference.onnxruntime_engine import PROCESSOR, OnnxRuntimeEngine, provider_options
from service.inference.tensorrt_engine import TENSORRT, TensorRtEngine, open_static, tensorrt_obstacle
from tests.inference.processors import NO_TENSORRT
from tests.inference.stand_in_tensorrt import RELEASE, needs_compiler, run_with_tensorrt

ON_PROCESSOR = provider_options([PROCESSOR])


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("name", ["model.onnx", "model.fp16.onnx"])
def test_a_graph_for_one_size_of_batch_answers_the_same(halved: Bundle, name: str, batch: int) -> None:
    graph, half = halved.path / name, name != "model.onnx"
    session = open_static(graph, batch, ON_PROCESSOR, 1)
    side = halved.manifest.model.input.height
    assert session.get_inputs()[0].shape == [batch, side, side, 3]
    assert session.get_outputs()[0].shape == [batch, 300, 6]
    image, _ = halved.self_check_arrays()
    images = np.concatenate([np.roll(image[None], 31 * number, axis=2) for number in range(batch)])
    (rows,) = session.run(None, {"images": images})
    expected = OnnxRuntimeEngine(graph, "cpu", 1, half=half).run(images)
    for found, wanted in zip(rows, expected, strict=True):
        sure = int((wanted[:, 4] > 0.1).sum())
        assert sure and np.allclose(found[:sure], wanted[:sure], rtol=0, atol=0.05)
    with pytest.raises(Exception, match="images"):
        session.run(None, {"images": np.concatenate([images, images[:1]])})


@pytest.mark.skipif(NO_TENSORRT is None, reason="TensorRT is there")
def test_where_it_is_missing_it_says_so_and_leaves_nothing(bundle: Bundle, tmp_path: Path) -> None:
    if TENSORRT not in ort.get_available_providers():
        assert tensorrt_obstacle() == "the installed ONNX Runtime has no TensorRT"
    with pytest.raises(EngineError, match=r"TensorRT cannot be used: .*Set YOLOFOLD_ENGINE=onnxruntime"):
        TensorRtEngine(bundle.deployed_graph, "0" * 64, [1], tmp_path, 1)
    assert list(tmp_path.iterdir()) == []


@needs_compiler
def test_libraries_that_pip_installed_are_found_and_asked_for_their_release(tmp_path: Path) -> None:
    program = "from service.inference.tensorrt_engine import _load_libraries as load; print(load())"
    assert run_with_tensorrt(tmp_path, program).split()[-1:] == [str(RELEASE)]

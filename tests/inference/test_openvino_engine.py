"""OpenVINO on the real graph: the same boxes as ONNX Runtime, from any thread, in batches, and what is refused."""

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import onnxruntime as ort
import pytest

from service.bundle.store import Bundle
from service.comparison import Tolerance, judge_repetition
from service.errors import EngineError
from service.inference.openvino_engine import OpenVinoEngine, require_bf16
from service.inference.self_check import check_engine, engine_tolerance
from service.machine import usable_cores
from service.preprocessing.letterbox import letterbox, plan_letterbox
from tests.conftest import ROOT
from tests.inference.graphs import OTHER_INPUTS, UINT8, mean_graph
from tests.inference.processors import HAS_BF16, needs_bf16

EMULATOR = shutil.which("qemu-x86_64-static") or shutil.which("qemu-x86_64")
#: Rows compared in each picture, as many as the self check stores.
SUREST = 50


@pytest.fixture(scope="module")
def engine(bundle: Bundle) -> OpenVinoEngine:
    return OpenVinoEngine(bundle.deployed_graph, "fp32", 2, 1)


@pytest.fixture(scope="module")
def squares(bundle: Bundle, samples: list[Path]) -> np.ndarray:
    """(N, S, S, 3): the samples and the picture of the self check, as the network gets them."""
    side = bundle.manifest.model.input.height
    pictures = [cv2.imread(str(path)) for path in samples]
    fitted = [letterbox(p, plan_letterbox(p.shape[1], p.shape[0], side)) for p in pictures]
    return np.stack([*fitted, bundle.self_check_arrays()[0]])


@pytest.fixture(scope="module")
def expected(bundle: Bundle, squares: np.ndarray) -> np.ndarray:
    """(N, 300, 6): what a plain session of ONNX Runtime answers, one picture at a time."""
    session = ort.InferenceSession(str(bundle.deployed_graph), providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"images": square[None]})[0] for square in squares])


def twice(tolerance: Tolerance) -> Tolerance:
    """For two computations, each of which may stray."""
    return Tolerance(2 * tolerance.box_px, 2 * tolerance.score)


def assert_repeats(expected: np.ndarray, found: np.ndarray, tolerance: Tolerance) -> None:
    """The surest rows of (N, 300, 6) recur in their picture, and no other row is as sure."""
    assert expected.shape == found.shape
    for wanted, rows in zip(expected, found, strict=True):
        ordered = wanted[np.argsort(-wanted[:, 4], kind="stable")]
        judged = judge_repetition(
            ordered[:SUREST], rows, threshold=float(ordered[SUREST, 4]), tolerance=tolerance, suppressed=False
        )
        assert judged.passed, judged


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_it_answers_what_onnx_runtime_answers(
    bundle: Bundle, engine: OpenVinoEngine, squares: np.ndarray, expected: np.ndarray, batch: int
) -> None:
    for first in range(0, len(squares), batch):
        part = slice(first, first + batch)
        rows = engine.run(squares[part])
        assert rows.dtype == np.float32
        assert_repeats(expected[part], rows, twice(engine_tolerance(bundle, engine)))


def test_it_says_what_runs(engine: OpenVinoEngine) -> None:
    assert (engine.provider, engine.precision) == ("CPU", "fp32")
    assert engine.runtime.startswith("OpenVINO 20")


@pytest.mark.parametrize(("threads", "streams"), [(1, 1), (2, 1), (1, 2)])
def test_threads_and_streams_are_what_was_asked(bundle: Bundle, threads: int, streams: int) -> None:
    if threads * streams > usable_cores():
        pytest.skip("fewer cores than that")
    engine = OpenVinoEngine(bundle.deployed_graph, "fp32", threads, streams)
    assert (engine.threads, engine.streams) == (threads, streams)


@pytest.mark.parametrize("streams", [1, 2])
def test_threads_share_it_safely(bundle: Bundle, squares: np.ndarray, streams: int) -> None:
    engine = OpenVinoEngine(bundle.deployed_graph, "fp32", 1, streams)
    inputs = [squares[i % len(squares)][None] for i in range(16)]
    inputs[5] = squares[:3]  # loads the graph for other sizes while single pictures run
    alone = [engine.run(images) for images in inputs]
    with ThreadPoolExecutor(4) as executor:
        together = list(executor.map(OpenVinoEngine(bundle.deployed_graph, "fp32", 1, streams).run, inputs))
    for wanted, found in zip(alone, together, strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_a_later_run_leaves_earlier_answers_alone(engine: OpenVinoEngine, squares: np.ndarray) -> None:
    first = engine.run(squares[:1])
    kept = first.copy()
    assert not np.array_equal(engine.run(squares[1:2]), kept)
    np.testing.assert_array_equal(first, kept)


def test_pictures_that_lie_otherwise_in_memory(engine: OpenVinoEngine, squares: np.ndarray) -> None:
    mirrored = squares[:1, :, ::-1]
    np.testing.assert_array_equal(engine.run(mirrored), engine.run(np.ascontiguousarray(mirrored)))


@needs_bf16
def test_bf16_is_used_and_strays_no_further_than_its_rounding(
    bundle: Bundle, squares: np.ndarray, expected: np.ndarray
) -> None:
    engine = OpenVinoEngine(bundle.deployed_graph, "bf16", 2, 1)
    assert engine.precision == "bf16"
    rows = np.concatenate([engine.run(square[None]) for square in squares])
    assert_repeats(expected, rows, engine_tolerance(bundle, engine))
    checked = check_engine(bundle, engine)
    # It does not pass for float32, or it would not be bf16.
    assert checked.difference.box_px > bundle.self_check.box_tolerance_px
    assert checked.difference.score > bundle.self_check.score_tolerance


def test_bf16_is_refused_without_the_instructions(bundle: Bundle) -> None:
    # What OpenVINO 2026.4 says of an emulated Haswell.
    with pytest.raises(EngineError, match="YOLOFOLD_PRECISION=fp32"):
        require_bf16(["FP32", "INT8", "BIN", "EXPORT_IMPORT"], "bf16")
    require_bf16(["FP32", "INT8", "BIN", "EXPORT_IMPORT"], "fp32")
    if not HAS_BF16:
        with pytest.raises(EngineError, match="YOLOFOLD_PRECISION=fp32"):
            OpenVinoEngine(bundle.deployed_graph, "bf16", 1, 1)


@pytest.mark.skipif(EMULATOR is None, reason="needs qemu-user")
def test_bf16_is_refused_on_a_processor_of_2013(bundle: Bundle) -> None:
    program = f"""
import sys
from pathlib import Path
sys.path[:] = {sys.path!r}
from service.inference.openvino_engine import OpenVinoEngine
OpenVinoEngine(Path({str(bundle.deployed_graph)!r}), "bf16", 1, 1)
"""
    arguments = [str(EMULATOR), "-cpu", "Haswell", str(Path(sys.executable).resolve()), "-c", program]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "EngineError: YOLOFOLD_PRECISION=bf16, but this processor" in done.stderr


def test_a_file_that_is_no_graph(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"not a graph")
    for wrong in (path, tmp_path / "absent.onnx"):
        with pytest.raises(EngineError, match="OpenVINO cannot load"):
            OpenVinoEngine(wrong, "fp32", 1, 1)


@pytest.mark.parametrize(("name", "element", "shape"), OTHER_INPUTS)
def test_another_signature_is_refused(tmp_path: Path, name: str, element: int, shape: list[int | str]) -> None:
    path = mean_graph(tmp_path / "m.onnx", name=name, element=element, shape=shape, output=shape[:-1])
    with pytest.raises(EngineError, match=r"maps|takes"):
        OpenVinoEngine(path, "fp32", 1, 1)


def test_a_run_that_fails_or_answers_another_shape(engine: OpenVinoEngine, squares: np.ndarray, tmp_path: Path) -> None:
    for wrong in (squares[:1, :600], squares[:2, :600], squares[:1, :, :, 0]):
        with pytest.raises(EngineError, match="OpenVINO failed"):
            engine.run(wrong)
    with pytest.raises(EngineError, match="uint8"):
        engine.run(squares[:1].astype(np.float32))
    assert engine.run(squares[:1]).shape == (1, 300, 6)  # none of it leaves it unusable
    shape: list[int | str] = ["b", 32, 32, 3]
    path = mean_graph(tmp_path / "m.onnx", name="images", element=UINT8, shape=shape, output=["b", 32, 32])
    with pytest.raises(EngineError, match="answered"):
        OpenVinoEngine(path, "fp32", 1, 1).run(np.zeros((1, 32, 32, 3), np.uint8))

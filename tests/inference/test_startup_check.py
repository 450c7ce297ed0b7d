"""The start-up check: this machine passes, and a runtime or a graph that computes something else does not."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from service.bundle.store import Bundle, load_bundle
from service.comparison import SIGMOID_ERROR
from service.errors import SelfCheckFailed
from service.inference.engine import Precision
from service.inference.onnxruntime_engine import OnnxRuntimeEngine, UnfoldedEngine
from service.inference.openvino_engine import OpenVinoEngine
from service.inference.self_check import check_engine, engine_tolerance
from tests.bundles import change_bias, rehash
from tests.inference.altered_engine import AlteredEngine
from tests.inference.processors import needs_bf16

ENGINES = {
    "onnxruntime": lambda graph: OnnxRuntimeEngine(graph, "cpu", 2),
    "openvino": lambda graph: OpenVinoEngine(graph, "fp32", 2, 1),
    "openvino in bf16": lambda graph: OpenVinoEngine(graph, "bf16", 2, 1),
}


def check_altered(bundle: Bundle, change: Callable[[np.ndarray], np.ndarray], precision: Precision = "fp32"):
    return check_engine(bundle, AlteredEngine(bundle, change, precision))


@pytest.mark.parametrize("threads", [1, 2])
def test_this_machine_passes_and_the_figures_are_those_of_a_plain_session(bundle: Bundle, threads: int) -> None:
    checked = check_engine(bundle, OnnxRuntimeEngine(bundle.deployed_graph, "cpu", threads))
    image, expected = bundle.self_check_arrays()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(bundle.deployed_graph, options, providers=["CPUExecutionProvider"])
    found = session.run(None, {"images": image[None]})[0][0].astype(np.float64)
    assert checked.rows == checked.matched == len(expected) == bundle.self_check.rows
    assert checked.extra == 0
    box = confidence = 0.0
    for row in expected:
        twins = found[found[:, 5] == row[5]]
        twin = twins[np.abs(twins[:, :5] - row[:5]).max(1).argmin()]
        box = max(box, np.abs(twin[:4] - row[:4]).max())
        confidence = max(confidence, abs(twin[4] - row[4]))
    assert checked.difference.box_px == pytest.approx(box)
    assert checked.difference.confidence == pytest.approx(confidence)
    assert checked.tolerance.box_px == bundle.self_check.box_tolerance_px
    assert 0 < box < checked.tolerance.box_px
    assert confidence < checked.tolerance.score / 4 + SIGMOID_ERROR
    assert checked.duration_ms > 0


def check_spoilt(bundle_path: Path, folder: Path, conv: str, change: Callable[[np.ndarray], np.ndarray], engine: str):
    """Start an engine on a bundle in whose deployed graph the bias of one convolution was changed."""
    folder = Path(shutil.copytree(bundle_path, folder))
    change_bias(folder / "model.onnx", conv, change)
    rehash(folder, "model.onnx")
    spoilt = load_bundle(folder)
    return check_engine(spoilt, ENGINES[engine](spoilt.deployed_graph))


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(
    "conv",
    [
        "model.0",
        "model.4.cv1",
        "model.9.cv1",
        "model.16.m.0.m.0.cv2",
        "model.22.cv1",
        *(f"model.23.one2one_{branch}" for scale in range(3) for branch in (f"cv2.{scale}.1", f"cv3.{scale}.1.0")),
    ],
)
def test_one_changed_bit_of_one_bias_is_noticed(bundle_path: Path, tmp_path: Path, conv: str, engine: str) -> None:
    """The highest bit of the mantissa of the largest bias: it changes by a quarter to a half."""

    def flip(bias: np.ndarray) -> np.ndarray:
        bias.view(np.uint32)[np.abs(bias).argmax()] ^= 1 << 22
        return bias

    with pytest.raises(SelfCheckFailed, match="prepare the bundle again"):
        check_spoilt(bundle_path, tmp_path / "bundle", conv, flip, engine)


@needs_bf16
@pytest.mark.parametrize(
    "conv", ["model.0", "model.4.cv1", "model.16.m.0.m.0.cv2", *(f"model.23.one2one_cv2.{s}.1" for s in range(3))]
)
def test_in_bf16_only_coarser_faults_show(bundle_path: Path, tmp_path: Path, conv: str) -> None:
    """All biases of one convolution with the wrong sign, as a fold with a wrong sign would leave them."""
    with pytest.raises(SelfCheckFailed, match="set YOLOFOLD_PRECISION=fp32, or prepare the bundle again"):
        check_spoilt(bundle_path, tmp_path / "bundle", conv, np.negative, "openvino in bf16")


def test_the_reference_graph_gives_the_same_answer(bundle: Bundle) -> None:
    check_engine(bundle, UnfoldedEngine(bundle.reference_graph, "cpu", 2))


def shifted(rows: np.ndarray, px: float) -> np.ndarray:
    rows[..., :4] += np.float32(px)
    return rows


def surer(rows: np.ndarray, score: float) -> np.ndarray:
    odds = rows[..., 4] / (1 - rows[..., 4]) * np.exp(score)
    rows[..., 4] = odds / (1 + odds)
    return rows


def test_the_tolerance_is_exact_and_wider_where_rounding_is_coarser(bundle: Bundle) -> None:
    spec = bundle.self_check
    # A shift of all boxes alike by most of a pixel makes neighbours change places, which rounding does not.
    precisions: list[tuple[Precision, int, float]] = [
        ("fp32", 1, 0.8),
        ("tf32", 1024, 0.2),
        ("fp16", 2048, 0.1),
        ("bf16", 8192, 0.05),
    ]
    for precision, factor, within in precisions:
        tolerance = engine_tolerance(bundle, AlteredEngine(bundle, np.copy, precision))
        assert tolerance.box_px == spec.box_tolerance_px * factor
        assert tolerance.score == spec.score_tolerance * factor
        for change, by in ((shifted, tolerance.box_px), (surer, tolerance.score)):
            check_altered(bundle, lambda rows, c=change, b=by * within: c(rows, b), precision)
            with pytest.raises(SelfCheckFailed):
                check_altered(bundle, lambda rows, c=change, b=by: c(rows, 1.3 * b), precision)


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: rows * np.nan,
        lambda rows: rows * 0,
        lambda rows: np.roll(rows, 1, axis=-1),
        lambda rows: rows[:, 1:],
        lambda rows: np.concatenate([rows, rows[:, :1]], 1),
        lambda rows: rows.astype(np.float16).astype(np.float32),
    ],
    ids=["nan", "zeros", "columns", "one missing", "one twice", "half precision"],
)
def test_broken_answers_are_noticed(bundle: Bundle, change: Callable[[np.ndarray], np.ndarray]) -> None:
    with pytest.raises(SelfCheckFailed, match=rf"of the {bundle.self_check.rows} boxes stored"):
        check_altered(bundle, change)

"""Both graphs on one picture: the figures, a fold made wrong on purpose, and who gets a turn when."""

import gc
import shutil
import threading
import weakref
from pathlib import Path

import cv2
import numpy as np
import onnxruntime as ort
import pytest
from ultralytics.utils import ASSETS

from service.bundle.store import Bundle, load_bundle
from service.errors import BrokenImage, Overloaded
from service.inference.by_load_engine import ByLoadEngine
from service.inference.detector import Detector
from service.inference.engine import InferenceEngine
from service.inference.fold_check import ROUNDS, FoldCheck, FoldChecker, FoldCheckResult
from service.inference.onnxruntime_engine import OnnxRuntimeEngine
from service.inference.openvino_engine import OpenVinoEngine
from service.preprocessing.letterbox import letterbox, plan_letterbox
from tests.bundles import change_bias, rehash
from tests.inference.processors import needs_bf16
from tests.inference.test_startup_check import AlteredEngine


def make_checker(bundle: Bundle, engine: InferenceEngine | None = None) -> FoldChecker:
    engine = engine or OnnxRuntimeEngine(bundle.deployed_graph, "cpu", 2)
    return FoldChecker(bundle, Detector(bundle, engine, 4_000_000), engine, "cpu")


@pytest.fixture(scope="module")
def checker(bundle: Bundle) -> FoldChecker:
    return make_checker(bundle)


def check_picture(checker: FoldChecker, data: bytes, conf: float) -> FoldCheckResult:
    with checker.turn() as check:
        check.load(data)
        for _ in range(ROUNDS + 1):
            check.run_round()
        return check.result(conf)


def test_both_graphs_run_on_all_cores_however_much_else_there_is_to_do(bundle: Bundle, samples: list[Path]) -> None:
    """The layout for several runs answers something else here, which the check would find."""
    graph = bundle.deployed_graph
    engine = ByLoadEngine(
        OnnxRuntimeEngine(graph, "cpu", 2), AlteredEngine(bundle, lambda rows: rows + 1, "fp32"), fill=2
    )
    engine.follow(lambda: 2)
    assert check_picture(make_checker(bundle, engine), samples[0].read_bytes(), 0.25).agrees


def plain_rows(graph: Path, square: np.ndarray, *, unfolded: bool) -> np.ndarray:
    options = ort.SessionOptions()
    if unfolded:  # at the level above, BatchNormalization would become a convolution
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    disabled = ["ConvBNFusion"] if unfolded else []
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"], disabled_optimizers=disabled)
    return session.run(None, {"images": square[None]})[0][0]


def test_the_figures_are_those_of_two_plain_sessions(checker: FoldChecker, bundle: Bundle, samples: list[Path]) -> None:
    compared = 0
    for path in (*samples, ASSETS / "bus.jpg"):
        image = cv2.imread(str(path))
        plan = plan_letterbox(image.shape[1], image.shape[0], bundle.manifest.model.input.height)
        square = letterbox(image, plan)
        expected = plain_rows(bundle.reference_graph, square, unfolded=True)
        found = plain_rows(bundle.deployed_graph, square, unfolded=False)
        clear = expected[expected[:, 4] > 0.25]
        result = check_picture(checker, path.read_bytes(), 0.25)
        assert result.agrees
        assert (result.width, result.height) == plan.source_wh
        assert result.matched == len(result.reference) == len(result.deployed) == len(clear)
        assert result.only_in_reference == result.only_in_deployed == result.borderline == 0
        np.testing.assert_array_equal(result.reference.confidence, clear[np.argsort(-clear[:, 4], kind="stable"), 4])
        np.testing.assert_array_equal(result.deployed.confidence, np.sort(found[found[:, 4] > 0.25, 4])[::-1])
        apart = [np.abs(found[found[:, 5] == row[5]] - row).max(1).argmin() for row in clear]
        twins = [found[found[:, 5] == row[5]][i] for row, i in zip(clear, apart, strict=True)]
        gain = min(side / source for side, source in zip(plan.resized_wh, plan.source_wh, strict=True))
        if len(clear):
            most_px = np.abs(np.array(twins)[:, :4] - clear[:, :4]).max() / gain
            # Corners in a picture thousands of pixels wide are multiples of a few hundred-thousandths.
            assert result.difference.box_px == pytest.approx(most_px, abs=2e-4)
            most = np.abs(np.array(twins)[:, 4] - clear[:, 4]).max()
            assert result.difference.confidence == pytest.approx(most, rel=1e-6)
        assert min(result.reference_ms, result.deployed_ms, result.load_ms) > 0
        compared += len(clear)
    assert compared


def test_the_deployed_graph_runs_where_it_is_served(bundle: Bundle, samples: list[Path]) -> None:
    engine = OpenVinoEngine(bundle.deployed_graph, "fp32", 2, 1)
    checker = make_checker(bundle, engine)
    data = next(path for path in samples if path.stem == "shelf").read_bytes()
    result = check_picture(checker, data, 0.25)
    assert result.agrees and result.matched > 3
    assert (result.deployed_engine.runtime, result.deployed_engine.precision) == (engine.runtime, "fp32")
    assert result.reference_engine.runtime == f"ONNX Runtime {ort.__version__}"
    _, square = Detector(bundle, engine, 4_000_000).fit(data)
    rows = engine.run(square[None])[0]
    np.testing.assert_array_equal(result.deployed.confidence, np.sort(rows[rows[:, 4] > 0.25, 4])[::-1])


@needs_bf16
def test_in_bf16_both_graphs_run_in_float32_and_are_freed(bundle: Bundle, samples: list[Path]) -> None:
    engine = OpenVinoEngine(bundle.deployed_graph, "bf16", 2, 1)
    with make_checker(bundle, engine).turn() as check:
        check.load(samples[0].read_bytes())
        watched = [weakref.ref(check._reference), weakref.ref(check._deployed)]
        check.run_round()
        check.run_round()
        result = check.result(0.25)
        gc.collect()
        assert [reference() for reference in watched] == [None, None]
    assert result.agrees
    for used in (result.reference_engine, result.deployed_engine):
        assert (used.runtime, used.precision) == (f"ONNX Runtime {ort.__version__}", "fp32")


def test_everything_at_no_threshold_at_all(checker: FoldChecker, samples: list[Path]) -> None:
    result = check_picture(checker, samples[0].read_bytes(), 0.0)
    assert result.agrees and result.matched > 200
    nothing = check_picture(checker, samples[0].read_bytes(), 1.0)
    assert nothing.agrees and nothing.matched == len(nothing.reference) == len(nothing.deployed) == 0


def test_a_wrong_fold_is_seen(bundle_path: Path, tmp_path: Path, samples: list[Path]) -> None:
    """One bias of 102 five per cent off, as a fold with a wrong constant would leave it."""
    folder = Path(shutil.copytree(bundle_path, tmp_path / "bundle"))
    change_bias(folder / "model.onnx", "model.4.cv1", lambda bias: bias * 1.05)
    rehash(folder, "model.onnx")
    checker = make_checker(load_bundle(folder))
    picture = next(path for path in samples if path.stem == "parcel")
    result = check_picture(checker, picture.read_bytes(), 0.25)
    assert not result.agrees
    assert result.difference.score > result.tolerance.score


def test_a_detection_that_only_one_graph_has_is_counted(bundle_path: Path, tmp_path: Path, samples: list[Path]) -> None:
    folder = Path(shutil.copytree(bundle_path, tmp_path / "bundle"))
    for scale in range(3):  # what the class scores are made of is silenced, so that only the head's own bias is left
        change_bias(folder / "model.onnx", f"model.23.one2one_cv3.{scale}.1.1", lambda bias: bias - 100)
    rehash(folder, "model.onnx")
    picture = next(path for path in samples if path.stem == "parcel")
    result = check_picture(make_checker(load_bundle(folder)), picture.read_bytes(), 0.25)
    assert not result.agrees
    assert result.matched + result.only_in_reference == len(result.reference)
    assert result.matched + result.only_in_deployed == len(result.deployed)
    assert result.only_in_reference + result.only_in_deployed > result.borderline


def test_one_at_a_time(checker: FoldChecker, samples: list[Path]) -> None:
    with checker.turn():
        for refuse in (checker.require_free, lambda: checker.turn().__enter__()):
            with pytest.raises(Overloaded, match="one runs at a time") as refusal:
                refuse()
            assert refusal.value.retry_after_s >= 1
    checker.require_free()
    with pytest.raises(BrokenImage), checker.turn() as check:
        check.load(samples[0].read_bytes()[:-50])
    checker.require_free()


class WatchedCheck:
    """Knows whether the reference engine a check loaded is still alive."""

    def __init__(self, check: FoldCheck) -> None:
        self.engine = weakref.ref(check._reference)

    def is_freed(self) -> bool:
        gc.collect()
        return self.engine() is None


def test_the_reference_graph_is_freed_at_the_end(checker: FoldChecker, samples: list[Path]) -> None:
    with checker.turn() as check:
        check.load(samples[0].read_bytes())
        watched = WatchedCheck(check)
        assert not watched.is_freed()
    assert watched.is_freed()
    check.run_round()  # a step that comes too late does nothing


def test_a_step_in_progress_keeps_the_turn_until_it_ends(checker: FoldChecker, samples: list[Path]) -> None:
    entered, leave = threading.Event(), threading.Event()
    with checker.turn() as check:
        check.load(samples[0].read_bytes())
        watched = WatchedCheck(check)

        def linger() -> None:
            entered.set()
            assert leave.wait(60)

        step = threading.Thread(target=lambda: check._step(linger))
        step.start()
        assert entered.wait(60)
    # The client has left, but a worker is still at it.
    with pytest.raises(Overloaded):
        checker.require_free()
    assert not watched.is_freed()
    leave.set()
    step.join()
    checker.require_free()
    assert watched.is_freed()

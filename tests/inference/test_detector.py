"""The whole path against the same steps written out with OpenCV and a plain ONNX Runtime session."""

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import onnxruntime as ort
import pytest
from PIL import Image

from service.bundle.store import Bundle
from service.errors import BrokenImage, ImageTooLarge, NobodyWaits, UnsupportedImage
from service.inference.detector import Detector, Selection
from service.inference.onnxruntime_engine import OnnxRuntimeEngine
from service.preprocessing.letterbox import letterbox, plan_letterbox
from tests.inference.pictures import encode, scene

ALL = Selection(0.0, 300)


@pytest.fixture(scope="module")
def detector(bundle: Bundle) -> Detector:
    return Detector(bundle, OnnxRuntimeEngine(bundle.deployed_graph, "cpu", 2), 4_000_000)


def test_every_sample_equals_the_steps_written_out(detector: Detector, bundle: Bundle, samples: list[Path]) -> None:
    session = ort.InferenceSession(str(bundle.deployed_graph), providers=["CPUExecutionProvider"])
    compared = 0
    for path in samples:
        image = cv2.imread(str(path))
        height, width = image.shape[:2]
        plan = plan_letterbox(width, height, bundle.manifest.model.input.height)
        rows = session.run(None, {"images": letterbox(image, plan)[None]})[0][0]
        rows = rows[rows[:, 4] > 0.05]
        rows = rows[np.argsort(-rows[:, 4], kind="stable")]
        gain = min(plan.input_wh[0] / width, plan.input_wh[1] / height)
        boxes = (rows[:, :4] - [*plan.offset_xy] * 2) / gain
        result = detector.detect(path.read_bytes(), Selection(0.05, 300))
        found = result.detections
        assert (result.width, result.height) == (width, height)
        assert len(found) == len(rows)
        np.testing.assert_array_equal(found.class_id, rows[:, 5])
        np.testing.assert_allclose(found.confidence, rows[:, 4], rtol=1e-4)
        # Half a pixel of the square is what rounding its sides can shift.
        np.testing.assert_allclose(found.xyxy, boxes.clip(0, [width, height] * 2), atol=0.5 / gain + 0.01)
        compared += len(rows)
    assert compared


def test_boxes_lie_within_the_picture(detector: Detector, samples: list[Path]) -> None:
    for path in samples:
        result = detector.detect(path.read_bytes(), ALL)
        xyxy = result.detections.xyxy
        assert (xyxy >= 0).all()
        assert (xyxy <= [result.width, result.height] * 2).all()
        assert (xyxy[:, :2] <= xyxy[:, 2:]).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 2000), (2000, 1), (319, 320), (321, 320)])
def test_pictures_of_any_shape(detector: Detector, size: tuple[int, int]) -> None:
    result = detector.detect(encode(Image.fromarray(scene(*size)), "PNG"), ALL)
    assert (result.width, result.height) == size
    assert min(vars(result.timings_ms).values()) >= 0


def test_threads_get_their_own_answers(detector: Detector, samples: list[Path]) -> None:
    files = [path.read_bytes() for path in samples] * 3
    alone = [detector.detect(data, ALL) for data in files]
    with ThreadPoolExecutor(4) as executor:
        together = list(executor.map(lambda data: detector.detect(data, ALL), files))
    for expected, found in zip(alone, together, strict=True):
        np.testing.assert_array_equal(found.detections.xyxy, expected.detections.xyxy)
        np.testing.assert_array_equal(found.detections.confidence, expected.detections.confidence)


def test_pictures_larger_than_the_budget_are_decoded_one_after_the_other(bundle: Bundle, samples: list[Path]) -> None:
    engine = OnnxRuntimeEngine(bundle.deployed_graph, "cpu", 2)
    roomy, narrow = Detector(bundle, engine, 4_000_000), Detector(bundle, engine, 4_000_000, decode_bytes=1)
    files = [path.read_bytes() for path in samples] * 2
    with ThreadPoolExecutor(8) as executor:
        found = list(executor.map(lambda data: narrow.detect(data, ALL), files))
        drawn = list(executor.map(lambda data: narrow.annotate(data, ALL, "png").file, files[:3]))
    for data, result in zip(files, found, strict=True):
        np.testing.assert_array_equal(result.detections.xyxy, roomy.detect(data, ALL).detections.xyxy)
    assert drawn == [roomy.annotate(data, ALL, "png").file for data in files[:3]]


def test_what_takes_more_than_the_budget_and_the_largest_plain_picture_is_refused(bundle: Bundle) -> None:
    engine = OnnxRuntimeEngine(bundle.deployed_graph, "cpu", 1)
    picture, pixels = Image.fromarray(scene(96, 64)), 96 * 64
    progressive = encode(picture, "JPEG", progressive=True, subsampling=0)  # 9 bytes a pixel
    turned = encode(picture, "JPEG", orientation=6)  # 3, and as much again to be drawn into
    most = Detector(bundle, engine, 3 * pixels, decode_bytes=1)
    less = Detector(bundle, engine, 3 * pixels - 1, decode_bytes=1)
    assert most.detect(progressive, ALL).width == less.detect(encode(picture, "JPEG"), ALL).width == 96
    with pytest.raises(ImageTooLarge, match=r"9\.0 bytes a pixel, and its limit is 6143 pixels") as caught:
        less.detect(progressive, ALL)
    assert caught.value.limit == 6143
    assert Detector(bundle, engine, 3 * pixels - 1, decode_bytes=9 * pixels).detect(progressive, ALL).width == 96
    assert Detector(bundle, engine, 2 * pixels, decode_bytes=1).annotate(turned, ALL, "png").result.width == 64
    plain = Detector(bundle, engine, 2 * pixels - 1, decode_bytes=1)
    assert plain.detect(turned, ALL).width == 64
    with pytest.raises(ImageTooLarge, match=r"6\.0 bytes"):
        plain.annotate(turned, ALL, "png")


class MeetingEngine:
    """A real engine that runs only once a second caller has come, too."""

    provider, runtime, precision, threads = "CPUExecutionProvider", "ONNX Runtime", "fp32", 1

    def __init__(self, engine: OnnxRuntimeEngine) -> None:
        self._engine, self._barrier = engine, threading.Barrier(2)

    def run(self, images: np.ndarray) -> np.ndarray:
        self._barrier.wait(60)
        return self._engine.run(images)


def test_the_picture_gives_its_memory_back_before_the_network_runs(bundle: Bundle, samples: list[Path]) -> None:
    engine = MeetingEngine(OnnxRuntimeEngine(bundle.deployed_graph, "cpu", 1))
    detector = Detector(bundle, engine, 4_000_000, decode_bytes=1)
    with ThreadPoolExecutor(2) as executor:
        results = list(executor.map(lambda path: detector.detect(path.read_bytes(), ALL), samples[:2]))
    assert all(len(result.detections) for result in results)


def test_refused_and_broken_pictures_give_their_memory_back(bundle: Bundle) -> None:
    detector = Detector(bundle, OnnxRuntimeEngine(bundle.deployed_graph, "cpu", 2), 4_000_000, decode_bytes=1)
    data = bytearray(encode(Image.fromarray(scene()), "PNG"))
    data[-40:-30] = bytes(10)
    for _ in range(2):
        with pytest.raises(BrokenImage):
            detector.detect(bytes(data), ALL)
        with pytest.raises(BrokenImage):
            detector.annotate(bytes(data), ALL, "png")


@pytest.mark.parametrize("asked_before", [1, 2])
def test_work_that_nobody_waits_for_ends_before_it_costs_more(
    bundle: Bundle, samples: list[Path], asked_before: int
) -> None:
    """Asked before decoding, then before the network runs."""
    calls, ran = itertools.count(1), list[int]()

    class Engine(OnnxRuntimeEngine):
        def run(self, images: np.ndarray) -> np.ndarray:
            ran.append(len(images))
            return super().run(images)

    def require_wanted() -> None:
        if next(calls) == asked_before:
            raise NobodyWaits

    engine = Engine(bundle.deployed_graph, "cpu", 1)
    detector = Detector(bundle, engine, 10**8, require_wanted=require_wanted)
    with pytest.raises(NobodyWaits):
        detector.detect(samples[0].read_bytes(), Selection(0.25, 300))
    assert ran == [] and next(calls) == asked_before + 1 and detector.budget.held_bytes == 0


def test_annotating_keeps_the_size_and_draws_only_when_something_is_found(detector: Detector) -> None:
    data = encode(Image.fromarray(scene(90, 70)), "PNG")
    nothing, everything = (detector.annotate(data, Selection(conf, 300), "png").file for conf in (1.0, 0.0))
    decoded = [cv2.imdecode(np.frombuffer(d, np.uint8), cv2.IMREAD_COLOR) for d in (nothing, everything)]
    np.testing.assert_array_equal(decoded[0], scene(90, 70)[..., ::-1])
    assert (decoded[1] != decoded[0]).any()


def test_refusals_pass_through(detector: Detector) -> None:
    with pytest.raises(UnsupportedImage):
        detector.detect(b"text", ALL)
    with pytest.raises(BrokenImage):
        detector.detect(encode(Image.fromarray(scene()), "PNG")[:-20], ALL)
    with pytest.raises(ImageTooLarge):
        detector.detect(encode(Image.new("1", (2001, 2000)), "PNG"), ALL)

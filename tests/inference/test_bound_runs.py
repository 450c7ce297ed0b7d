"""Bound runs answer what plain runs answer. On the processor here; what binds them to a GPU is one argument."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from service.bundle.store import Bundle
from service.inference.bound_runs import MOST_SHAPES, BoundRuns
from tests.inference.graphs import places_graph


def batches(bundle: Bundle, sizes: list[int]) -> list[np.ndarray]:
    image, _ = bundle.self_check_arrays()
    return [
        np.concatenate([np.roll(image[None], 17 * (number + 5 * place), axis=2) for place in range(size)])
        for number, size in enumerate(sizes)
    ]


@pytest.fixture(scope="module")
def plain(bundle: Bundle) -> ort.InferenceSession:
    """With one thread, so that sums are added in one order."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(bundle.deployed_graph, options, providers=["CPUExecutionProvider"])


def test_rows_are_those_of_a_plain_run_bit_for_bit(bundle: Bundle, plain: ort.InferenceSession) -> None:
    bound = BoundRuns(plain, "cpu")
    found = []
    # Sizes come again, so that memory is used again, with other pictures in it.
    for images in batches(bundle, [1, 2, 4, 1, 2, 1]):
        (expected,) = plain.run(["detections"], {"images": images})
        found.append((bound.run(images), expected))
    # Compared at the end: a row that lay in memory of the runtime's would be another run's by now.
    for rows, expected in found:
        assert rows.dtype == np.float32 and rows.flags.writeable
        np.testing.assert_array_equal(rows, expected)
    assert not any(np.array_equal(found[0][0], rows) for rows, _ in found[1:])


def test_pictures_that_are_no_block_of_memory(bundle: Bundle, plain: ort.InferenceSession) -> None:
    (images,) = batches(bundle, [2])
    (expected,) = plain.run(["detections"], {"images": np.ascontiguousarray(images[:, :, ::-1])})
    np.testing.assert_array_equal(BoundRuns(plain, "cpu").run(images[:, :, ::-1]), expected)


def test_callers_at_once_each_get_their_own(bundle: Bundle, plain: ort.InferenceSession) -> None:
    bound = BoundRuns(plain, "cpu")
    inputs = batches(bundle, [1, 1, 2, 1, 1, 2, 1, 1])
    expected = [plain.run(["detections"], {"images": images})[0] for images in inputs]
    with ThreadPoolExecutor(4) as callers:
        for _ in range(2):
            for rows, wanted in zip(callers.map(bound.run, inputs), expected, strict=True):
                np.testing.assert_array_equal(rows, wanted)
            bound.forget()


def test_a_run_that_fails_costs_nobody_else(bundle: Bundle, plain: ort.InferenceSession) -> None:
    bound = BoundRuns(plain, "cpu")
    (images,) = batches(bundle, [1])
    (expected,) = plain.run(["detections"], {"images": images})
    for _ in range(2):
        with pytest.raises(Exception, match="images"):
            bound.run(images[:, :-1])  # the graph takes squares of one size only
    np.testing.assert_array_equal(bound.run(images), expected)


@pytest.fixture
def places(tmp_path: Path) -> ort.InferenceSession:
    """As many rows as bytes of the picture are not zero."""
    return ort.InferenceSession(places_graph(tmp_path / "places.onnx"), providers=["CPUExecutionProvider"])


def picture(rows: int, height: int = 4) -> np.ndarray:
    image = np.zeros((1, height, 4, 3), np.uint8)
    image.reshape(-1)[:rows] = 1
    return image


def test_how_many_rows_there_are_may_depend_on_the_picture(places: ort.InferenceSession) -> None:
    bound = BoundRuns(places, "cpu")
    for rows in (3, 7, 0, 40, 1):
        (expected,) = places.run(["detections"], {"images": picture(rows)})
        assert expected.shape == (1, rows, 4)
        np.testing.assert_array_equal(bound.run(picture(rows)), expected)


def test_inputs_of_a_few_shapes_are_kept_and_no_more(places: ort.InferenceSession) -> None:
    bound = BoundRuns(places, "cpu")
    for height in [*range(1, 2 * MOST_SHAPES), 1]:
        assert bound.run(picture(1, height)).shape == (1, 1, 4)
        bound.run(picture(2, 5))  # comes again and again, and so is never the oldest
    kept = [shape[1] for shape in bound._free]
    assert len(kept) == MOST_SHAPES and kept[-2:] == [1, 5]
    assert all(len(slots) == 1 for slots in bound._free.values())

"""``POST /model/lint`` over a real socket: tensors and pictures spoilt in known ways."""

import asyncio
import io
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest

from service.api.lint_schemas import LintAnswer
from service.bundle.store import Bundle
from service.errors import Overloaded
from service.inference.calibration_file import Learnt, save_calibration
from service.inference.calibration_pictures import measure_folder
from service.inference.learn import learn_faults
from service.lint.faults import PICTURE_FAULTS, SCALINGS
from service.preprocessing.letterbox import letterbox, picture_tensor, plan_letterbox
from tests.api.serving import Serving, assert_problem, serving, wait_until
from tests.drift.readings import invented_calibration
from tests.lint.pictures import picture, picture_bytes, write_pictures

LINT = "/model/lint"
FRESH = 1000  # pictures from here on were not calibrated with


@pytest.fixture(scope="module")
def plain(bundle: Bundle) -> Iterator[Serving]:
    """A server without calibration."""
    with serving(bundle, max_upload_bytes=21_000_000) as running:
        yield running


@pytest.fixture(scope="module")
def taught_bundle(bundle_copy: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A copy of the bundle whose linter has seen 128 generated pictures."""
    folder = write_pictures(tmp_path_factory.mktemp("ordinary") / "pictures", 128)
    signatures = learn_faults(measure_folder(bundle_copy, folder, 50_000_000, lambda _done, _total: None).faults)
    save_calibration(Learnt(invented_calibration(bundle_copy), signatures), bundle_copy)
    return bundle_copy


@pytest.fixture(scope="module")
def taught(taught_bundle: Bundle) -> Iterator[Serving]:
    with serving(taught_bundle, max_upload_bytes=21_000_000) as running:
        yield running


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.ascontiguousarray(array))
    return stream.getvalue()


def send(server: Serving, content: bytes, media_type: str = "application/octet-stream") -> httpx.Response:
    return server.client.post(LINT, content=content, headers={"content-type": media_type})


def lint(server: Serving, content: bytes, media_type: str = "application/octet-stream") -> dict:
    response = send(server, content, media_type)
    assert response.status_code == 200, response.text
    LintAnswer.model_validate(response.json())
    return response.json()


def codes(answer: dict) -> list[str]:
    return [finding["code"] for finding in answer["findings"]]


def squares(size: int, count: int, padding: int = 114) -> np.ndarray:
    """Letterboxed generated pictures, (count, size, size, 3) uint8 BGR."""
    made = []
    for index in range(FRESH, FRESH + count):
        image = picture(index)
        plan = plan_letterbox(image.shape[1], image.shape[0], size)
        square = letterbox(image, plan)
        inside = np.zeros((size, size), bool)
        (left, top), (width, height) = plan.offset_xy, plan.resized_wh
        inside[top : top + height, left : left + width] = True
        made.append(np.where(inside[..., None], square, padding).astype(np.uint8))
    return np.stack(made)


@pytest.fixture(scope="module")
def side(bundle: Bundle) -> int:
    return bundle.manifest.model.input.height


def test_right_tensors_have_no_findings(plain: Serving, side: int) -> None:
    pictures = squares(side, 3)
    for sent in (npy(pictures), npy(np.stack([picture_tensor(p) for p in pictures]))):
        answer = lint(plain, sent)
        assert answer["findings"] == []
        assert answer["scale"]["taken_for"] == "none"
        assert (answer["calibrated"], answer["probabilities"], answer["confusion"]) == (False, None, None)


@pytest.mark.parametrize("scaling", SCALINGS[1:], ids=lambda s: s.name)
def test_wrong_ranges_are_told_without_calibration(plain: Serving, side: int, scaling) -> None:
    tensors = np.stack([picture_tensor(p) for p in squares(side, 2)])
    answer = lint(plain, npy(scaling.apply(tensors)))
    assert codes(answer) == [scaling.name]
    assert answer["scale"]["taken_for"] == scaling.name
    assert answer["findings"][0]["advice"]


def test_shape_and_padding_are_told_without_calibration(plain: Serving, side: int) -> None:
    black = np.stack([picture_tensor(p) for p in squares(side, 2, padding=0)])
    assert codes(lint(plain, npy(black))) == ["padding_color"]
    last = lint(plain, npy(black.transpose(0, 2, 3, 1)))
    assert codes(last) == ["misplaced_channels", "padding_color"]
    small = np.stack([picture_tensor(p) for p in squares(side // 2, 2)])
    assert codes(lint(plain, npy(small))) == ["wrong_size"]
    assert codes(lint(plain, npy(np.float32(1000) * black))) == ["unknown_scale"]


def test_equal_channels_are_grey_without_calibration(plain: Serving, side: int) -> None:
    grey = np.repeat(squares(side, 1)[..., 1:2], 3, -1)
    assert codes(lint(plain, npy(grey))) == ["grey"]
    encoded = cv2.imencode(".png", cv2.cvtColor(picture(FRESH), cv2.COLOR_BGR2GRAY))[1].tobytes()
    assert codes(lint(plain, encoded, "image/png")) == ["grey"]


def test_the_services_own_pipeline_passes_its_linter(plain: Serving, samples: list[Path]) -> None:
    for path in samples:
        answer = lint(plain, path.read_bytes(), "image/jpeg")
        assert answer["input"]["kind"] == "picture"
        assert answer["scale"] == {"taken_for": "none", "certain": True, "distances": answer["scale"]["distances"]}
        assert "padded_picture" not in codes(answer)


def test_a_picture_that_was_padded_before_is_told(plain: Serving) -> None:
    image = cv2.copyMakeBorder(picture(FRESH), 200, 200, 0, 0, cv2.BORDER_CONSTANT, value=(0, 0, 0))
    encoded = cv2.imencode(".png", image)[1].tobytes()
    answer = lint(plain, encoded, "image/png")
    assert codes(answer) == ["padded_picture"]
    assert "(0, 0, 0)" in answer["findings"][0]["evidence"]


def test_multipart_is_taken_too(plain: Serving, side: int) -> None:
    sent = {"file": ("tensor.npy", npy(squares(side, 1)), "application/octet-stream")}
    response = plain.client.post(LINT, files=sent)
    assert response.status_code == 200
    assert response.json()["input"] == {
        "kind": "tensor",
        "pictures": 1,
        "shape": [1, side, side, 3],
        "dtype": "uint8",
        "contract": "deployed",
    }


@pytest.mark.parametrize(
    ("content", "status", "slug"),
    [
        (b"", 400, "empty-body"),
        (b"no picture and no tensor", 415, "unsupported-image"),
        (npy(np.zeros((3, 64, 64), np.float32))[:-8], 422, "broken-tensor"),
        (npy(np.full((3, 64, 64), np.nan, np.float32)), 422, "broken-tensor"),
        (npy(np.zeros((2, 64, 64), np.float32)), 422, "broken-tensor"),
        (npy(np.zeros((3, 64, 64), np.int64)), 422, "broken-tensor"),
        (picture_bytes(0)[:3000], 422, "broken-image"),
    ],
)
def test_what_cannot_be_looked_at_is_refused(plain: Serving, content: bytes, status: int, slug: str) -> None:
    assert_problem(send(plain, content), status, slug)


def test_unknown_parameters_are_refused(plain: Serving) -> None:
    response = plain.client.post(f"{LINT}?conf=1", content=b"x", headers={"content-type": "image/png"})
    assert_problem(response, 422, "unknown-parameter")


def test_swapped_and_inverted_tensors_are_told_after_calibration(taught: Serving, side: int) -> None:
    pictures = squares(side, 16)
    right = lint(taught, npy(pictures))
    assert codes(right) == []
    assert right["calibrated"] and right["taught_by"] == "file"
    swapped = lint(taught, npy(pictures[..., ::-1]))
    assert codes(swapped) == ["channels_swapped"]
    assert swapped["findings"][0]["probability"] == swapped["probabilities"]["channels_swapped"]
    inverted = lint(taught, npy(255 - pictures))
    # Padding is inverted with the rest.
    assert set(codes(inverted)) == {"inverted", "padding_color"}
    assert 8 < inverted["effective_pictures"] <= 16
    assert inverted["confusion"]["pictures"] == 8
    assert inverted["confusion"]["faults"] == [fault.name for fault in PICTURE_FAULTS]
    for row in inverted["confusion"]["shares"]:
        assert sum(row) == pytest.approx(1)


def test_a_range_and_a_colour_fault_are_told_together(taught: Serving, side: int) -> None:
    tensors = np.stack([picture_tensor(p) for p in squares(side, 4)])
    answer = lint(taught, npy((1 - tensors) * 255))
    assert codes(answer)[0] == "scale_0_255"
    assert max(answer["probabilities"], key=answer["probabilities"].get) == "inverted"


def test_frames_of_one_scene_count_as_one_picture(taught: Serving, side: int) -> None:
    one = squares(side, 1)
    once = lint(taught, npy(one))
    often = lint(taught, npy(np.repeat(one, 16, 0)))
    assert (often["input"]["pictures"], often["effective_pictures"]) == (16, pytest.approx(1.0))
    assert often["probabilities"] == pytest.approx(once["probabilities"])
    assert often["confusion"]["pictures"] == 1


def test_tensors_wait_for_the_memory_of_pictures_being_decoded(plain: Serving, side: int) -> None:
    budget, answers = plain.service.detector.budget, []
    asking = threading.Thread(target=lambda: answers.append(lint(plain, npy(squares(side, 2)))))
    with budget.hold(10**9):
        asking.start()
        wait_until(lambda: budget.waiting == 1)
        assert answers == []
    asking.join()
    assert codes(answers[0]) == [] and budget.held_bytes == 0


def test_a_request_once_taken_is_not_refused_because_others_fill_the_queue(bundle: Bundle, side: int) -> None:
    """While its pictures are looked at one after the other, every place that becomes free is taken at once."""
    with serving(bundle, workers=1, threads=1, queue_size=1, max_upload_bytes=21_000_000) as crowded:
        pool, budget = crowded.service.pool, crowded.service.detector.budget
        status, done, refused = [], threading.Event(), []

        async def crowd() -> None:
            async def push() -> None:
                while not done.is_set():
                    try:
                        await pool.submit(lambda: time.sleep(0.002), time.monotonic() + 60)
                    except Overloaded:
                        refused.append(1)
                        await asyncio.sleep(0)

            await asyncio.gather(*(push() for _ in range(4)))

        def ask() -> None:
            status.append(send(crowded, npy(squares(side, 4))).status_code)
            done.set()

        asking, others = threading.Thread(target=ask), threading.Thread(target=lambda: asyncio.run(crowd()))
        with budget.hold(10**9):
            asking.start()
            wait_until(lambda: budget.waiting == 1)
            others.start()
            wait_until(lambda: len(refused) > 0)
            assert_problem(send(crowded, npy(squares(side, 4))), 503, "overloaded")
        asking.join()
        others.join()
        assert status == [200]

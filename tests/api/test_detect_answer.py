"""Answers are made without the models that describe them: these hold the one to the other, to the byte."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pydantic import BaseModel

from service.api.answers import json_answer
from service.api.batch_schemas import BatchAnswer
from service.api.detect_answer import describe_detections, detect_answer, steps_ms
from service.api.schemas import DetectAnswer
from service.bundle.store import Bundle
from service.inference.detections import Detections
from service.inference.detector import DetectionResult, Timings
from tests.api.serving import Serving, serving

COUNTS = (0, 1, 300)
WIDTH, HEIGHT = 4000, 3000


@pytest.fixture(scope="module")
def server(bundle: Bundle) -> Iterator[Serving]:
    with serving(bundle, workers=2, threads=1) as running:
        yield running


@pytest.fixture(scope="module")
def parcel(samples: list[Path]) -> bytes:
    return next(path for path in samples if path.stem == "parcel").read_bytes()


def detections(count: int, classes: int) -> Detections:
    """Boxes all over a picture, with whole numbers and halves of the last digit among the corners."""
    rng = np.random.default_rng(count)
    xyxy = rng.uniform(0, (WIDTH, HEIGHT) * 2, (count, 4)).astype(np.float32)
    xyxy[::3] = np.rint(xyxy[::3])
    xyxy[1::3] = np.rint(xyxy[1::3] * 16) / 16
    confidence = rng.uniform(0, 1, count).astype(np.float32)
    confidence[::7] = np.rint(confidence[::7])
    return Detections(xyxy, confidence, rng.integers(0, classes, count))


def as_the_model_dumps(body: bytes, model: type[BaseModel]) -> bytes:
    """What the documented model makes of an answer: a value of another type, name or place comes out different."""
    return bytes(json_answer(model.model_validate_json(body)).body)


def in_sorted_order(body: bytes) -> str:
    return json.dumps(json.loads(body), sort_keys=True)


@pytest.mark.parametrize("count", COUNTS)
def test_an_answer_is_what_its_model_dumps(bundle: Bundle, count: int) -> None:
    model = bundle.manifest.model
    found = detections(count, len(model.classes))
    result = DetectionResult(
        found, WIDTH, HEIGHT, Timings(memory_wait=0.0, decode=2.0, inference=1 / 3, postprocess=1.0)
    )
    answer = detect_answer(result, model, steps_ms(result, waited_s=0.25), began=0.0)
    assert len(answer["detections"]) == count
    assert answer["timing_ms"]["queue"] == 250 and answer["timing_ms"]["inference"] == 0.333
    body = bytes(json_answer(answer).body)
    assert as_the_model_dumps(body, DetectAnswer) == body


def test_figures_are_rounded_as_python_rounds_them(bundle: Bundle) -> None:
    model = bundle.manifest.model
    found = detections(20_000, len(model.classes))
    described = describe_detections(found, model)
    # Their text tells -0.0 from 0.0 and an integer from a float.
    corners = [repr(list(one["box"].values())) for one in described]
    assert corners == [repr([round(corner, 3) for corner in box]) for box in found.xyxy.tolist()]
    confidences = [repr(one["confidence"]) for one in described]
    assert confidences == [repr(round(confidence, 6)) for confidence in found.confidence.tolist()]
    assert [(one["class"], one["name"]) for one in described] == [
        (class_id, model.classes[class_id]) for class_id in found.class_id.tolist()
    ]


@pytest.mark.parametrize("count", COUNTS)
def test_what_is_answered_over_http_is_what_its_model_dumps(server: Serving, parcel: bytes, count: int) -> None:
    query = {"conf": "1"} if count == 0 else {"conf": "0", "max_det": f"{count}"}
    answer = server.client.post("/detect", content=parcel, headers={"content-type": "image/jpeg"}, params=query)
    assert len(answer.json()["detections"]) == count
    assert as_the_model_dumps(answer.content, DetectAnswer) == answer.content
    batch = server.client.post("/detect/batch", files=[("files", parcel), ("files", parcel)], params=query)
    assert [len(result["detections"]) for result in batch.json()["results"]] == [count, count]
    # Which picture it is comes first in a result, and last in the model that inherits all else.
    dumped = as_the_model_dumps(batch.content, BatchAnswer)
    assert in_sorted_order(dumped) == in_sorted_order(batch.content)

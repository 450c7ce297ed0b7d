"""Requests that share runs of the network get the answers they would get alone."""

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from service.bundle.store import Bundle
from service.inference.onnxruntime_engine import OnnxRuntimeEngine
from tests.api.serving import Serving, serving

REQUESTS, SIZE = 24, 4


@pytest.fixture(scope="module")
def pictures(samples: list[Path]) -> list[bytes]:
    """Parts of the samples, each another."""
    found = []
    for number in range(REQUESTS):
        with Image.open(samples[number % len(samples)]) as whole:
            file = io.BytesIO()
            left, top = 7 * number, 5 * number
            whole.crop((left, top, whole.width - 3 * number, whole.height)).save(file, "PNG")
            found.append(file.getvalue())
    return found


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures each run of the network held, in order."""
    counted: list[int] = []
    run = OnnxRuntimeEngine.run

    def count(engine: OnnxRuntimeEngine, images: np.ndarray) -> np.ndarray:
        counted.append(len(images))
        return run(engine, images)

    monkeypatch.setattr(OnnxRuntimeEngine, "run", count)
    return counted


@pytest.fixture
def server(bundle: Bundle, sizes: list[int]) -> Iterator[Serving]:
    with serving(bundle, max_batch_size=SIZE, drift_cpu=0) as running:
        yield running


def test_requests_at_once_share_runs_and_get_the_answers_they_would_get_alone(
    server: Serving, pictures: list[bytes], sizes: list[int]
) -> None:
    engine = server.client.get("/model").json()["engine"]
    assert (engine["max_batch_size"], engine["workers"]) == (SIZE, 2 * SIZE)
    assert set(sizes) == {1, 2, 4}  # the start-up check
    sizes.clear()
    alone = [_detections(server.client.post("/detect", content=picture, headers=_PNG)) for picture in pictures]
    assert sizes == [1] * REQUESTS
    sizes.clear()

    def ask(picture: bytes) -> list[dict]:
        return _detections(httpx.post(f"{server.url}/detect", content=picture, headers=_PNG, timeout=60))

    with ThreadPoolExecutor(2 * SIZE) as callers:
        together = list(callers.map(ask, pictures))
    assert sum(sizes) == REQUESTS and 1 < max(sizes) <= SIZE
    assert sum(map(len, alone)) > REQUESTS
    for found, expected in zip(together, alone, strict=True):
        assert [one["name"] for one in found] == [one["name"] for one in expected]
        for a, b in zip(found, expected, strict=True):
            assert a["confidence"] == pytest.approx(b["confidence"], abs=1e-4)
            assert a["box"] == pytest.approx(b["box"], abs=0.05)


_PNG = {"Content-Type": "image/png"}


def _detections(response: httpx.Response) -> list[dict]:
    found: list[dict] = response.raise_for_status().json()["detections"]
    return found

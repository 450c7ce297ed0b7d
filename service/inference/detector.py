"""The whole path from an image file to detections, with the time each step took."""

import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from service.bundle.store import Bundle
from service.inference.detections import Detections, select_detections
from service.inference.draw import draw_detections, encode_picture
from service.inference.engine import InferenceEngine
from service.inference.images import decode_image
from service.preprocessing.letterbox import PAD_VALUE, letterbox, plan_letterbox


@dataclass(frozen=True)
class Timings:
    """Milliseconds spent in each step; inference includes the letterboxing."""

    decode: float
    inference: float
    postprocess: float


@dataclass(frozen=True)
class DetectionResult:
    """What was found in one picture of ``width`` x ``height`` upright pixels."""

    detections: Detections
    width: int
    height: int
    timings_ms: Timings


@dataclass(frozen=True)
class Selection:
    """Which detections a request wants; see ``select_detections``."""

    conf: float
    max_det: int
    classes: Collection[int] | None = None


class Detector:
    """Finds objects in image files. Safe to use from several threads."""

    def __init__(self, bundle: Bundle, engine: InferenceEngine, max_pixels: int) -> None:
        """Serve ``bundle`` with ``engine``; pictures of more than ``max_pixels`` pixels are refused."""
        self._model = bundle.manifest.model
        self._engine, self._max_pixels = engine, max_pixels

    def warm_up(self) -> None:
        """Run one real inference, so that the first request finds everything allocated.

        Raises:
            EngineError: the runtime failed.
        """
        size = self._model.input.height
        self._engine.run(np.full((1, size, size, 3), PAD_VALUE, np.uint8))

    def detect(self, data: bytes, selection: Selection) -> DetectionResult:
        """Find objects in one image file.

        Raises:
            ImageError: the bytes are not an acceptable picture; the subclass says why.
            EngineError: the runtime failed.
        """
        result, _ = self._detect(data, selection)
        return result

    def annotate(self, data: bytes, selection: Selection, picture_format: Literal["jpeg", "png"]) -> bytes:
        """Draw what ``detect`` finds into the picture and encode it. Raises the same errors."""
        result, image = self._detect(data, selection)
        draw_detections(image, result.detections, self._model.classes)
        return encode_picture(image, picture_format)

    def _detect(self, data: bytes, selection: Selection) -> tuple[DetectionResult, NDArray[np.uint8]]:
        started = time.perf_counter()
        image = decode_image(data, max_pixels=self._max_pixels)
        decoded = time.perf_counter()
        height, width = image.shape[:2]
        plan = plan_letterbox(width, height, self._model.input.height)
        rows = self._engine.run(letterbox(image, plan)[None])[0]
        inferred = time.perf_counter()
        found = select_detections(rows, plan, conf=selection.conf, max_det=selection.max_det, classes=selection.classes)
        ended = time.perf_counter()
        timings = Timings((decoded - started) * 1e3, (inferred - decoded) * 1e3, (ended - inferred) * 1e3)
        return DetectionResult(found, width, height, timings), image

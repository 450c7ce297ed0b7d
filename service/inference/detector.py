"""The whole path from an image file to detections, with the time each step took."""

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from service.bundle.store import Bundle
from service.inference.decode_budget import DecodeBudget
from service.inference.detections import Detections, select_detections
from service.inference.draw import draw_detections, encode_picture
from service.inference.engine import InferenceEngine
from service.inference.headers import ImageHeader
from service.inference.images import decode_pixels, inspect_image, require_memory
from service.inference.reduced_decode import NOT_REDUCED, choose_reduction
from service.preprocessing.letterbox import Letterbox, letterbox, plan_letterbox


@dataclass(frozen=True)
class Timings:
    """Milliseconds spent in each step; inference includes the letterboxing.

    ``memory_wait`` went by before decoding, until other pictures had left room for this one.
    """

    memory_wait: float
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
class AnnotatedPicture:
    """An encoded picture with what was found drawn into it."""

    file: bytes
    result: DetectionResult


@dataclass(frozen=True)
class Selection:
    """Which detections a request wants; see ``select_detections``."""

    conf: float
    max_det: int
    classes: Collection[int] | None = None


#: Memory of all pictures being decoded at once: two JPEG photographs of 12 megapixels take 72 MB. Two instead of one
#: gained nothing: decoding takes less time than running the network, which fills the cores anyway.
DECODE_BUDGET_BYTES = 100_000_000
#: Bytes of a pixel of most files while they are decoded: three colours. The limit in pixels is about these.
_PLAIN_BYTES = 3


@dataclass(frozen=True)
class _Fitted:
    """A picture in the network's input, and when and in how many seconds it was decoded."""

    plan: Letterbox
    pixels: NDArray[np.uint8]
    decoded: float
    decode_s: float
    memory_wait_s: float


class Detector:
    """Finds objects in image files. Safe to use from several threads."""

    def __init__(
        self,
        bundle: Bundle,
        engine: InferenceEngine,
        max_pixels: int,
        decode_bytes: int = DECODE_BUDGET_BYTES,
        reduced: bool = False,
        observe: Callable[[Letterbox, NDArray[np.uint8]], None] | None = None,
        make_room: Callable[[], None] | None = None,
        require_wanted: Callable[[], None] = lambda: None,
    ) -> None:
        """Serve ``bundle`` with ``engine``.

        Args:
            max_pixels: pictures of more pixels are refused. So are those that take more memory to decode than so many
                pixels in 8-bit colour and more than ``decode_bytes``.
            decode_bytes: memory of all pictures being decoded at once; one that needs more by itself is decoded alone.
            reduced: decode large JPEGs smaller (``choose_reduction``); what is answered stays in pixels of the picture.
            observe: shown each letterboxed picture (H, W, 3) that was looked at; it must return at once.
            make_room: called before a picture is decoded alone.
            require_wanted: called before a picture is decoded, and before the network runs; what it raises ends the
                work.
        """
        self._model = bundle.manifest.model
        self._engine, self._max_pixels, self._reduced = engine, max_pixels, reduced
        self._shared_bytes, self._most_bytes = decode_bytes, max(max_pixels * _PLAIN_BYTES, decode_bytes)
        self._budget, self._observe, self._make_room = DecodeBudget(decode_bytes), observe, make_room
        self._require_wanted = require_wanted

    def detect(self, data: bytes, selection: Selection) -> DetectionResult:
        """Find objects in one image file.

        Raises:
            ImageError: the bytes are not an acceptable picture; the subclass says why.
            EngineError: the runtime failed.
        """
        return self._find(self._fit_file(data), selection)

    @property
    def budget(self) -> DecodeBudget:
        """What is held of the memory for pictures being decoded."""
        return self._budget

    def fit(self, data: bytes) -> tuple[Letterbox, NDArray[np.uint8]]:
        """Decode one image file into the network's input (H, W, 3), without looking for anything in it.

        Raises:
            ImageError: the bytes are not an acceptable picture; the subclass says why.
        """
        fitted = self._fit_file(data)
        return fitted.plan, fitted.pixels

    def annotate(self, data: bytes, selection: Selection, picture_format: Literal["jpeg", "png"]) -> AnnotatedPicture:
        """Draw what ``detect`` finds into the picture and encode it. Raises the same errors."""
        asked = time.perf_counter()
        header = inspect_image(data, max_pixels=self._max_pixels)
        if self._reduction(header) != NOT_REDUCED:
            require_memory(header, self._most_bytes, in_c_order=True)  # before the work rather than after it
            # The network must see what it sees without drawing, or the boxes drawn would not be those answered.
            result = self._find(self._fit_file(data), selection)
            with self._admitted(header, in_c_order=True):
                image = np.ascontiguousarray(decode_pixels(data, header))
                return self._draw(image, result, picture_format)
        with self._admitted(header, in_c_order=True) as waited_s:
            image, fitted = self._fit(data, header, NOT_REDUCED, asked, waited_s)
            image = np.ascontiguousarray(image)
            return self._draw(image, self._find(fitted, selection), picture_format)

    def _draw(
        self, image: NDArray[np.uint8], result: DetectionResult, picture_format: Literal["jpeg", "png"]
    ) -> AnnotatedPicture:
        draw_detections(image, result.detections, self._model.classes)
        return AnnotatedPicture(encode_picture(image, picture_format), result)

    def _reduction(self, header: ImageHeader) -> int:
        return choose_reduction(header, self._model.input.height) if self._reduced else NOT_REDUCED

    def _fit_file(self, data: bytes) -> _Fitted:
        asked = time.perf_counter()
        header = inspect_image(data, max_pixels=self._max_pixels)
        reduction = self._reduction(header)
        with self._admitted(header, reduction) as waited_s:
            # Once it lies in the input, the picture itself is not needed any more.
            return self._fit(data, header, reduction, asked, waited_s)[1]

    @contextmanager
    def _admitted(
        self, header: ImageHeader, reduction: int = NOT_REDUCED, *, in_c_order: bool = False
    ) -> Iterator[float]:
        """Hold what decoding takes until the block ends; gives the seconds waited for it."""
        needed = require_memory(header, self._most_bytes, reduction, in_c_order=in_c_order)
        with self._budget.hold(needed) as waited_s:
            self._require_wanted()  # waiting may have taken long
            if needed > self._shared_bytes and self._make_room is not None:
                self._make_room()
            yield waited_s

    def _fit(
        self, data: bytes, header: ImageHeader, reduction: int, asked: float, waited_s: float
    ) -> tuple[NDArray[np.uint8], _Fitted]:
        image = decode_pixels(data, header, reduction)
        decoded = time.perf_counter()
        height, width = image.shape[:2]
        plan = plan_letterbox(width * reduction, height * reduction, self._model.input.height, self._model.input.rect)
        return image, _Fitted(plan, letterbox(image, plan), decoded, decoded - asked - waited_s, waited_s)

    def _find(self, fitted: _Fitted, selection: Selection) -> DetectionResult:
        self._require_wanted()
        rows = self._engine.run(fitted.pixels[None])[0]
        inferred = time.perf_counter()
        plan = fitted.plan
        if self._observe is not None:
            self._observe(plan, fitted.pixels)
        found = select_detections(rows, plan, conf=selection.conf, max_det=selection.max_det, classes=selection.classes)
        timings = Timings(
            memory_wait=fitted.memory_wait_s * 1e3,
            decode=fitted.decode_s * 1e3,
            inference=(inferred - fitted.decoded) * 1e3,
            postprocess=(time.perf_counter() - inferred) * 1e3,
        )
        return DetectionResult(found, *plan.source_wh, timings)

"""Does the quantized graph find the same boxes? Asked of each engine that could serve it here."""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from service.bundle.int8 import GateBar, GateVerdict, Int8Precision
from service.bundle.store import Bundle
from service.errors import QuantizationError, QuantizationRefused, SelfCheckFailed
from service.inference.known_pictures import Picture, read_fitted
from service.inference.onnxruntime_engine import OnnxRuntimeEngine
from service.inference.self_check import check_engine
from service.tuning.tolerance import RECURRENCE, Agreement, Reference

#: The bar of a choice by measurement, which asks int8 to be as good as bf16, on enough boxes: where 95 of 100 recur,
#: the share among all pictures of that kind is 90 % or more, at a confidence of 95 %.
RULE = RECURRENCE["int8+bf16"]
BAR = GateBar(iou=RULE.iou, confidence=RULE.confidence, share=RULE.share, least_boxes=100)
#: One-sided, at 95 %.
_Z = 1.6449

Advance = Callable[[int, int], None]


class Gate:
    """The pictures to judge by, and what the deployed graph finds in them in fp32 ONNX Runtime."""

    def __init__(
        self, bundle: Bundle, pictures: Sequence[Picture], max_pixels: int, threads: int, advance: Advance
    ) -> None:
        """Run the deployed graph.

        Raises:
            QuantizationRefused: there are too few boxes to judge by.
            QuantizationError: OpenVINO is not installed, which serves int8.
            PictureUnusable: as ``read_fitted``.
            EngineError: the runtime failed.
        """
        self._bundle, self._pictures, self._max_pixels, self._threads = bundle, pictures, max_pixels, threads
        self._openvino = _load_openvino()  # before minutes of measuring
        engine = OnnxRuntimeEngine(bundle.deployed_graph, "cpu", threads)
        answers = [engine.run(pixels[None])[0] for pixels in self._fitted(advance)]
        threshold = bundle.manifest.model.default_confidence
        boxes = int(sum((rows[:, 4] > threshold).sum() for rows in answers))
        if boxes < BAR.least_boxes:
            raise QuantizationRefused(_too_few(boxes, len(pictures), threshold))
        self._reference = Reference(bundle, answers)

    def judge(self, graph: Path, advance: Advance) -> list[GateVerdict]:
        """Run a quantized graph every way this machine can, fastest first.

        Raises:
            PictureUnusable: as ``read_fitted``.
            EngineError: the runtime failed.
        """
        ways: list[Int8Precision] = ["int8+fp32"]
        if "BF16" in self._openvino.processor_capabilities():
            ways.insert(0, "int8+bf16")
        engines = {way: self._openvino.OpenVinoEngine(graph, way, self._threads, 1) for way in ways}
        answers: dict[Int8Precision, list[NDArray[np.float32]]] = {way: [] for way in ways}
        for pixels in self._fitted(advance):
            for way, engine in engines.items():
                answers[way].append(engine.run(pixels[None])[0])
        verdicts = []
        for way, engine in engines.items():
            found = self._reference.judge(way, answers[way])
            fault = found.fault
            if fault is None:
                try:  # or a server would refuse it
                    check_engine(self._bundle, engine)
                except SelfCheckFailed as error:
                    fault = str(error)
            verdicts.append(_verdict(way, engine.runtime, found, fault))
        return verdicts

    def _fitted(self, advance: Advance) -> Iterator[NDArray[np.uint8]]:
        return read_fitted(self._pictures, self._bundle.manifest.model.input, self._max_pixels, advance)


def _load_openvino() -> ModuleType:
    try:
        from service.inference import openvino_engine  # optional
    except ImportError as error:
        raise QuantizationError(
            f"int8 is served by OpenVINO, which cannot be loaded ({error}). Install it with `pip install openvino`."
        ) from error
    return openvino_engine


def _verdict(way: Int8Precision, runtime: str, found: Agreement, fault: str | None) -> GateVerdict:
    return GateVerdict(
        precision=way,
        runtime=runtime,
        boxes=found.boxes,
        repeated=found.matched,
        new=found.extra,
        repeated_at_least=round(share_at_least(found.matched, found.boxes), 4),
        passed=fault is None,
        reason=fault,
    )


def share_at_least(successes: int, trials: int) -> float:
    """Wilson's lower bound of a share of which ``successes`` of ``trials`` were seen, one-sided at 95 %."""
    share, square = successes / trials, _Z**2
    centre = share + square / (2 * trials)
    spread = _Z * math.sqrt(share * (1 - share) / trials + square / (4 * trials**2))
    return (centre - spread) / (1 + square / trials)


def _too_few(boxes: int, pictures: int, threshold: float) -> str:
    enough = ""
    if boxes:
        enough = f" At this rate it takes {math.ceil(pictures * BAR.least_boxes / boxes)} pictures to judge by."
    return (
        f"The network finds {boxes} boxes above its default confidence of {threshold:g} in the {pictures} pictures to "
        f"judge by, and {BAR.least_boxes} are needed: with fewer a few boxes decide.{enough}"
    )

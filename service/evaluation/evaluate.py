"""The order of an evaluation: run the bundle on labelled pictures, judge its boxes, and compare."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

from service.bundle.store import Bundle
from service.errors import ClassMismatch, DataSetError, EvaluationError, ImageError
from service.evaluation.agreement import compare_boxes
from service.evaluation.bootstrap import RESAMPLES, draw_weights, interval, resampled_precision
from service.evaluation.data_set import DataSet
from service.evaluation.false_alarms import boxes_above, mean_interval
from service.evaluation.figures import (
    Judged,
    empty_pictures,
    judge_boxes,
    make_figures,
    pictures_without_objects,
)
from service.evaluation.layouts import open_data_set
from service.evaluation.matches import require_evaluator
from service.evaluation.report import (
    BoxAgreement,
    Comparison,
    DataDescription,
    Difference,
    EvaluationReport,
    Figures,
    Network,
)
from service.evaluation.sides import find_differences
from service.inference.detections import Detections
from service.inference.detector import Detector, Selection
from service.inference.engine import InferenceEngine
from service.inference.engine_choice import open_engine
from service.inference.onnxruntime_engine import OnnxRuntimeEngine, UnfoldedEngine
from service.inference.tensorrt_engine import TensorRtEngine
from service.settings import Settings
from service.tuning.start import settle_engine


class Progress(Protocol):
    """Told what is going on; the command line draws it."""

    def step(self, title: str) -> AbstractContextManager[Callable[[int, int], None]]:
        """Enter one step; the callable inside takes (done, total)."""
        ...


@dataclass(frozen=True)
class Subject:
    """A network to run: a bundle's deployed graph, or the one in which it kept its BatchNorm."""

    bundle: Bundle
    unfolded: bool = False


@dataclass(frozen=True)
class Request:
    """What to evaluate with.

    Attributes:
        data: folder or description of the data set.
        split: which part of it; None takes test if there is one, else val.
        negatives: whoever asks vouches that the pictures show no object of the model's classes.
        confidence: report precision and recall at this confidence too, or None.
        threads: threads of the network.
    """

    data: Path
    split: str | None
    negatives: bool
    confidence: float | None
    threads: int


def evaluate(
    subject: Subject, other: Subject | None, request: Request, settings: Settings, progress: Progress
) -> EvaluationReport:
    """Evaluate a bundle as it is served: the same decoding, letterboxing, runtime and boxes.

    A second network runs in the same way, except that one kept unfolded runs in ONNX Runtime whatever is set.

    Args:
        subject: must be folded; ``other`` may be unfolded.
        other: what it is compared with on the same pictures, or None.

    Raises:
        EvaluatorMissing: the extra ``evaluate`` is not installed.
        DataSetError: the data set cannot be read.
        ClassMismatch: the data set's or the other bundle's classes are not the bundle's.
        SettingsError: the settings of the engine contradict each other.
        EngineError: the engine asked for is not there, or failed.
    """
    require_evaluator()
    model = subject.bundle.manifest.model
    if other is not None:
        _require_same_classes(subject.bundle, other.bundle)
    with progress.step("Labels"):
        data = open_data_set(request.data, request.split, model.classes, settings.max_pixels, request.negatives)
    with progress.step("Engine"):
        settings = settle_engine(subject.bundle, settings)  # both networks in the engine that serves the first
        engine = open_engine(subject.bundle, settings, cores=request.threads, workers=1)
        beside = None if other is None else _open_beside(other, engine, settings, request.threads)
    judged, figures = _run(subject, engine, data, request, settings, progress)
    comparison = None
    if other is not None and beside is not None:
        judged_other, figures_other = _run(other, beside, data, request, settings, progress)
        confidence = model.default_confidence if request.confidence is None else request.confidence
        with progress.step("Comparison"):
            comparison = _compare(judged, judged_other, figures, figures_other, data, confidence)
    return EvaluationReport(
        data=_describe(data),
        evaluator=None if figures.absent else f"pycocotools {version('pycocotools')}",
        figures=figures,
        comparison=comparison,
    )


def _require_same_classes(first: Bundle, second: Bundle) -> None:
    ours, theirs = first.manifest.model.classes, second.manifest.model.classes
    if ours == theirs:
        return
    place = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs)))
    a, b = ((repr(names[place]) if place < len(names) else "no class") for names in (ours, theirs))
    raise ClassMismatch(
        f"{first.path} and {second.path} have different classes, first at id {place}: {a} and {b}. Their boxes cannot "
        "be compared."
    )


def _run(
    subject: Subject, engine: InferenceEngine, data: DataSet, request: Request, settings: Settings, progress: Progress
) -> tuple[Judged, Figures]:
    manifest = subject.bundle.manifest
    model = manifest.model
    network = Network(
        bundle=str(subject.bundle.path),
        name=model.name,
        version=model.version,
        weights_sha256=manifest.weights.sha256,
        input_px=model.input.height,
        rect=model.input.rect is not None,
        head=model.head.kind,
        graph="unfolded" if subject.unfolded else "folded",
        runtime=engine.runtime,
        provider=engine.provider,
        arithmetic=engine.precision,
        default_confidence=model.default_confidence,
        lowest_confidence=model.head.min_confidence,
        max_det=model.head.max_det,
    )
    with progress.step(f"Boxes of {model.version}{' unfolded' if subject.unfolded else ''}") as advance:
        detector = Detector(subject.bundle, engine, settings.max_pixels, reduced=settings.reduced_decode)
        found = find_boxes(detector, subject.bundle, data, advance)
    with progress.step("Figures"):
        judged = judge_boxes(data, found, model.head.max_det)
        return judged, make_figures(network, judged, data, model.classes, request.confidence)


def _open_beside(other: Subject, first: InferenceEngine, settings: Settings, threads: int) -> InferenceEngine:
    """What runs the second side: the same as the first, unless only ONNX Runtime can keep BatchNorm unfolded."""
    bundle = other.bundle
    if not other.unfolded:
        if settings.precision == "int8" and bundle.int8 is None:  # what int8 changed is asked
            settings = settings.model_copy(update={"precision": "fp32"})
        if settings.precision == "fp16" and bundle.fp16 is None:
            settings = settings.model_copy(update={"precision": None})
        return open_engine(bundle, settings, cores=threads, workers=1)
    # Where another runtime runs the first side, on the processor as that does.
    device = settings.device if isinstance(first, OnnxRuntimeEngine | TensorRtEngine) else "cpu"
    engine = UnfoldedEngine(bundle.reference_graph, device, threads)
    wanted = bundle.manifest.reference.batch_normalization_nodes
    if engine.batch_normalizations != wanted:
        raise EvaluationError(
            f"ONNX Runtime executed {engine.batch_normalizations} of the {wanted} BatchNormalization nodes in "
            f"{bundle.reference_graph}; the comparison would not show what folding changes."
        )
    return engine


def find_boxes(
    detector: Detector, bundle: Bundle, data: DataSet, advance: Callable[[int, int], None]
) -> list[Detections]:
    """Every box that leaves the graph, of the classes that are labelled, for each picture.

    Raises:
        DataSetError: a picture is damaged.
        EngineError: the runtime failed.
    """
    head = bundle.manifest.model.head
    everything = Selection(head.min_confidence, head.max_det, data.class_ids)
    found = []
    for number, picture in enumerate(data.pictures, 1):
        try:
            found.append(detector.detect(picture.path.read_bytes(), everything).detections)
        except ImageError as error:
            raise DataSetError(f"{picture.path}: the picture cannot be read: {error}") from error
        advance(number, len(data.pictures))
    return found


def _compare(
    first: Judged, second: Judged, figures: Figures, other: Figures, data: DataSet, confidence: float
) -> Comparison:
    map50_95, map50 = _precision_differences(first, second, figures, other)
    found = compare_boxes(first.found, second.found, confidence)
    return Comparison(
        other=other,
        differences=find_differences(figures.network, other.network),
        map50_95=map50_95,
        map50=map50,
        false_boxes_per_picture=_alarm_difference(first, second, data, confidence),
        resamples=RESAMPLES,
        boxes=BoxAgreement(
            confidence=confidence,
            boxes=found.boxes,
            pairs=found.pairs,
            unpaired=found.unpaired,
            one_side_only=found.one_side_only,
            largest_confidence_difference=found.confidence,
            largest_corner_difference_px=found.corner_px,
        ),
    )


def _precision_differences(
    first: Judged, second: Judged, figures: Figures, other: Figures
) -> tuple[Difference | None, Difference | None]:
    if figures.sizes is None or other.sizes is None:
        return None, None
    weights = draw_weights(len(first.found))
    resampled = resampled_precision(first.matches, weights) - resampled_precision(second.matches, weights)
    ends = interval(resampled.mean(1)), interval(resampled[:, 0])
    ours, theirs = figures.sizes["all"], other.sizes["all"]
    pairs = ((ours.ap50_95, theirs.ap50_95), (ours.ap50, theirs.ap50))
    map50_95, map50 = (
        Difference(estimate=(a or 0.0) - (b or 0.0), low=end.low, high=end.high)
        for (a, b), end in zip(pairs, ends, strict=True)
    )
    return map50_95, map50


def _alarm_difference(first: Judged, second: Judged, data: DataSet, confidence: float) -> Difference | None:
    ours, theirs = (boxes_above(empty_pictures(one.found, data), confidence) for one in (first, second))
    if not len(ours):
        return None
    ends = mean_interval(ours - theirs)
    return Difference(estimate=float((ours - theirs).mean()), low=ends.low, high=ends.high)


def _describe(data: DataSet) -> DataDescription:
    return DataDescription(
        source=str(data.source),
        layout=data.layout,
        split=data.split,
        pictures=len(data.pictures),
        pictures_without_objects=int(pictures_without_objects(data).sum()),
        objects=sum(int((~picture.objects.crowd).sum()) for picture in data.pictures),
        notes=data.notes,
    )

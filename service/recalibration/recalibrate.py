"""The order of a recalibration: pictures, statistics, a bundle beside the served one, and what it changes."""

from dataclasses import dataclass
from pathlib import Path

from service.bundle import store
from service.bundle.beside import beside_name, require_free
from service.bundle.manifest import LayerShift, Recalibration
from service.bundle.store import Bundle
from service.errors import SettingsError, WeightsHashMismatch
from service.heap import map_large_blocks, reuse_large_blocks
from service.inference.detections import Detections
from service.inference.detector import Detector, Selection
from service.inference.engine import InferenceEngine
from service.inference.engine_choice import open_engine
from service.inference.known_pictures import digest, read_fitted
from service.measurement.study import Effort
from service.observatory.diff import Side, compare_batchnorm, side_of_bundle, symmetric_divergence
from service.prepare.checkpoint import load_model
from service.prepare.pipeline import Choices, Progress, Study, build_bundle, bundle_version
from service.prepare.population_statistics import TOLERANCE
from service.prepare.recalibrated_checkpoint import RecalibratedCheckpoint, recalibrate_checkpoint
from service.prepare.weights import Checkpoint, WeightsRequest, resolve_weights
from service.recalibration.box_changes import count_changes
from service.recalibration.pictures import PictureSet, open_pictures
from service.recalibration.report import Data, Engine, RecalibrationReport, SkippedFile
from service.settings import Settings
from service.tuning.start import settle_engine


@dataclass(frozen=True)
class Request:
    """What to recalibrate with.

    Attributes:
        data: folder of unlabelled pictures.
        prior: how many pictures the old statistics count for, at least 0.
        hold_back: share of the pictures that are only compared on, 0 to 1; 0 compares on the fitted.
        out: folder the new bundle becomes; None chooses one beside the served bundle.
        threads: threads of the network, at least 1.
        callers: concurrent callers that its throughput would be measured with, at least 1.
    """

    data: Path
    prior: float
    hold_back: float
    out: Path | None
    threads: int
    callers: int


@dataclass(frozen=True)
class _Boxes:
    """What an engine found in each of the pictures compared on."""

    engine: Engine
    found: list[Detections]


def recalibrate(served: Bundle, request: Request, settings: Settings, progress: Progress) -> RecalibrationReport:
    """Make a bundle of the served network with statistics of new pictures. The served bundle is only read.

    Input size, padding, head and default confidence are the served bundle's, so that statistics are all that differs.

    Args:
        settings: those that the served bundle was found by; they lead to its checkpoint and to the engine that
            finds the boxes compared.

    Raises:
        RecalibrationError: the pictures will not do, or the network has no finite statistics.
        PictureUnusable: a picture has changed on the way.
        BundleNameRefused: the folder asked for will not do.
        WeightsError: the served bundle's checkpoint is not there any more, or cannot be read.
        BundleDirUnusable: the bundle cannot be written where it was asked for.
        PrepareError: the new bundle did not pass its proofs.
        SettingsError: the settings of the engine contradict each other; nothing was done yet.
        EngineError: the engine asked for is not there (nothing was done yet), or the runtime failed.
    """
    root = served.path.parent if request.out is None else request.out.parent
    if request.out is not None:
        require_free(request.out)
    store.require_writable(root)
    with progress.step("Engine"):
        settings = settle_engine(served, settings)  # both bundles in the engine that serves the first
        _require_float(settings)
        engine = _open_engine(served, request, settings)
    with progress.step("Pictures") as advance:
        pictures = open_pictures(request.data, request.hold_back, settings.max_pixels, advance)
    with progress.step("Weights"):
        source = _find_checkpoint(served, settings)
    before = _find_boxes(served, engine, pictures, settings, progress)
    del engine  # PyTorch needs the memory
    with store.scratch_folder(root) as scratch:
        with progress.step("Statistics, block by block") as advance:
            spec = served.manifest.model.input
            result = recalibrate_checkpoint(
                source,
                lambda: read_fitted(pictures.fitted, spec, settings.max_pixels),
                pictures=len(pictures.fitted),
                prior=request.prior,
                folder=scratch,
                advance=advance,
            )
        reuse_large_blocks()  # the new bundle's latency report has PyTorch in it, too
        target = _build(served, source, result, pictures, root, request, settings, progress)
    map_large_blocks()  # pictures are decoded again
    new = store.load_bundle(target)
    after = _find_boxes(new, _open_engine(new, request, settings), pictures, settings, progress)
    return _report(served, new, pictures, before, after)


def _require_float(settings: Settings) -> None:
    if settings.precision in ("int8", "fp16"):
        made_by, others = ("quantize", "=fp32 or bf16") if settings.precision == "int8" else ("halve", " to nothing")
        raise SettingsError(
            f"The engine that serves computes in {settings.precision}, but a graph for that belongs to its weights: "
            f"the recalibrated bundle will hold none to compare with. Set YOLOFOLD_PRECISION{others}, and run "
            f"`python -m service {made_by}` on the new bundle afterwards."
        )


def _find_checkpoint(served: Bundle, settings: Settings) -> Checkpoint:
    weights, asked = served.manifest.weights, settings.weights
    if served.manifest.recalibration is not None:
        asked = str(served.path / weights.file)  # a bundle that was recalibrated itself holds its checkpoint
    elif weights.source == "embedded":
        asked = "embedded"  # `auto` fell back to it then, but need not now
    # Beside the served bundle: YOLOFOLD_BUNDLE_DIR may name the bundle itself, which nothing may be added to.
    cache = served.path.parent / "downloads"
    try:
        return resolve_weights(WeightsRequest(asked, weights.sha256, settings.download_timeout_s, cache))
    except WeightsHashMismatch as error:
        raise WeightsHashMismatch(
            f"{served.path} was prepared from another checkpoint, which is needed: {error} Give the path of that one, "
            f"then called {weights.file}, by --weights or YOLOFOLD_WEIGHTS."
        ) from error


def _build(
    served: Bundle,
    source: Checkpoint,
    result: RecalibratedCheckpoint,
    pictures: PictureSet,
    root: Path,
    request: Request,
    settings: Settings,
    progress: Progress,
) -> Path:
    model = served.manifest.model
    choices = Choices(model.input.height, model.head.kind, model.default_confidence, model.input.rect is not None)
    version = bundle_version(result.checkpoint, choices)
    target = root / beside_name(model.name, "recalibrated", version) if request.out is None else request.out
    require_free(target)
    provenance = Recalibration(
        bundle_version=model.version,
        checkpoint_file=source.path.name,
        checkpoint_sha256=source.sha256,
        pictures=len(pictures.fitted),
        pictures_sha256=digest(pictures.fitted),
        prior=request.prior,
        residual=result.residual,
        tolerance=TOLERANCE,
        layers=_shifts(served, result),
    )
    # Opened from the file, as anyone else would: what is proved and exported is what is written there.
    loaded = load_model(result.checkpoint.path)
    return build_bundle(
        result.checkpoint,
        loaded,
        choices,
        target,
        progress,
        Study(Effort(), request.threads, request.callers, settings.device),
        provenance,
    )


def _shifts(served: Bundle, result: RecalibratedCheckpoint) -> list[LayerShift]:
    eps = {layer.name: layer.eps for layer in served.batchnorm.layers}
    halves = {
        name: float(symmetric_divergence(a.mean, a.var + eps[name], b.mean, b.var + eps[name]).mean())
        for name, (a, b) in result.halves.items()
    }
    after = Side("recalibrated", served.batchnorm.layers, result.arrays)
    return [
        LayerShift(
            name=layer.name,
            divergence_mean=layer.divergence_mean,
            divergence_max=layer.divergence_max,
            halves_divergence_mean=halves.get(layer.name),
        )
        for layer in compare_batchnorm(side_of_bundle(served), after).layers
    ]


def _report(served: Bundle, new: Bundle, pictures: PictureSet, before: _Boxes, after: _Boxes) -> RecalibrationReport:
    assert new.manifest.recalibration is not None  # written a moment ago
    model = served.manifest.model
    return RecalibrationReport(
        served=str(served.path),
        bundle=str(new.path),
        data=Data(
            folder=str(pictures.folder),
            fitted=len(pictures.fitted),
            held_back=len(pictures.held_back),
            repeated=pictures.repeated,
            skipped=[SkippedFile(file=str(one.path), reason=one.reason) for one in pictures.skipped],
        ),
        recalibration=new.manifest.recalibration,
        batchnorm=compare_batchnorm(side_of_bundle(served), side_of_bundle(new)),
        engines=(before.engine, after.engine),
        boxes=count_changes(before.found, after.found, model.default_confidence, model.classes),
    )


def _open_engine(bundle: Bundle, request: Request, settings: Settings) -> InferenceEngine:
    return open_engine(bundle, settings, cores=request.threads, workers=1)


def _find_boxes(
    bundle: Bundle, engine: InferenceEngine, pictures: PictureSet, settings: Settings, progress: Progress
) -> _Boxes:
    """Every box that leaves the graph, through the path that serves it, in the pictures to compare on."""
    model, compared = bundle.manifest.model, pictures.held_back or pictures.fitted
    with progress.step(f"Boxes of {model.version}") as advance:
        detector = Detector(bundle, engine, settings.max_pixels, reduced=settings.reduced_decode)
        everything = Selection(model.head.min_confidence, model.head.max_det)
        found = []
        for number, picture in enumerate(compared, 1):
            found.append(detector.detect(picture.path.read_bytes(), everything).detections)
            advance(number, len(compared))
    return _Boxes(Engine(runtime=engine.runtime, provider=engine.provider, arithmetic=engine.precision), found)

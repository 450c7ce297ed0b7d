"""Is this runtime, on this machine, the one the bundle was certified with? Asked once, before the first user."""

import time
from dataclasses import dataclass

from service.bundle.self_check import SelfCheckSpec
from service.bundle.store import Bundle
from service.comparison import Difference, Repetition, Tolerance, judge_highest, judge_repetition
from service.errors import SelfCheckFailed
from service.inference.engine import FLOAT32, InferenceEngine, Precision

#: CUDA multiplies float32 as TF32, with 10 bits after the point for 23. Emulated, that made the embedded YOLO26n stray
#: up to 0.15 px and 0.026 in the score, where the float32 tolerances are 0.001 px and 0.0002. This leaves it about
#: seven times that.
_TF32_FACTOR = 1024.0
#: fp16 has as many, but there whatever a node hands on is rounded, too. Rounded so on a processor (``widen_graph`` in
#: ``service.quantization.half_graph``) the embedded YOLO26n's fifty surest boxes strayed up to 0.56 px and 0.089 in the
#: score, worst of 26 pictures, and 0.11 px and 0.013 in the stored one. This allows 3.6 and 4.6 times the worst.
_FP16_FACTOR = 2 * _TF32_FACTOR
#: bf16 has 7 bits after the point, so it rounds 8 times as coarsely as TF32, and the first-order effect of rounding is
#: as many times as large. On OpenVINO, AVX512_BF16, the embedded YOLO26n's fifty surest boxes strayed up to 1.1 px and
#: 0.34 in the score, worst of eight photographs. This allows 7 and 5 times that.
_BF16_FACTOR = 8 * _TF32_FACTOR
#: int8 has 255 steps for the whole range of a tensor. On OpenVINO the embedded YOLO26n's fifty surest boxes strayed up
#: to 14 px and 1.1 in the score, worst of seven pictures, and 3 px and 0.4 in the stored one. This allows 2.4 and 6
#: times the worst; whether the boxes that count recur is for the gate to say.
_INT8_FACTOR = 4 * _BF16_FACTOR
_FACTORS: dict[Precision, float] = {
    "fp32": 1.0,
    "tf32": _TF32_FACTOR,
    "fp16": _FP16_FACTOR,
    "bf16": _BF16_FACTOR,
    "int8+bf16": _INT8_FACTOR,
    "int8+fp32": _INT8_FACTOR,
}


@dataclass(frozen=True)
class StartupCheck:
    """What the engine answered to the bundle's stored picture.

    Attributes:
        rows: boxes stored.
        matched: of these, found again.
        extra: boxes found besides.
        difference: largest differences among the matched, boxes in pixels of the input.
        tolerance: what was allowed of this engine.
        duration_ms: inference (the first in the process) and comparison.
    """

    rows: int
    matched: int
    extra: int
    difference: Difference
    tolerance: Tolerance
    duration_ms: float


def check_engine(bundle: Bundle, engine: InferenceEngine) -> StartupCheck:
    """Run the deployed graph on the stored picture, in each layout of the engine, and compare with the stored answer.

    It also warms the engine up: the first request finds everything allocated. What is returned is the worst of its
    layouts.

    Raises:
        SelfCheckFailed: the answers differ by more than rounding.
        BundleSchemaError: the stored picture or answer is not what the bundle says.
        EngineError: the runtime failed.
    """
    checks = [_check_layout(bundle, layout) for layout in engine.layouts]
    return max(checks, key=lambda check: (check.difference.box_px, check.difference.score))


def _check_layout(bundle: Bundle, engine: InferenceEngine) -> StartupCheck:
    spec = bundle.self_check
    image, expected = bundle.self_check_arrays()
    tolerance = engine_tolerance(bundle, engine)
    started = time.perf_counter()
    found = engine.run(image[None])[0]
    if spec.highest_confidence is None:
        suppressed = bundle.manifest.model.head.nms == "graph"
        repeated = judge_repetition(
            expected, found, threshold=spec.threshold, tolerance=tolerance, suppressed=suppressed
        )
    else:
        repeated = judge_highest(spec.highest_confidence, found, tolerance)
    duration_ms = (time.perf_counter() - started) * 1e3
    if not repeated.passed:
        retreat = "" if engine.precision in FLOAT32 else "set YOLOFOLD_PRECISION=fp32, "
        if engine.precision == "fp16":  # what a GPU has instead is TF32
            retreat = "leave YOLOFOLD_PRECISION empty, "
        raise SelfCheckFailed(
            f"{engine.provider} of {engine.runtime} in {engine.precision} does not compute what {bundle.path} was "
            f"certified for: {_findings(spec, repeated, tolerance)}. Nothing is served. Install the runtime "
            f"afresh, {retreat}or prepare the bundle again with --force."
        )
    return StartupCheck(spec.rows, repeated.matched, repeated.extra, repeated.difference, tolerance, duration_ms)


def _findings(spec: SelfCheckSpec, repeated: Repetition, tolerance: Tolerance) -> str:
    apart = repeated.difference
    in_the_score = f"{apart.score:.3g} in the score ({tolerance.score:.3g} allowed)"
    if spec.highest_confidence is not None:
        return f"the highest confidence in {spec.input} is {apart.confidence:.3g} off, {in_the_score}"
    return (
        f"of the {spec.rows} boxes stored for {spec.input} it finds {repeated.matched} and {repeated.extra} others, "
        f"{apart.box_px:.3g} px off at most ({tolerance.box_px:.3g} allowed) and {in_the_score}"
    )


def engine_tolerance(bundle: Bundle, engine: InferenceEngine) -> Tolerance:
    """What this engine's arithmetic may stray from float64: what was measured in float32, or wider in coarser ones."""
    factor = _FACTORS[engine.precision]
    return Tolerance(bundle.self_check.box_tolerance_px * factor, bundle.self_check.score_tolerance * factor)

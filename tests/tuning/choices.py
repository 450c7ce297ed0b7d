"""Records made up for tests that need no measurement."""

from typing import Any

from service.bundle.store import Bundle
from service.settings import Settings
from service.tuning.fingerprint import take_fingerprint
from service.tuning.records import Candidate, CandidateResult, EngineChoice

CORES = 2


def candidate(engine: str = "onnxruntime", precision: str = "fp32", **changes: Any) -> Candidate:
    fields = {"engine": engine, "device": "cpu", "precision": precision, "threads": 2, "workers": 2}
    return Candidate(**fields | changes)


def timed(who: Candidate, latency_ms: float, images_per_second: float, **changes: Any) -> CandidateResult:
    fields = {"verdict": "slower", "reason": "timed", "latency_ms": latency_ms, "images_per_second": images_per_second}
    return CandidateResult(candidate=who, **fields | changes)


def made_choice(bundle: Bundle, settings: Settings, *results: CandidateResult) -> EngineChoice:
    return EngineChoice(
        measured_at="2026-01-02T03:04:05+00:00",
        measured_in_s=1.5,
        other_cores=0.0,
        fingerprint=take_fingerprint(bundle, settings, CORES),
        pictures=12,
        tolerances={"fp32": "the same boxes"},
        not_tried=["OpenVINO in bf16: YOLOFOLD_PRECISION=fp32"],
        candidates=list(results),
    )

"""``latency.json``: how long each arm took, what may be concluded from it, and on which machine."""

from typing import Literal

from pydantic import Field

from service.bundle.manifest import Record

Verdict = Literal["gain", "loss", "indistinguishable"]


class Arm(Record):
    """One way to run the same network on the same input."""

    name: str = Field(examples=["ort_deployed"])
    title: str = Field(examples=["ONNX Runtime, folded"])
    runtime: Literal["torch", "onnxruntime"]
    samples: int
    median_ms: float
    p05_ms: float
    p95_ms: float
    load_ms: float = Field(description="Median time of loading it: the graph, or a copy of the module in memory.")


class Comparison(Record):
    """Speed-up of one arm over another, from per-round ratios and the spread between sessions."""

    name: str = Field(examples=["folding_in_torch"])
    question: str = Field(examples=["What does folding BatchNorm save in eager PyTorch?"])
    baseline: str = Field(description="Arm in the numerator.")
    candidate: str = Field(description="Arm in the denominator.")
    speedup: float = Field(
        description="exp of the sessions' mean of median(ln(baseline / candidate)); above 1 the candidate is faster."
    )
    ci95_low: float
    ci95_high: float
    verdict: Verdict


class Machine(Record):
    """Where the times were taken; a figure without it means nothing."""

    cpu: str
    cores: int = Field(description="Cores this process may use (affinity and cgroup quota).")
    memory_bytes: int
    system: str
    python: str


class LatencyReport(Record):
    """The whole of ``latency.json``."""

    schema_version: Literal[2] = 2
    measured_at: str = Field(description="UTC, ISO 8601.")
    sessions: int = Field(description="Times that every arm was loaded anew, so that the luck of a load shows.")
    rounds: int = Field(description="Over all sessions; in each, every arm ran once.")
    dropped_rounds: int = Field(description="Rounds that other work fell into; they were repeated.")
    threads: int
    batch: int
    imgsz: int
    duration_s: float = Field(description="Loading, warm-up and rounds.")
    load_average_before: float | None = Field(description="1-minute load before the warm-up, None if unknown.")
    machine: Machine
    arms: list[Arm]
    null_control: Comparison = Field(
        description="A second copy of the deployed arm against the first: the noise floor."
    )
    comparisons: list[Comparison]

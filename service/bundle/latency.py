"""``latency.json``: how long each arm took, what may be concluded from it, and on which machine."""

from typing import Literal

from pydantic import Field

from service.bundle.manifest import Record

Verdict = Literal["gain", "loss", "indistinguishable"]
Engine = Literal["torch", "onnxruntime", "openvino"]
Device = Literal["cpu", "cuda"]
Precision = Literal["fp32", "tf32", "bf16", "int8+bf16", "int8+fp32"]
SeriesKind = Literal["latency", "throughput"]


class Arm(Record):
    """One way to run the same network on the same input."""

    name: str = Field(description="Stable name, to which comparisons refer.", examples=["ort_deployed"])
    title: str = Field(description="The arm in words.", examples=["ONNX Runtime, folded"])
    engine: Engine = Field(description="What runs the network.")
    device: Device = Field(description="Where it ran.")
    precision: Precision = Field(description="What the convolutions multiply in.")
    nodes: int | None = Field(
        description="Nodes that the engine executes after its own optimisation; null for eager PyTorch, which has no "
        "graph."
    )
    batch_normalizations: int = Field(description="BatchNorm layers that are executed as such.")
    bytes: int = Field(description="Size of the file that is loaded; for PyTorch of all parameters and buffers.")
    load_ms: float = Field(description="Median time of loading it: the graph, or a copy of the module in memory.")
    samples: int = Field(description="Timed runs or bursts, over all sessions.")
    median_ms: float = Field(description="Of one run; in a throughput series, of one burst of all callers.")
    p05_ms: float = Field(description="5th percentile of the same times.")
    p95_ms: float = Field(description="95th percentile of the same times.")
    images_per_second: float = Field(description="Images of one run or burst over its median time.")


class Comparison(Record):
    """Speed-up of one arm over another, from per-round ratios and the spread between sessions."""

    name: str = Field(description="Stable name of the question.", examples=["folding_in_torch"])
    question: str = Field(
        description="What is asked, in words.", examples=["What does folding BatchNorm save in eager PyTorch?"]
    )
    baseline: str = Field(description="Arm in the numerator.")
    candidate: str = Field(description="Arm in the denominator.")
    speedup: float = Field(
        description="exp of the sessions' mean of median(ln(baseline / candidate)); above 1 the candidate is faster."
    )
    ci95_low: float = Field(description="Lower end of the 95 % confidence interval of speedup.")
    ci95_high: float = Field(description="Upper end of the 95 % confidence interval of speedup.")
    verdict: Verdict = Field(
        description="indistinguishable: the interval holds 1, or the effect is no larger than the noise floor that "
        "the null control shows. Else gain (speedup above 1) or loss."
    )


class Series(Record):
    """Arms that took turns on one kind of work, and what follows from it."""

    kind: SeriesKind = Field(description="latency: one caller; throughput: as many as the service has workers.")
    device: Device = Field(description="Where ONNX Runtime ran.")
    batch: int = Field(description="Images per run.")
    callers: int = Field(description="Threads that run the network at the same time.")
    runs_per_caller: int = Field(description="Runs of each caller in one timed burst.")
    sessions: int = Field(description="Times that every arm was loaded anew, so that the luck of a load shows.")
    rounds: int = Field(description="Over all sessions; in each, every arm ran once.")
    dropped_rounds: int = Field(description="Rounds that requests to this process fell into; they were repeated.")
    duration_s: float = Field(description="Loading, warm-up and rounds.")
    load_average_before: float | None = Field(description="1-minute load before the warm-up; null if unknown.")
    other_cores: float | None = Field(
        description="Cores that everything else on the machine kept busy meanwhile, on average; null if unknown."
    )
    arms: list[Arm] = Field(
        description="In the order in which they are listed, not in that of their runs, which is random."
    )
    null_control: Comparison = Field(
        description="A second copy of the deployed arm against the first: the noise floor."
    )
    comparisons: list[Comparison] = Field(description="The questions that the budget of time left room for.")


class PeakMemory(Record):
    """Most memory that a process of its own held while it loaded and ran one arm."""

    arm: str = Field(description="Name of the arm.")
    batch: int = Field(description="Images per run.")
    baseline_bytes: int = Field(
        description="Most that it held until then, with the engine imported and the images made."
    )
    peak_bytes: int = Field(description="Most that it held until the end (VmHWM); the baseline is part of it.")


class NotMeasured(Record):
    """Something that this report leaves open."""

    name: str = Field(
        description="Stable name of the question, or of the part of the measurement.",
        examples=["dropping_head_unfolded"],
    )
    question: str = Field(description="What is left open, in words.")
    reason: str = Field(description="Why it was not measured.")


class Machine(Record):
    """Where the times were taken; a figure without it means nothing."""

    cpu: str = Field(description="The processor's name as the system reports it, else its architecture.")
    cores: int = Field(description="Cores this process may use (affinity and cgroup quota).")
    memory_bytes: int = Field(description="Physical memory, cut to the cgroup's limit.")
    system: str = Field(description="Operating system and its release.")
    python: str = Field(description="Release of Python.")


class LatencyReport(Record):
    """The whole of ``latency.json``."""

    schema_version: Literal[3] = Field(3, description="Rises with every change that could break a reader.")
    measured_at: str = Field(description="UTC, ISO 8601.")
    imgsz: int = Field(
        description="Side of the square input, pixels; measured on the whole square, also where padding is left out."
    )
    threads: int = Field(description="Of each run on the processor.")
    duration_s: float = Field(description="Seconds that the whole measurement took.")
    machine: Machine = Field(description="Where it was measured.")
    series: list[Series] = Field(description="The first is latency on the processor, one image at a time if asked for.")
    memory: list[PeakMemory] = Field(
        description="A process for each arm and size of batch; empty where memory was not measured."
    )
    not_measured: list[NotMeasured] = Field(description="What the report leaves open, and why.")

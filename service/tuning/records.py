"""What a choice of the engine is made of. Kept as JSON, and answered by ``GET /model`` as it is kept."""

from typing import Literal

from pydantic import Field

from service.bundle.manifest import Record, Sha256
from service.inference.engine import Precision, precision_setting
from service.settings import Objective, Settings

Verdict = Literal["chosen", "slower", "refused", "failed", "not_measured"]


class Candidate(Record):
    """One way to run the network."""

    engine: Literal["onnxruntime", "openvino", "tensorrt"] = Field(
        description="The runtime; TensorRT runs inside ONNX Runtime."
    )
    device: Literal["cpu", "cuda"] = Field(description="Where it runs.")
    precision: Precision = Field(
        description="What the convolutions multiply in, in int8 also the rest. GPUs multiply float32 as TF32."
    )
    threads: int = Field(
        description="Threads of one run; 0 shares the cores out by load: all of them for a run that is alone, fewer "
        "for each of several."
    )
    workers: int = Field(
        description="Workers that run the network at once; where it runs on threads of its own as many again decode."
    )
    max_batch_size: int = Field(1, description="Most pictures in one run; 1 runs them one by one.")

    @property
    def kind(self) -> tuple[str, str, str]:
        """What decides the answers: engine, device and precision."""
        return self.engine, self.device, self.precision

    @property
    def title(self) -> str:
        """For people."""
        name = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO", "tensorrt": "TensorRT"}[self.engine]
        where = " on CUDA" if self.kind[:2] == ("onnxruntime", "cuda") else ""
        batches = f", batches of up to {self.max_batch_size}" if self.max_batch_size > 1 else ""
        return (
            f"{name}{where} in {self.precision}, threads per run: {self.threads or 'by load'}, workers: {self.workers}"
            f"{batches}"
        )

    def settle(self, settings: Settings) -> Settings:
        """The settings with this candidate in place of ``auto``."""
        chosen = {
            "engine": self.engine,
            "device": self.device,
            "precision": precision_setting(self.precision),
            "threads": self.threads,
            "workers": self.workers,
            "max_batch_size": self.max_batch_size,
        }
        return settings.model_copy(update=chosen)


class CandidateResult(Record):
    """What was found out about a candidate; figures are null where it did not come to that."""

    candidate: Candidate = Field(description="What was tried.")
    verdict: Verdict = Field(
        description="refused: its boxes are out of tolerance. failed: it could not be loaded or run. not_measured: "
        "left out to save time."
    )
    reason: str = Field(description="Why this verdict, in words.")
    latency_ms: float | None = Field(None, description="Median of one run, one caller alone, milliseconds.")
    images_per_second: float | None = Field(None, description="Median, with as many callers as workers.")
    runs: int = Field(0, description="Runs of one caller alone that were timed.")
    boxes: int | None = Field(None, description="Boxes of fp32 ONNX Runtime that were looked for.")
    boxes_matched: int | None = Field(None, description="Of these, found again: as the tolerance asks, paired in fp32.")
    boxes_extra: int | None = Field(None, description="Boxes found besides.")
    box_px: float | None = Field(None, description="Furthest corner among paired boxes, pixels of the input.")
    confidence: float | None = Field(None, description="Largest difference of confidence among paired boxes.")

    @property
    def measured(self) -> bool:
        """Whether it can be compared: it passed and was timed."""
        return self.verdict in ("chosen", "slower") and None not in (self.latency_ms, self.images_per_second)


class Fingerprint(Record):
    """Everything a choice depends on; a choice made under another one is not used."""

    yolofold: str = Field(description="Release of yolofold.")
    bundle_version: str = Field(description="Version of the served bundle.")
    graph_sha256: Sha256 = Field(description="SHA-256 of its deployed graph.")
    cpu: str = Field(description="The processor's name as the system reports it.")
    cpu_flags_sha256: Sha256 = Field(description="Of the instruction set extensions, sorted, joined by spaces.")
    cores: int = Field(description="That this process may use: CPU affinity, cut to the cgroup's quota.")
    gpus: list[str] = Field(description="Names of the NVIDIA GPUs whose driver is seen, sorted.")
    gpu_driver: str = Field("", description="NVIDIA's kernel driver as it describes itself; empty where there is none.")
    onnxruntime: str = Field(description="Release of ONNX Runtime.")
    onnxruntime_providers: list[str] = Field(description="Its execution providers, as it lists them.")
    openvino: str | None = Field(description="Release of OpenVINO; null where it is not installed.")
    tensorrt: str | None = Field(None, description="Release of TensorRT; null where pip installed none.")
    objective: Objective = Field(description="YOLOFOLD_OBJECTIVE: what was looked for.")
    device: str = Field(description="YOLOFOLD_DEVICE as set.")
    precision: str | None = Field(description="YOLOFOLD_PRECISION as set; null where it is not.")
    threads: int = Field(description="YOLOFOLD_THREADS as set; 0 leaves it to the choice.")
    workers: int = Field(description="YOLOFOLD_WORKERS as set; 0 leaves it to the choice.")
    max_batch_size: int = Field(0, description="YOLOFOLD_MAX_BATCH_SIZE as set; 0 leaves it to the choice.")


class EngineChoice(Record):
    """One measurement and what follows from it."""

    schema_version: Literal[2] = Field(2, description="Rises with every change that could break a reader.")
    measured_at: str = Field(description="UTC, ISO 8601.")
    measured_in_s: float = Field(description="Seconds it took.")
    other_cores: float | None = Field(
        description="Cores that other work kept busy meanwhile; far from 0, trust no figure. null where the system "
        "does not say."
    )
    fingerprint: Fingerprint = Field(
        description="What the choice depends on: another machine, runtime, bundle or setting asks for a new one."
    )
    pictures: int = Field(description="Stored pictures, and variations of them, that boxes were compared on.")
    tolerances: dict[str, str] = Field(description="What is asked of a candidate's boxes, by precision.")
    not_tried: list[str] = Field(description="What would have been a candidate, and why it was none.")
    candidates: list[CandidateResult] = Field(description="In the order in which the earlier one wins a tie.")

    @property
    def chosen(self) -> CandidateResult:
        """The one that serves.

        Raises:
            StopIteration: there is none, which no choice that was made has.
        """
        return next(result for result in self.candidates if result.verdict == "chosen")

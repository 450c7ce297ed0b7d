"""All settings: one frozen table, read once from ``YOLOFOLD_*`` environment variables and passed in from there."""

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.errors import SettingsError

ENV_PREFIX = "YOLOFOLD_"

#: Of the network at once: its own threads fill more cores.
MOST_DEFAULT_WORKERS = 4

# The three strides of a YOLO pyramid give 336 anchors at 128 px: the smallest square that can fill 300 rows.
MIN_IMGSZ, MAX_IMGSZ, STRIDE = 128, 2048, 32


#: What the automatic choice of the engine is for; balanced weighs latency and throughput alike.
Objective = Literal["balanced", "latency", "throughput"]


class Settings(BaseSettings):
    """What an operator can choose. Names are the environment variables without their ``YOLOFOLD_`` prefix."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="forbid")

    weights: str = Field("auto", min_length=1, description="auto, embedded, an official name or a path to a .pt file.")
    weights_sha256: str | None = Field(
        None,
        pattern="^[0-9a-f]{64}$",
        description="Refuse weights whose SHA-256 differs, before opening them.",
    )
    download_timeout_s: float = Field(
        5.0, gt=0, le=600, description="Longest wait for the weight server to answer, in seconds."
    )
    imgsz: int = Field(
        640, ge=MIN_IMGSZ, le=MAX_IMGSZ, description="Side of the square input in pixels, a multiple of 32."
    )
    rect: bool = Field(
        False,
        description="Leave padding out, as Ultralytics' predict does: a picture of 4:3 takes three quarters of the "
        "time.",
    )
    head: Literal["auto", "one2one", "one2many"] = Field(
        "auto",
        description="Detection head: auto takes the NMS-free one2one head where the checkpoint has it; of the embedded "
        "model one2many, which finds more.",
    )
    default_conf: float | None = Field(
        None,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="Confidence that boxes must exceed where a request says nothing; empty takes the model's own.",
    )
    bundle_dir: Path = Field(Path("bundles"), description="Folder in which bundles are kept.")
    state_dir: Path | None = Field(
        None,
        description="Folder for the choice of YOLOFOLD_ENGINE=auto and for TensorRT's engines; empty keeps them beside "
        "the bundle.",
    )

    host: str = Field("127.0.0.1", min_length=1, description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where the network runs.")
    engine: Literal["auto", "onnxruntime", "openvino", "tensorrt"] = Field(
        "onnxruntime",
        description="Runtime of the network; auto measures what is installed and takes the fastest that finds nearly "
        "the same boxes.",
    )
    objective: Objective = Field(
        "balanced", description="What YOLOFOLD_ENGINE=auto looks for: latency, throughput or, balanced, both alike."
    )
    precision: Literal["fp32", "fp16", "bf16", "int8"] | None = Field(
        None,
        description="Arithmetic of the network, fp32, bf16 or, from bundles made for them, fp16 (on a GPU) and int8; "
        "empty takes none of the last three, but lets YOLOFOLD_ENGINE=auto try them.",
    )
    workers: int = Field(
        0, ge=0, le=256, description="Requests worked on at once; 0 chooses from the cores, the batches and the engine."
    )
    threads: int = Field(
        0,
        ge=0,
        le=256,
        description="Threads of one run of the network; 0 shares the cores out by load, batches get them all.",
    )
    max_batch_size: int = Field(
        0,
        ge=0,
        le=64,
        description="Most pictures in one run of the network, of those that wait for it anyway; 0 runs one by one, "
        "unless YOLOFOLD_ENGINE=auto finds batches faster.",
    )
    queue_size: int = Field(64, ge=1, le=100_000, description="Requests that may wait; more are answered 503.")
    request_timeout_s: float = Field(30.0, gt=0, le=3600, description="Longest life of one request in seconds.")
    max_upload_bytes: int = Field(20_000_000, ge=1, description="Largest image file accepted, in bytes.")
    max_batch_images: int = Field(32, ge=1, le=1000, description="Most images in one request to /detect/batch.")
    max_pixels: int = Field(
        52_000_000,  # cameras of "50 megapixels" give 8192 x 6144
        ge=1,
        le=1_000_000_000,
        description="Most pixels of an image; decoding may take three bytes for each of so many, 100 MB at least.",
    )
    reduced_decode: bool = Field(
        False,
        description="Decode JPEGs several times larger than the input at a half, quarter or eighth of their sides.",
    )

    drift_cpu: float = Field(
        0.01,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="Share of every core for watching drift on live pictures; 0 turns it off.",
    )

    @field_validator("weights_sha256", mode="before")
    @classmethod
    def _lower_case(cls, value: str | None) -> str | None:
        return value.lower() if isinstance(value, str) else value

    @field_validator("imgsz")
    @classmethod
    def _multiple_of_stride(cls, value: int) -> int:
        if value % STRIDE:
            raise ValueError(f"must be a multiple of {STRIDE}")
        return value

    @field_validator("max_batch_size")
    @classmethod
    def _callers_enough(cls, value: int, info: ValidationInfo) -> int:
        workers = info.data.get("workers", 0)
        if 0 < workers < value:
            raise ValueError(f"with {ENV_PREFIX}WORKERS={workers} there are never so many pictures at once")
        return value

    def workers_on(self, cores: int) -> int:
        """Runs of the network at once in a process that may use ``cores``, and the workers that they take."""
        return self.workers or max(min(cores, MOST_DEFAULT_WORKERS), workers_for_batches(self.max_batch_size))

    def network_callers_on(self, cores: int) -> int:
        """Concurrent runs of the network that throughput is measured with: as many as there are workers, but without
        those that only fill batches, which are run one at a time."""
        workers = self.workers_on(cores)
        return min(workers, cores, MOST_DEFAULT_WORKERS) if self.max_batch_size > 1 else workers

    def threads_on(self, cores: int) -> int:
        """Threads of one run of the network in a process that may use ``cores``."""
        return self.threads or cores


def workers_for_batches(size: int) -> int:
    """Requests worked on at once that keep batches full: while one is run the pictures of the next are decoded."""
    return 2 * size if size > 1 else 1


def load_settings(environ: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
    """Build the settings once; ``overrides`` (from the command line, None meaning "not given") win.

    Raises:
        SettingsError: an unknown ``YOLOFOLD_*`` variable, or a value out of range; the message names it.
    """
    environ = os.environ if environ is None else environ
    given = {k[len(ENV_PREFIX) :].lower(): v for k, v in environ.items() if k.startswith(ENV_PREFIX)}
    for name in given:
        if name not in Settings.model_fields:
            near = difflib.get_close_matches(name, Settings.model_fields, n=1)
            hint = f" Did you mean {ENV_PREFIX}{near[0].upper()}?" if near else ""
            raise SettingsError(f"There is no setting {ENV_PREFIX}{name.upper()}.{hint}")
    # An empty variable is how compose files and shells spell "unset".
    values = {k: v for k, v in given.items() if v != ""} | {k: v for k, v in overrides.items() if v is not None}
    try:
        return Settings(**{k: values.get(k, field.default) for k, field in Settings.model_fields.items()})
    except ValidationError as error:
        first = error.errors()[0]
        name = f"{ENV_PREFIX}{str(first['loc'][0]).upper()}"
        raise SettingsError(f"{name}={first['input']!r}: {first['msg']}.") from error

"""Which candidates there are on a machine: few enough to be measured in seconds."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from service.bundle.int8 import Int8Precision
from service.inference.engine import Precision, precision_setting
from service.machine import threads_under_load
from service.settings import MOST_DEFAULT_WORKERS, Settings, workers_for_batches
from service.tuning.records import Candidate

#: Each run at once keeps its own activations, some 30 MB for a YOLO26n at 640 px.
_MOST_RUNS_AT_ONCE = 16
#: Sizes of batches tried. On a processor, whose cores one picture fills, they rarely gain anything. TensorRT builds an
#: engine for each size up to the largest, which takes minutes.
_BATCH_SIZES: dict[tuple[str, str], tuple[int, ...]] = {
    ("onnxruntime", "cpu"): (4,),
    ("onnxruntime", "cuda"): (4, 16),
    ("tensorrt", "cuda"): (4,),
}


@dataclass(frozen=True)
class Installed:
    """What this machine could run the network with.

    Attributes:
        cuda: ONNX Runtime was built with it.
        no_tensorrt: why it cannot be used; None where it can.
        no_openvino: why it cannot be used; None where it can.
        bf16: OpenVINO says that the processor has instructions for it.
        int8: the one way of the served bundle's quantized graph that is worth trying; None where there is none.
        no_int8: why not; None where there is.
        fp16: the served bundle holds a graph in fp16.
    """

    cuda: bool
    no_tensorrt: str | None
    no_openvino: str | None
    bf16: bool
    int8: Int8Precision | None
    no_int8: str | None
    fp16: bool


@dataclass(frozen=True)
class Listing:
    """Candidates in the order in which the earlier one wins a tie, and what was left out with the reason."""

    candidates: list[Candidate]
    not_tried: list[str]


@dataclass(frozen=True)
class _Kind:
    engine: Literal["onnxruntime", "openvino", "tensorrt"]
    device: Literal["cpu", "cuda"]
    precision: Precision
    name: str


_INT8 = "OpenVINO in int8"
#: The plainest first. Of the last two one at most is a candidate: with bf16 int8 is always the faster.
_KINDS = (
    _Kind("onnxruntime", "cpu", "fp32", "ONNX Runtime in fp32"),
    _Kind("onnxruntime", "cuda", "tf32", "ONNX Runtime on CUDA"),
    _Kind("onnxruntime", "cuda", "fp16", "ONNX Runtime on CUDA in fp16"),
    _Kind("tensorrt", "cuda", "tf32", "TensorRT"),
    _Kind("tensorrt", "cuda", "fp16", "TensorRT in fp16"),
    _Kind("openvino", "cpu", "fp32", "OpenVINO in fp32"),
    _Kind("openvino", "cpu", "bf16", "OpenVINO in bf16"),
    _Kind("openvino", "cpu", "int8+bf16", _INT8),
    _Kind("openvino", "cpu", "int8+fp32", _INT8),
)


def list_candidates(settings: Settings, installed: Installed, cores: int) -> Listing:
    """Every kind of engine that the settings and the machine allow, with each way to share the cores out.

    Args:
        settings: device, precision, threads, workers and the size of batches narrow the list where they are set.
        cores: that this process may use.
    """
    candidates: list[Candidate] = []
    not_tried: list[str] = []
    unfit = {"int8+bf16", "int8+fp32"} - {installed.int8 or "int8+fp32"}
    for kind in _KINDS:
        if kind.precision in unfit:
            continue
        if obstacle := _obstacle(kind, settings, installed):
            not_tried.append(f"{kind.name}: {obstacle}")
            continue
        candidates += [
            Candidate(
                engine=kind.engine,
                device=kind.device,
                precision=kind.precision,
                threads=threads,
                workers=workers,
                max_batch_size=size,
            )
            for threads, workers, size in [*_one_by_one(kind, settings, cores), *_in_batches(kind, settings, cores)]
        ]
    return Listing(candidates, not_tried)


def allowed(candidate: Candidate, settings: Settings) -> bool:
    """Whether a candidate contradicts none of the settings."""
    kind = next((kind for kind in _KINDS if (kind.engine, kind.device, kind.precision) == candidate.kind), None)
    return (
        kind is not None
        and _forbidden(kind, settings) is None
        and settings.threads in (0, candidate.threads)
        and settings.workers in (0, candidate.workers)
        and settings.max_batch_size in (0, candidate.max_batch_size)
    )


def plain_settings(settings: Settings) -> Settings | None:
    """Those of the plainest candidate, with threads, workers and batches as set; None where the settings forbid it."""
    plainest = _KINDS[0]
    if _forbidden(plainest, settings) is not None:
        return None
    named = {"engine": plainest.engine, "device": plainest.device, "precision": plainest.precision}
    return settings.model_copy(update=named)


def _obstacle(kind: _Kind, settings: Settings, installed: Installed) -> str | None:
    if kind.engine == "tensorrt" and installed.no_tensorrt:
        return installed.no_tensorrt
    if kind.device == "cuda" and not installed.cuda:
        return "the installed ONNX Runtime has no CUDA"
    if kind.precision == "fp16" and not installed.fp16:
        return "the bundle holds no graph in fp16, which `python -m service halve` makes"
    if kind.engine == "openvino" and installed.no_openvino:
        return installed.no_openvino
    if kind.precision == "bf16" and not installed.bf16:
        return "this processor has no instructions for it"
    if kind.name == _INT8 and installed.no_int8:
        return installed.no_int8
    return _forbidden(kind, settings)


def _forbidden(kind: _Kind, settings: Settings) -> str | None:
    if settings.device not in ("auto", kind.device):
        return f"YOLOFOLD_DEVICE={settings.device}"
    if settings.max_batch_size > 1 and kind.engine == "openvino":
        return f"YOLOFOLD_MAX_BATCH_SIZE={settings.max_batch_size}"
    named = precision_setting(kind.precision) or kind.precision
    return None if settings.precision in (None, named) else f"YOLOFOLD_PRECISION={settings.precision}"


def _one_by_one(kind: _Kind, settings: Settings, cores: int) -> list[tuple[int, int, int]]:
    """Threads, workers and batch size where each picture has a run of its own."""
    if settings.max_batch_size > 1:
        return []
    layouts = list(_layouts(settings, cores))
    # On a GPU the processor's threads decide nothing.
    layouts = layouts[:1] if kind.device == "cuda" else _with_by_load(layouts, settings, cores)
    return [(threads, workers, 1) for threads, workers in layouts]


def _in_batches(kind: _Kind, settings: Settings, cores: int) -> list[tuple[int, int, int]]:
    """The same where pictures share runs, of which there is one at a time, on every core."""
    if settings.max_batch_size:
        sizes: tuple[int, ...] = (settings.max_batch_size,) if settings.max_batch_size > 1 else ()
    else:
        sizes = _BATCH_SIZES.get((kind.engine, kind.device), ())
    workers = {size: settings.workers or workers_for_batches(size) for size in sizes}
    return [(settings.threads_on(cores), workers[size], size) for size in sizes if workers[size] >= size]


def _with_by_load(layouts: list[tuple[int, int]], settings: Settings, cores: int) -> list[tuple[int, int]]:
    """Those given, but sharing the cores out by load, as 0 threads, in place of the two that this goes between."""
    workers = layouts[0][1]
    fill = min(workers, cores)
    if settings.threads or fill == 1:
        return layouts
    narrow = (threads_under_load(cores, fill), workers)
    return [(0, workers), *(layout for layout in layouts[1:] if layout != narrow)]


def _layouts(settings: Settings, cores: int) -> Iterator[tuple[int, int]]:
    """Threads of a run and workers: all cores for each run, half of them, or as many runs at once as there are cores.

    At least as many workers as by default, so that pictures are decoded while the network runs.
    """
    most = min(cores, _MOST_RUNS_AT_ONCE, settings.workers or cores)
    if settings.threads:
        runs_at_once = [max(1, min(most, cores // settings.threads))]
    else:
        runs_at_once = sorted({1, 2 if most >= 4 else 1, most})
    for runs in runs_at_once:
        yield settings.threads or cores // runs, settings.workers or max(runs, min(cores, MOST_DEFAULT_WORKERS))

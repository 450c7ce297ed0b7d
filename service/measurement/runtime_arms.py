"""The ways to run one network in ONNX Runtime that are timed against each other, and what their ratios answer.

ONNX Runtime folds BatchNorm by itself, so timing the unfolded file alone shows nothing of what folding is
worth. The question is therefore put twice: at the runtime's defaults, where a folded file should make no
difference, and with the folding optimisers off. Both arms of that second pair stop at the EXTENDED level. One
level higher a BatchNormalization that may not be folded becomes a 1x1 convolution in the blocked (NCHWc)
layout; that layout also speeds up the folded graph, so comparing across levels would credit folding with it.

The deployed graph takes pixels and scales them itself. What that costs or gains shows beside the same graph
without its first nodes, fed once with a tensor that is ready, and once with pixels that OpenCV turns into it.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from service.bundle.latency import Device, Precision
from service.errors import MeasurementRefused
from service.measurement.economy import Question
from service.measurement.onnx_file import count_nodes
from service.measurement.runner import SEED
from service.measurement.timed_arm import ArmFacts, Run, TimedArm
from service.onnxruntime_folding import FOLDING_OPTIMISERS

EXTENDED = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
_CUDA, _CPU = "CUDAExecutionProvider", "CPUExecutionProvider"

#: What an arm is fed: pixels as the service has them; the tensor the network begins with, made beforehand; or
#: pixels that OpenCV turns into that tensor in every run.
Feed = Literal["pixels", "tensor", "opencv"]
#: The setting: "cpu" keeps the measurement off CUDA, the others do not.
AllowedDevice = Literal["auto", "cpu", "cuda"]

NULL_CONTROL = Question(
    "null_control",
    "How far apart do two copies of the deployed graph seem to be?",
    baseline="ort_deployed",
    candidate="ort_deployed_copy",
)
FOLDING_AT_DEFAULTS = Question(
    "folding_when_runtime_folds_itself",
    "What does folding beforehand save when ONNX Runtime would fold by itself?",
    baseline="ort_reference_default",
    candidate="ort_deployed",
)
RUNTIME_QUESTIONS = (
    Question(
        "folding_when_runtime_cannot",
        "What does folding save in ONNX Runtime when the runtime may not fold by itself?",
        baseline="ort_reference_unfolded",
        candidate="ort_deployed_extended",
    ),
    FOLDING_AT_DEFAULTS,
)
PREPROCESSING_QUESTIONS = (
    Question(
        "preprocessing_in_graph",
        "What does preprocessing in the graph save against OpenCV before it?",
        baseline="ort_opencv_outside",
        candidate="ort_deployed",
    ),
    Question(
        "without_preprocessing",
        "What would the deployed graph save if its tensor came ready-made?",
        baseline="ort_deployed",
        candidate="ort_tensor_ready",
    ),
)
#: The arms that throughput is measured with; the rest answer what one caller can tell as well.
THROUGHPUT_ARMS = ("ort_reference_default", "ort_deployed", "ort_deployed_copy")


@dataclass(frozen=True)
class SessionPlan:
    """All that decides how ONNX Runtime loads and runs a graph.

    Attributes:
        graph: the ONNX file.
        threads: threads within one operator, the calling one included, at least 1.
        device: where it runs.
        may_fold: ONNX Runtime's defaults; False keeps BatchNorm, and ends at the EXTENDED level.
        feed: what the graph is given; all but "pixels" need one without preprocessing.
    """

    graph: Path
    threads: int
    device: Device = "cpu"
    may_fold: bool = True
    feed: Feed = "pixels"


@dataclass(frozen=True)
class GraphArm:
    """An arm in ONNX Runtime before it is given pictures."""

    name: str
    title: str
    plan: SessionPlan
    facts: ArmFacts

    def timed(self, images: NDArray[np.uint8]) -> TimedArm:
        """This arm on ``images`` (B, S, S, 3), in a session of its own each time it is opened."""
        feed = self.plan.feed
        ready = opencv_tensor(images) if feed == "tensor" else images
        return TimedArm(self.name, self.title, self.facts, lambda: session_run(self.plan, ready))


def random_images(imgsz: int, batch: int) -> NDArray[np.uint8]:
    """The images every arm is given, (batch, imgsz, imgsz, 3), the same for the same arguments.

    Raises:
        MeasurementRefused: they do not fit into memory.
    """
    try:
        return np.random.default_rng(SEED).integers(0, 256, (batch, imgsz, imgsz, 3), dtype=np.uint8)
    except MemoryError as error:
        raise MeasurementRefused(f"{batch} images of {imgsz} px do not fit into memory.") from error


def opencv_tensor(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(B, S, S, 3) uint8 BGR to (B, 3, S, S) float32 RGB in 0..1, the way most clients do it."""
    tensor: NDArray[np.float32] = cv2.dnn.blobFromImages(list(images), 1 / 255, swapRB=True)  # type: ignore[assignment]
    return tensor


def installed_providers() -> list[str]:
    """Execution providers of the installed ONNX Runtime, by its names."""
    return list(ort.get_available_providers())


def measured_devices(allowed: AllowedDevice, providers: Sequence[str]) -> list[Device]:
    """Where to measure; the processor first, and always, since all else is held against it.

    Args:
        allowed: "cpu" forbids CUDA.
        providers: as ``installed_providers`` returns them.
    """
    return ["cpu", "cuda"] if _CUDA in providers and allowed != "cpu" else ["cpu"]


def multiplied_in(options: Mapping[str, Mapping[str, str]]) -> Precision:
    """What a session's convolutions multiply in.

    Args:
        options: ``InferenceSession.get_provider_options()``. CUDA rounds float32 to TF32 unless ``use_tf32`` is off.
    """
    return "tf32" if _CUDA in options and options[_CUDA].get("use_tf32", "1") != "0" else "fp32"


def folding_arms(reference: Path, deployed: Path, threads: int, device: Device = "cpu") -> list[GraphArm]:
    """The arms of ``NULL_CONTROL`` and ``RUNTIME_QUESTIONS``.

    Args:
        reference: graph that keeps its BatchNormalization nodes; one input, uint8 (B, S, S, 3).
        deployed: graph of the same network folded; the same input.
        threads: threads of every arm, at least 1.
        device: where they run.

    Raises:
        MeasurementRefused: the reference has no BatchNormalization, ONNX Runtime folded although it was told not
            to, or the device cannot be used.
    """
    plain, folded = SessionPlan(reference, threads, device), SessionPlan(deployed, threads, device)
    served = inspect_plan(folded)
    kept = inspect_plan(replace(plain, may_fold=False))
    _require_unfolded(reference, kept)
    where = "ONNX Runtime" if device == "cpu" else "ONNX Runtime on CUDA"
    off = f"{where} up to level EXTENDED, its folding off"
    extended = replace(folded, may_fold=False)
    return [
        GraphArm(
            "ort_reference_default", f"{where}, BatchNorm left for the runtime to fold", plain, inspect_plan(plain)
        ),
        GraphArm("ort_reference_unfolded", f"{off}, BatchNorm kept", replace(plain, may_fold=False), kept),
        GraphArm("ort_deployed_extended", f"{off}, folded beforehand", extended, inspect_plan(extended)),
        GraphArm("ort_deployed", f"{where}, folded", folded, served),
        GraphArm("ort_deployed_copy", f"{where}, folded, loaded a second time", folded, served),
    ]


def preprocessing_arms(without: Path, threads: int, device: Device = "cpu") -> list[GraphArm]:
    """What ``PREPROCESSING_QUESTIONS`` compares the deployed graph with.

    Args:
        without: the deployed graph without its preprocessing; see ``write_float_input``.
        threads, device: as in ``folding_arms``.
    """
    plan = SessionPlan(without, threads, device, feed="tensor")
    facts = inspect_plan(plan)
    where = "ONNX Runtime" if device == "cpu" else "ONNX Runtime on CUDA"
    return [
        GraphArm(
            "ort_opencv_outside", f"{where}, folded, OpenCV before the graph", replace(plan, feed="opencv"), facts
        ),
        GraphArm("ort_tensor_ready", f"{where}, folded, given a float tensor that is ready", plan, facts),
    ]


def session_run(plan: SessionPlan, fed: NDArray[Any]) -> Run:
    """Load a graph; each call of what is returned runs it once.

    Args:
        plan: how.
        fed: (B, S, S, 3) uint8 BGR; for the feed "tensor" float32 (B, 3, S, S) RGB in 0..1.

    Raises:
        MeasurementRefused: the graph cannot be loaded; from what is returned, it cannot be run.
    """
    session = open_session(plan)
    name = session.get_inputs()[0].name
    convert = opencv_tensor if plan.feed == "opencv" else None

    def run() -> object:
        try:
            return session.run(None, {name: convert(fed) if convert else fed})
        except Exception as error:  # its exceptions share no public base class
            raise MeasurementRefused(f"ONNX Runtime cannot run {plan.graph.name} on {plan.device}: {error}") from error

    return run


def inspect_plan(plan: SessionPlan) -> ArmFacts:
    """Load a graph once and count what ONNX Runtime executes after its own optimisation.

    In a session of its own, so that those timed differ in nothing else from what they are compared with.
    """
    with tempfile.TemporaryDirectory(prefix="yolofold-") as folder:
        optimised = Path(folder) / "optimised.onnx"
        precision = multiplied_in(open_session(plan, save_as=optimised).get_provider_options())
        nodes = count_nodes(optimised)
    return ArmFacts(
        engine="onnxruntime",
        device=plan.device,
        precision=precision,
        nodes=nodes.total(),
        batch_normalizations=nodes["BatchNormalization"],
        bytes=plan.graph.stat().st_size,
    )


def _require_unfolded(reference: Path, executed: ArmFacts) -> None:
    """Check that ONNX Runtime, told not to fold, executes every BatchNormalization of a graph.

    Raises:
        MeasurementRefused: the file has no BatchNormalization to keep, or ONNX Runtime removed some all the
            same, as a release with a new optimiser might.
    """
    wanted = count_nodes(reference)["BatchNormalization"]
    if not wanted:
        raise MeasurementRefused(f"{reference.name} has no BatchNormalization left; export it in PRESERVE mode.")
    if executed.batch_normalizations != wanted:
        raise MeasurementRefused(
            f"ONNX Runtime {ort.__version__} kept {executed.batch_normalizations} of {wanted} BatchNormalization "
            f"nodes of {reference.name}; the unfolded arm would not measure what it claims."
        )


def open_session(plan: SessionPlan, save_as: Path | None = None) -> ort.InferenceSession:
    """Load a graph, with threads that sleep between runs.

    Args:
        plan: how.
        save_as: where to write the optimised graph.

    Raises:
        MeasurementRefused: ONNX Runtime cannot load the graph, or has CUDA but cannot start it.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = plan.threads
    options.inter_op_num_threads = 1
    # All arms are alive at once: a pool that spins after its run would take the cores from the next arm.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.graph_optimization_level = (
        ort.GraphOptimizationLevel.ORT_ENABLE_ALL if plan.may_fold else EXTENDED  # the first is the runtime's own
    )
    options.log_severity_level = 3
    if save_as:
        options.optimized_model_filepath = str(save_as)
    providers = [_CPU]
    if plan.device == "cuda":
        ort.preload_dlls()  # finds the CUDA libraries that pip installed, which are on no library path
        providers = [_CUDA, _CPU]
    disabled = [] if plan.may_fold else list(FOLDING_OPTIMISERS)
    try:
        session = ort.InferenceSession(str(plan.graph), options, providers=providers, disabled_optimizers=disabled)
    except Exception as error:  # its exceptions share no public base class
        raise MeasurementRefused(f"ONNX Runtime cannot load {plan.graph.name} on {plan.device}: {error}") from error
    if session.get_providers()[0] != providers[0]:
        raise MeasurementRefused("ONNX Runtime has a CUDA provider but could not start it.")
    return session

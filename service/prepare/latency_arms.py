"""The ways to run one network that are timed against each other, and what their ratios answer.

ONNX Runtime folds BatchNorm by itself, so timing the unfolded file alone shows nothing of what folding is
worth. The question is therefore put twice: at the runtime's defaults, where a folded file should make no
difference, and with the folding optimisers off. Both arms of that second pair stop at the EXTENDED level. One
level higher a BatchNormalization that may not be folded becomes a 1x1 convolution in the blocked (NCHWc)
layout; that layout also speeds up the folded graph, so comparing across levels would credit folding with it.
"""

import copy
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import nn

from service.bundle.latency import LatencyReport
from service.errors import ExportFailed, PrepareError
from service.prepare.latency import (
    DEFAULT_BUDGET_S,
    DEFAULT_ROUNDS,
    SEED,
    Progress,
    Question,
    Run,
    TimedArm,
    Workload,
    measure_latency,
)

# All of ONNX Runtime's optimisers that remove a BatchNormalization below the level that changes the layout.
FOLDING_OPTIMISERS = ("ConvBNFusion", "MatMul_BatchNormalization_Fusion")

EXTENDED = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED

NULL_CONTROL = Question(
    "null_control",
    "How far apart do two copies of the deployed graph seem to be?",
    baseline="ort_deployed",
    candidate="ort_deployed_copy",
)
QUESTIONS = (
    Question(
        "folding_in_torch",
        "What does folding BatchNorm save in eager PyTorch?",
        baseline="torch_unfolded",
        candidate="torch_folded",
    ),
    Question(
        "folding_when_runtime_cannot",
        "What does folding save in ONNX Runtime when the runtime may not fold by itself?",
        baseline="ort_reference_unfolded",
        candidate="ort_deployed_extended",
    ),
    Question(
        "folding_when_runtime_folds_itself",
        "What does folding beforehand save when ONNX Runtime would fold by itself?",
        baseline="ort_reference_default",
        candidate="ort_deployed",
    ),
)


def run_latency(
    unfolded: nn.Module,
    folded: nn.Module,
    reference_onnx: Path,
    deployed_onnx: Path,
    *,
    imgsz: int,
    threads: int,
    rounds: int = DEFAULT_ROUNDS,
    budget_s: float = DEFAULT_BUDGET_S,
    progress: Progress | None = None,
) -> LatencyReport:
    """Measure what folding saves, in PyTorch and in ONNX Runtime, on one random image.

    Args:
        unfolded: takes (1, imgsz, imgsz, 3) uint8, in eval mode, with the head that is deployed and no other.
        folded: the same with BatchNorm folded.
        reference_onnx: graph of ``unfolded`` that keeps its BatchNormalization nodes; one input.
        deployed_onnx: graph of ``folded``; one input.
        imgsz: side of the image in pixels.
        threads: threads of every arm, at least 1. PyTorch's own number is put back afterwards.
        rounds: as in ``measure_latency``.
        budget_s: as in ``measure_latency``.
        progress: as in ``measure_latency``.

    Raises:
        PrepareError: a module is in training mode, ``rounds`` is too small, or ONNX Runtime folded although
            it was told not to.
        ExportFailed: ``reference_onnx`` has no BatchNormalization.
    """
    image = np.random.default_rng(SEED).integers(0, 256, (1, imgsz, imgsz, 3), dtype=np.uint8)
    with _torch_threads(threads):
        arms = [
            torch_arm("torch_unfolded", "PyTorch eager, BatchNorm kept", unfolded, image),
            torch_arm("torch_folded", "PyTorch eager, folded", folded, image),
            *_onnxruntime_arms(reference_onnx, deployed_onnx, image, threads),
        ]
        return measure_latency(
            arms,
            workload=Workload(imgsz=imgsz, threads=threads),
            null_control=NULL_CONTROL,
            questions=QUESTIONS,
            rounds=rounds,
            budget_s=budget_s,
            progress=progress,
        )


def torch_arm(name: str, title: str, module: nn.Module, image: NDArray[np.uint8]) -> TimedArm:
    """Eager PyTorch in inference mode on ``image`` (1, S, S, 3).

    Raises:
        PrepareError: the module is in training mode, where BatchNorm does other work than when it is served.
    """
    if module.training:
        raise PrepareError(f"The module of arm {name} is in training mode; call eval() on it first.")
    tensor = torch.from_numpy(image)

    def open_copy() -> Run:
        # A copy lies elsewhere in memory, as the network of another process would.
        network = copy.deepcopy(module)

        def run() -> object:
            with torch.inference_mode():
                return network(tensor)

        return run

    return TimedArm(name, title, "torch", open_copy)


def _onnxruntime_arms(reference: Path, deployed: Path, image: NDArray[np.uint8], threads: int) -> list[TimedArm]:
    require_unfolded(reference, threads)
    kept = {"level": EXTENDED, "disabled": FOLDING_OPTIMISERS}
    arms: list[tuple[str, str, Path, dict[str, Any]]] = [
        ("ort_reference_default", "ONNX Runtime, BatchNorm left for the runtime to fold", reference, {}),
        (
            "ort_reference_unfolded",
            "ONNX Runtime up to level EXTENDED, its folding off, BatchNorm kept",
            reference,
            kept,
        ),
        (
            "ort_deployed_extended",
            "ONNX Runtime up to level EXTENDED, its folding off, folded beforehand",
            deployed,
            kept,
        ),
        ("ort_deployed", "ONNX Runtime, folded (as served)", deployed, {}),
        ("ort_deployed_copy", "ONNX Runtime, folded, loaded a second time", deployed, {}),
    ]
    return [
        session_arm(name, title, partial(open_session, path, threads, **options), image)
        for name, title, path, options in arms
    ]


def session_arm(
    name: str, title: str, open_one: Callable[[], ort.InferenceSession], image: NDArray[np.uint8]
) -> TimedArm:
    """ONNX Runtime on ``image`` (1, S, S, 3), in a session of its own each time the arm is opened."""

    def open_session_run() -> Run:
        session = open_one()
        feed = {session.get_inputs()[0].name: image}
        return lambda: session.run(None, feed)

    return TimedArm(name, title, "onnxruntime", open_session_run)


def require_unfolded(reference: Path, threads: int) -> None:
    """Check that ONNX Runtime, told not to fold, executes every BatchNormalization of a graph.

    Raises:
        ExportFailed: the file has no BatchNormalization to keep.
        PrepareError: ONNX Runtime removed some all the same, as a release with a new optimiser might.
    """
    wanted = count_batch_normalization(reference)
    if not wanted:
        raise ExportFailed(f"{reference.name} has no BatchNormalization left; export it in PRESERVE mode.")
    with tempfile.TemporaryDirectory() as folder:
        optimised = Path(folder) / "optimised.onnx"
        # A session of its own, so that the ones timed have the same options as the arm they are compared with.
        open_session(reference, threads, level=EXTENDED, disabled=FOLDING_OPTIMISERS, save_as=optimised)
        left = count_batch_normalization(optimised)
    if left != wanted:
        raise PrepareError(
            f"ONNX Runtime {ort.__version__} kept {left} of {wanted} BatchNormalization nodes of "
            f"{reference.name}; the unfolded arm would not measure what it claims."
        )


def open_session(
    path: Path,
    threads: int,
    *,
    level: ort.GraphOptimizationLevel = ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    disabled: Sequence[str] = (),
    save_as: Path | None = None,
) -> ort.InferenceSession:
    """Load a graph on the CPU, with ``threads`` threads that sleep between runs.

    Args:
        path: the ONNX file.
        threads: threads within one operator, the calling one included.
        level: ONNX Runtime's optimisation level; the default here is the runtime's own.
        disabled: names of optimisers to leave out.
        save_as: where to write the optimised graph.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # All arms are alive at once: a pool that spins after its run would take the cores from the next arm.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.graph_optimization_level = level
    options.log_severity_level = 3
    if save_as:
        options.optimized_model_filepath = str(save_as)
    return ort.InferenceSession(
        str(path), options, providers=["CPUExecutionProvider"], disabled_optimizers=list(disabled)
    )


def count_batch_normalization(path: Path) -> int:
    """Number of BatchNormalization nodes in an ONNX file's main graph."""
    graph = onnx.load(str(path), load_external_data=False).graph
    return sum(node.op_type == "BatchNormalization" for node in graph.node)


@contextmanager
def _torch_threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)

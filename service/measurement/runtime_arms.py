"""The ways to run one network in ONNX Runtime that are timed against each other, and what their ratios answer.

ONNX Runtime folds BatchNorm by itself, so timing the unfolded file alone shows nothing of what folding is
worth. The question is therefore put twice: at the runtime's defaults, where a folded file should make no
difference, and with the folding optimisers off. Both arms of that second pair stop at the EXTENDED level. One
level higher a BatchNormalization that may not be folded becomes a 1x1 convolution in the blocked (NCHWc)
layout; that layout also speeds up the folded graph, so comparing across levels would credit folding with it.
"""

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from service.errors import MeasurementRefused
from service.measurement.runner import SEED, Question, Run, TimedArm
from service.onnxruntime_folding import FOLDING_OPTIMISERS

EXTENDED = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED

NULL_CONTROL = Question(
    "null_control",
    "How far apart do two copies of the deployed graph seem to be?",
    baseline="ort_deployed",
    candidate="ort_deployed_copy",
)
RUNTIME_QUESTIONS = (
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

# An op_type field (number 4, wire type 2) of onnx.proto's NodeProto, with its length.
_BATCH_NORMALIZATION = b"\x22\x12BatchNormalization"


def random_images(imgsz: int, batch: int) -> NDArray[np.uint8]:
    """The images every arm is given, (batch, imgsz, imgsz, 3), the same for the same arguments."""
    return np.random.default_rng(SEED).integers(0, 256, (batch, imgsz, imgsz, 3), dtype=np.uint8)


def runtime_arms(reference: Path, deployed: Path, images: NDArray[np.uint8], threads: int) -> list[TimedArm]:
    """The arms of ``NULL_CONTROL`` and ``RUNTIME_QUESTIONS``.

    Args:
        reference: graph that keeps its BatchNormalization nodes; one input.
        deployed: graph of the same network folded; one input.
        images: (B, S, S, 3) uint8, what both take.
        threads: threads of every arm, at least 1.

    Raises:
        MeasurementRefused: the reference has no BatchNormalization, or ONNX Runtime folded although it was told
            not to.
    """
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
        ("ort_deployed", "ONNX Runtime, folded", deployed, {}),
        ("ort_deployed_copy", "ONNX Runtime, folded, loaded a second time", deployed, {}),
    ]
    return [
        session_arm(name, title, partial(open_session, path, threads, **options), images)
        for name, title, path, options in arms
    ]


def session_arm(
    name: str, title: str, open_one: Callable[[], ort.InferenceSession], images: NDArray[np.uint8]
) -> TimedArm:
    """ONNX Runtime on ``images`` (B, S, S, 3), in a session of its own each time the arm is opened."""

    def open_session_run() -> Run:
        session = open_one()
        feed = {session.get_inputs()[0].name: images}
        return lambda: session.run(None, feed)

    return TimedArm(name, title, "onnxruntime", open_session_run)


def require_unfolded(reference: Path, threads: int) -> None:
    """Check that ONNX Runtime, told not to fold, executes every BatchNormalization of a graph.

    Raises:
        MeasurementRefused: the file has no BatchNormalization to keep, or ONNX Runtime removed some all the
            same, as a release with a new optimiser might.
    """
    wanted = count_batch_normalization(reference)
    if not wanted:
        raise MeasurementRefused(f"{reference.name} has no BatchNormalization left; export it in PRESERVE mode.")
    with tempfile.TemporaryDirectory() as folder:
        optimised = Path(folder) / "optimised.onnx"
        # A session of its own, so that the ones timed have the same options as the arm they are compared with.
        open_session(reference, threads, level=EXTENDED, disabled=FOLDING_OPTIMISERS, save_as=optimised)
        left = count_batch_normalization(optimised)
    if left != wanted:
        raise MeasurementRefused(
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
    """Number of BatchNormalization nodes in an ONNX file, read from its bytes: serving has no onnx package."""
    return path.read_bytes().count(_BATCH_NORMALIZATION)

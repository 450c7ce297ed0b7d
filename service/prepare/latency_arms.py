"""What folding saves on this machine, in PyTorch and in ONNX Runtime, measured while both networks are at hand."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from service.bundle.latency import LatencyReport
from service.errors import PrepareError
from service.measurement.runner import (
    DEFAULT_BUDGET_S,
    DEFAULT_ROUNDS,
    Progress,
    Question,
    Run,
    TimedArm,
    Workload,
    measure_latency,
)
from service.measurement.runtime_arms import NULL_CONTROL, RUNTIME_QUESTIONS, random_images, runtime_arms

QUESTIONS = (
    Question(
        "folding_in_torch",
        "What does folding BatchNorm save in eager PyTorch?",
        baseline="torch_unfolded",
        candidate="torch_folded",
    ),
    *RUNTIME_QUESTIONS,
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
        PrepareError: a module is in training mode.
        MeasurementRefused: ``rounds`` is too small, ``reference_onnx`` has no BatchNormalization, or ONNX Runtime
            folded although it was told not to.
    """
    image = random_images(imgsz, batch=1)
    with _torch_threads(threads):
        arms = [
            torch_arm("torch_unfolded", "PyTorch eager, BatchNorm kept", unfolded, image),
            torch_arm("torch_folded", "PyTorch eager, folded", folded, image),
            *runtime_arms(reference_onnx, deployed_onnx, image, threads),
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


@contextmanager
def _torch_threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)

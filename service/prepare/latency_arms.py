"""What folding BatchNorm and dropping a head save in eager PyTorch, measured while all networks are at hand."""

import copy
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from service.bundle.latency import LatencyReport, NotMeasured
from service.errors import PrepareError
from service.measurement.economy import Question
from service.measurement.runtime_arms import random_images
from service.measurement.study import LEFT_OUT, Effort, Place, Progress, run_study
from service.measurement.timed_arm import ArmFacts, TimedArm
from service.prepare import module_peak
from service.prepare.dataflow import CONVOLUTIONS
from service.prepare.module_peak import module_run

FOLDING_QUESTION = Question(
    "folding_in_torch",
    "What does folding BatchNorm save in eager PyTorch?",
    baseline="torch_unfolded",
    candidate="torch_folded",
)
HEAD_QUESTIONS = (
    Question(
        "dropping_head_unfolded",
        "What does dropping the unused head save in eager PyTorch, BatchNorm kept?",
        baseline="torch_both_heads_unfolded",
        candidate="torch_unfolded",
    ),
    Question(
        "dropping_head_folded",
        "What does dropping the unused head save in eager PyTorch, folded?",
        baseline="torch_both_heads_folded",
        candidate="torch_folded",
    ),
    Question(
        "dropping_and_folding",
        "What do dropping the unused head and folding save together in eager PyTorch?",
        baseline="torch_both_heads_unfolded",
        candidate="torch_folded",
    ),
)
_ONE_HEAD = "The checkpoint has one head, so there was none to drop."
_NOT_EXECUTED = "The checkpoint executes only the head that is deployed, so dropping the other saves no time."


@dataclass(frozen=True)
class Networks:
    """One network in each of its forms; all take (B, S, S, 3) uint8, are in eval mode and answer from the same head.

    Attributes:
        unfolded: with the head that is deployed and no other.
        folded: the same with BatchNorm folded.
        both_heads_unfolded: as the checkpoint holds it; None where it has one head.
        both_heads_folded: the same with BatchNorm folded in both; None likewise.
    """

    unfolded: nn.Module
    folded: nn.Module
    both_heads_unfolded: nn.Module | None = None
    both_heads_folded: nn.Module | None = None


def run_latency(networks: Networks, place: Place, effort: Effort, progress: Progress | None = None) -> LatencyReport:
    """Measure what folding saves, in PyTorch and in ONNX Runtime, on random images.

    Args:
        networks: those that ``place``'s graphs were exported from. Both heads take part if it is to be thorough.
        place: its threads are PyTorch's too; PyTorch's own number is put back afterwards.
        effort, progress: as in ``run_study``.

    Raises:
        PrepareError: a module is in training mode.
        MeasurementRefused: too few rounds are asked for, the reference graph has no BatchNormalization, or ONNX
            Runtime folded although it was told not to.
    """
    with _torch_threads(place.threads):
        arms = TorchArms(networks, place, effort.thorough)
        return run_study(place, effort, more=arms, progress=progress)


@dataclass(frozen=True)
class TorchArm:
    """A network in eager PyTorch before it is given pictures; ``convolutions`` is how many it executes."""

    name: str
    title: str
    module: nn.Module
    facts: ArmFacts
    convolutions: int

    def timed(self, images: NDArray[np.uint8]) -> TimedArm:
        """This arm in inference mode on ``images`` (B, S, S, 3)."""
        tensor = torch.from_numpy(images)
        # A copy lies elsewhere in memory, as the network of another process would.
        return TimedArm(self.name, self.title, self.facts, lambda: module_run(copy.deepcopy(self.module), tensor))


class TorchArms:
    """The arms in eager PyTorch; see ``service.measurement.study.MoreArms``."""

    asked_first = True

    def __init__(self, networks: Networks, place: Place, with_both_heads: bool) -> None:
        """Run each network once on one image, to see what it executes.

        Raises:
            PrepareError: a module is in training mode.
        """
        self._threads = place.threads
        image = torch.from_numpy(random_images(place.imgsz, batch=1))
        self._arms = [
            inspect_module("torch_unfolded", "PyTorch eager, BatchNorm kept", networks.unfolded, image),
            inspect_module("torch_folded", "PyTorch eager, folded", networks.folded, image),
        ]
        whole, reason = self._both_heads(networks, image) if with_both_heads else ([], LEFT_OUT)
        self._arms += whole
        self.questions: Sequence[Question] = (FOLDING_QUESTION, *(HEAD_QUESTIONS if whole else ()))
        left_open = () if whole else HEAD_QUESTIONS
        self.not_measured = [NotMeasured(name=q.name, question=q.question, reason=reason) for q in left_open]

    def timed(self, images: NDArray[np.uint8]) -> list[TimedArm]:
        """See ``MoreArms.timed``."""
        return [arm.timed(images) for arm in self._arms]

    def bursts(self, images: NDArray[np.uint8], callers: int) -> list[TimedArm]:
        """None: nobody who has many callers serves them with eager PyTorch."""
        return []

    def programs(self, imgsz: int, batch: int, folder: Path) -> dict[str, list[str]]:
        """See ``MoreArms.programs``."""
        return {
            arm.name: module_peak.program(arm.name, arm.module, self._threads, imgsz, batch, folder)
            for arm in self._arms
        }

    def _both_heads(self, networks: Networks, image: torch.Tensor) -> tuple[list[TorchArm], str]:
        """The arms that execute both heads; if there are none, why."""
        if networks.both_heads_unfolded is None or networks.both_heads_folded is None:
            return [], _ONE_HEAD
        both = "PyTorch eager, both heads executed as in the checkpoint"
        arms = [
            inspect_module("torch_both_heads_unfolded", f"{both}, BatchNorm kept", networks.both_heads_unfolded, image),
            inspect_module("torch_both_heads_folded", f"{both}, folded", networks.both_heads_folded, image),
        ]
        if any(arm.convolutions <= self._arms[0].convolutions for arm in arms):
            return [], _NOT_EXECUTED
        return arms, ""


def inspect_module(name: str, title: str, module: nn.Module, image: torch.Tensor) -> TorchArm:
    """Run a network once on ``image`` (1, S, S, 3) uint8 and count what it executes.

    Raises:
        PrepareError: it is in training mode, where BatchNorm does other work than when it is served.
    """
    if module.training:
        raise PrepareError(f"The module of arm {name} is in training mode; call eval() on it first.")
    calls = Counter[str]()
    hooks = [
        layer.register_forward_hook(lambda *_, kind=kind: calls.update([kind]))
        for layer in module.modules()
        for kind, types in (("batchnorm", nn.BatchNorm2d), ("convolution", CONVOLUTIONS))
        if isinstance(layer, types)
    ]
    try:
        with torch.inference_mode():
            module(image)
    finally:
        for hook in hooks:
            hook.remove()
    held = sum(t.numel() * t.element_size() for t in (*module.parameters(), *module.buffers()))
    facts = ArmFacts(engine="torch", nodes=None, batch_normalizations=calls["batchnorm"], bytes=held)
    return TorchArm(name, title, module, facts, calls["convolution"])


@contextmanager
def _torch_threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)

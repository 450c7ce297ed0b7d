"""What rounding may do to the answer of a network, tried out on its scores before the sigmoid.

Rounding moves every score a little. Where scores are as good as equal, this decides which class a box has, which of two
overlapping boxes is suppressed and which boxes are still among the first 300; elsewhere it decides nothing.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from service.comparison import SIGMOID_ERROR
from service.prepare.checkpoint import blocks
from service.prepare.deployed_network import DeployedNetwork

_SEED = 0
#: Of two equal scores one draw in two turns the order round: a tie stays hidden from all of them once in 256 times.
_DRAWS = 8


@dataclass(frozen=True)
class Pass:
    """One forward pass of a picture.

    Attributes:
        rows: the final rows (300, 6).
        scores: scores before the sigmoid of each scale of the head, finest first: (1, classes, H, W) each.
        features: what the head was given.
    """

    rows: NDArray[np.float64]
    scores: list[torch.Tensor]
    features: list[torch.Tensor]


def run(network: DeployedNetwork, image: torch.Tensor) -> Pass:
    """Run one picture (1, S, S, 3) uint8 BGR."""
    scores: list[torch.Tensor] = []
    features: list[torch.Tensor] = []
    detect = blocks(network.network)[-1]
    handle = detect.register_forward_pre_hook(lambda _, arguments: features.extend(arguments[0]))
    try:
        with torch.inference_mode(), _changed_scores(network, scores.append):
            return Pass(network(image)[0].double().numpy(), scores, features)
    finally:
        handle.remove()


def run_shaken(network: DeployedNetwork, features: Sequence[torch.Tensor], score: float) -> list[NDArray[np.float64]]:
    """The final rows (300, 6) after each of several draws of rounding; corners are left as they are.

    Args:
        network: in float64, so that nothing else rounds.
        features: what a run gave its head.
        score: largest change of a score before the sigmoid. The sigmoid itself is off by up to ``SIGMOID_ERROR`` more.
    """
    detect = blocks(network.network)[-1]
    random = torch.Generator().manual_seed(_SEED)

    def shake(scores: torch.Tensor) -> torch.Tensor:
        by = [torch.rand(scores.shape, generator=random, dtype=scores.dtype) * 2 - 1 for _ in range(2)]
        confidence = (scores + score * by[0]).sigmoid() + SIGMOID_ERROR * by[1]
        return torch.logit(confidence, eps=torch.finfo(scores.dtype).tiny)

    with torch.inference_mode(), _changed_scores(network, shake):
        answers = (network.finish(network.proposals(detect(list(features)))) for _ in range(_DRAWS))
        return [answer[0].numpy() for answer in answers]


@contextmanager
def _changed_scores(network: DeployedNetwork, change: Callable[[torch.Tensor], torch.Tensor | None]) -> Iterator[None]:
    """Let the head go on with what ``change`` makes of the scores of each scale, if it makes something of them."""
    detect = blocks(network.network)[-1]
    branches = detect.one2one_cv3 if network.head == "one2one" else detect.cv3
    handles = [branch.register_forward_hook(lambda _, __, scores: change(scores)) for branch in branches]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()

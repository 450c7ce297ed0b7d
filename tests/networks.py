"""Checkpoints for tests, built from Ultralytics' own YAML files, with BatchNorm statistics measured on pictures."""

from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils import ASSETS

from service.preprocessing.letterbox import letterbox, plan_letterbox

#: Places that answer above 0.25 per picture, before suppression, on average over the pictures a network is made for.
BOXES = 80


def photograph(name: str, size: int) -> np.ndarray:
    """One of Ultralytics' photographs, letterboxed: uint8 (size, size, 3) BGR."""
    return read_letterboxed(ASSETS / name, size)


def read_letterboxed(file: Path, size: int) -> np.ndarray:
    """A picture file, letterboxed: uint8 (size, size, 3) BGR."""
    image = cv2.imread(str(file))
    assert image is not None
    return letterbox(image, plan_letterbox(image.shape[1], image.shape[0], size))


def photographs(size: int) -> torch.Tensor:
    """Both photographs as float32 (2, 3, size, size) RGB in 0..1."""
    return as_tensor([photograph(name, size) for name in ("bus.jpg", "zidane.jpg")])


def as_tensor(pictures: list[np.ndarray]) -> torch.Tensor:
    """BGR pictures uint8 (H, W, 3) as the network sees them: float32 (N, 3, H, W) RGB in 0..1."""
    stacked = np.stack(pictures)[..., ::-1].transpose(0, 3, 1, 2).astype(np.float32)
    return torch.from_numpy(stacked / 255)


def calibrated_network(architecture: str, classes: int = 3, seed: int = 0) -> DetectionModel:
    """A detector with random weights, varied gamma and beta, running statistics of real activations, and a head
    that answers some dozens of boxes above 0.25, which are others in every picture."""
    torch.manual_seed(seed)
    network = DetectionModel(architecture, nc=classes, verbose=False).float().train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            # Mostly on the straight side of the activations, as in trained networks: others are chaotic, and rounding
            # alone moves their answers.
            nn.init.uniform_(module.weight, 0.3, 1.0)
            nn.init.normal_(module.bias, 1.0, 0.3)
            # With anything left of the variance of 1 they start with, each layer would fade what it is given, and the
            # head would answer the same to every picture.
            module.momentum = 1.0
    pictures = _calibration_pictures(320)
    with torch.no_grad():
        network(pictures)
        network.eval()
        _spread_answers(network, pictures)
    return network


def _calibration_pictures(size: int) -> torch.Tensor:
    """Photographs and samples as float32 (N, 3, size, size) RGB in 0..1."""
    files = [*sorted(ASSETS.glob("*.jpg")), *sorted((Path(__file__).parent.parent / "samples").glob("*.jpg"))]
    return as_tensor([read_letterboxed(file, size) for file in files])


def _spread_answers(network: DetectionModel, pictures: torch.Tensor) -> None:
    """Let the last convolutions of the heads answer as those of a trained network do: most places are sure to hold
    nothing, a few hold a box, none is wholly sure; boxes are of some cells and differ in size."""
    head = network.model[-1]
    box_branches, class_branches = [*head.cv2], [*head.cv3]
    if getattr(head, "one2one_cv2", None) is not None:
        box_branches += head.one2one_cv2
        class_branches += head.one2one_cv3
    answers: dict[nn.Conv2d, torch.Tensor] = {}
    handles = [
        branch[-1].register_forward_hook(lambda conv, _, output: answers.update({conv: output}))
        for branch in box_branches + class_branches
    ]
    network(pictures)
    for handle in handles:
        handle.remove()
    cells = sum(answers[branch[-1]][0, 0].numel() for branch in head.cv3)
    for branch in class_branches:
        spread = _spread(answers[branch[-1]])
        commonest = torch.quantile(spread, 1 - BOXES / (cells * head.nc), dim=1)
        # From a confidence near 0.25 to one of up to 0.73 to 0.95: others for each class, or classes would tie.
        lowest, highest = torch.empty(2, head.nc).uniform_(0, 1)
        gain = (2 + 2 * highest) / (spread.amax(1) - commonest).clamp(min=0.3)  # or rounding would be seen
        _rescale(branch[-1], answers[branch[-1]], gain, -1.0 - 0.5 * lowest - gain * commonest)
    for branch in box_branches:
        if head.reg_max == 1:
            gain, middle = torch.tensor(2.5), torch.tensor(3.0)  # cells from the middle to each side
        else:
            # Each bin is a distance, near ones are likelier.
            gain, middle = torch.tensor(4.0), -0.3 * torch.arange(head.reg_max).repeat(4)
        _rescale(branch[-1], answers[branch[-1]], gain, middle)


def _spread(answer: torch.Tensor) -> torch.Tensor:
    """What a convolution answered (N, C, H, W), by channel and between -1 and 1 around its mean: (C, N * H * W)."""
    flat = answer.transpose(0, 1).flatten(1)
    centred = flat - flat.mean(1, keepdim=True)
    return centred / centred.abs().amax(1, keepdim=True)


def _rescale(conv: nn.Conv2d, answer: torch.Tensor, gain: torch.Tensor, middle: torch.Tensor) -> None:
    """Change ``conv`` so that where it gave ``answer`` it gives ``middle`` + ``gain`` times the spread of that."""
    flat = answer.transpose(0, 1).flatten(1)
    mean = flat.mean(1)
    factor = gain / (flat - mean[:, None]).abs().amax(1)
    conv.weight *= factor[:, None, None, None]
    conv.bias.copy_((conv.bias - mean) * factor + middle)


def save_checkpoint(network: nn.Module, path: Path) -> Path:
    """Write a network the way Ultralytics' trainer does."""
    torch.save({"model": network, "ema": None, "train_args": {}, "epoch": -1}, path)
    return path

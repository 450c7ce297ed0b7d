"""Checkpoints for tests, built from Ultralytics' own YAML files, with BatchNorm statistics measured on pictures."""

from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils import ASSETS

from service.preprocessing.letterbox import letterbox, plan_letterbox


def photograph(name: str, size: int) -> np.ndarray:
    """One of Ultralytics' photographs, letterboxed: uint8 (size, size, 3) BGR."""
    image = cv2.imread(str(ASSETS / name))
    assert image is not None
    return letterbox(image, plan_letterbox(image.shape[1], image.shape[0], size))


def photographs(size: int) -> torch.Tensor:
    """Both photographs as float32 (2, 3, size, size) RGB in 0..1."""
    pictures = np.stack([photograph(name, size)[..., ::-1] for name in ("bus.jpg", "zidane.jpg")])
    return torch.from_numpy(pictures.transpose(0, 3, 1, 2).astype(np.float32) / 255)


def calibrated_network(architecture: str, classes: int = 3, seed: int = 0) -> DetectionModel:
    """A detector with random weights, varied gamma and beta, running statistics of real activations, and a head
    confident enough to answer with boxes at 0.25."""
    torch.manual_seed(seed)
    network = DetectionModel(architecture, nc=classes, verbose=False).float().train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0.0, 0.3)
            module.momentum = 0.5
    with torch.no_grad():
        for _ in range(3):
            network(photographs(320))
        _make_confident(network)
    return network.eval()


def _make_confident(network: DetectionModel) -> None:
    """Let the classification heads answer above 0.25 in a few places, whatever their random weights."""
    head = network.model[-1]
    network.eval()
    _, predictions = network(photographs(320))
    for kind in ("one2one", "one2many"):
        group = predictions.get(kind, predictions if kind == "one2many" else None)
        if group is None:
            continue
        # The twentieth largest logit of each picture moves to -1, that is to a confidence of 0.27.
        shift = -1.0 - group["scores"].flatten(1).topk(20).values[:, -1].max()
        for branch in head.one2one_cv3 if kind == "one2one" else head.cv3:
            branch[-1].bias += shift


def save_checkpoint(network: nn.Module, path: Path) -> Path:
    """Write a network the way Ultralytics' trainer does."""
    torch.save({"model": network, "ema": None, "train_args": {}, "epoch": -1}, path)
    return path

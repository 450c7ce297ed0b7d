"""A Conv + BatchNorm network small enough to time in milliseconds, as torch modules and as ONNX files."""

import copy
import warnings
from pathlib import Path
from typing import ClassVar

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

SIZE = 32


class TinyNet(nn.Module):
    """uint8 (B, S, S, 3) BGR in, two Conv + BatchNorm pairs, float32 (B, 4, S, S) out."""

    threads_seen: ClassVar[set[int]] = set()  # shared with the copies that the arms make

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8, eps=1e-3)
        self.conv2, self.bn2 = nn.Conv2d(8, 4, 1, bias=False), nn.BatchNorm2d(4, eps=1e-3)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.threads_seen.add(torch.get_num_threads())
        x = image.permute(0, 3, 1, 2)[:, [2, 1, 0]].float() / 255
        x = nn.functional.silu(self.bn1(self.conv1(x)))
        return nn.functional.silu(self.bn2(self.conv2(x)))


def export(module: nn.Module, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the TorchScript exporter is deprecated, and alone in keeping BatchNorm
        torch.onnx.export(
            module,
            (torch.zeros(1, SIZE, SIZE, 3, dtype=torch.uint8),),
            str(path),
            training=torch.onnx.TrainingMode.PRESERVE,
            dynamo=False,
            opset_version=20,
            input_names=["images"],
            output_names=["maps"],
            dynamic_axes={"images": {0: "batch"}, "maps": {0: "batch"}},
        )
    return path


class Nets:
    def __init__(self, folder: Path) -> None:
        torch.manual_seed(0)
        self.unfolded = TinyNet()
        for bn in (self.unfolded.bn1, self.unfolded.bn2):
            assert bn.running_mean is not None and bn.running_var is not None
            nn.init.normal_(bn.running_mean, std=0.2)
            nn.init.uniform_(bn.running_var, 0.5, 2.0)
            nn.init.uniform_(bn.weight, 0.5, 2.0)
        self.unfolded.eval()
        self.folded = copy.deepcopy(self.unfolded)
        for number in ("1", "2"):
            conv, bn = getattr(self.folded, f"conv{number}"), getattr(self.folded, f"bn{number}")
            setattr(self.folded, f"conv{number}", fuse_conv_bn_eval(conv, bn))
            setattr(self.folded, f"bn{number}", nn.Identity())
        self.reference = export(self.unfolded, folder / "reference.onnx")
        self.deployed = export(self.folded, folder / "model.onnx")

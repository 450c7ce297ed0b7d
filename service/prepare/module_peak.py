"""Run as a program: the peak memory of one network in eager PyTorch, printed for ``measure_peak``."""

import sys
from pathlib import Path

import torch
from torch import nn

# Loading a module needs them; imported here, they are part of the baseline and not of the arm.
import service.prepare.deployed_network  # noqa: F401
from service.measurement.peak_memory import report_peak
from service.measurement.runtime_arms import random_images
from service.measurement.timed_arm import Run


def program(name: str, module: nn.Module, threads: int, imgsz: int, batch: int, folder: Path) -> list[str]:
    """What ``measure_peak`` is to run for a module, which is put into ``folder`` as ``name``.pt."""
    path = folder.resolve() / f"{name}.pt"
    if not path.exists():
        torch.save(module, path)
    return [__name__, str(path), str(threads), str(imgsz), str(batch)]


def module_run(module: nn.Module, images: torch.Tensor) -> Run:
    """Each call of what is returned runs ``module`` once on ``images`` (B, S, S, 3) uint8."""

    def run() -> object:
        with torch.inference_mode():
            return module(images)

    return run


def main(path: str, threads: str, imgsz: str, batch: str) -> None:
    """Load and run the module that ``program`` stored."""
    torch.set_num_threads(int(threads))
    images = torch.from_numpy(random_images(int(imgsz), int(batch)))
    # Unrestricted, but the file is this program's own: its parent wrote it a moment ago, in a folder only it can use.
    report_peak(lambda: module_run(torch.load(path, weights_only=False), images))


if __name__ == "__main__":
    main(*sys.argv[1:])

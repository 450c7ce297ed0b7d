"""The inputs a fold is proved on: photographs, generated pictures of codes, and noise."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch

from service.errors import PrepareError
from service.preprocessing.letterbox import letterbox, plan_letterbox

PICTURES = Path(__file__).parent / "pictures"
_NOISE_SEEDS = (0, 1)


@dataclass(frozen=True)
class ProofInput:
    """One letterboxed input: uint8 (1, S, S, 3) BGR."""

    name: str
    kind: Literal["photograph", "generated", "noise"]
    image: torch.Tensor


def proof_inputs(imgsz: int) -> list[ProofInput]:
    """Ultralytics' two photographs, the pictures shipped beside this module, and seeded uniform noise.

    Raises:
        PrepareError: a picture is missing from the installation.
    """
    from ultralytics.utils import ASSETS

    inputs = [_picture(path, "photograph", imgsz) for path in sorted(Path(ASSETS).glob("*.jpg"))]
    inputs += [_picture(path, "generated", imgsz) for path in sorted(PICTURES.glob("*.jpg"))]
    if len({item.kind for item in inputs}) < 2:
        raise PrepareError("The pictures that a fold is proved on are missing from this installation.")
    for seed in _NOISE_SEEDS:
        noise = np.random.default_rng(seed).integers(0, 256, (imgsz, imgsz, 3), np.uint8)
        inputs.append(ProofInput(f"noise seed {seed}", "noise", torch.from_numpy(noise)[None]))
    return inputs


def _picture(path: Path, kind: Literal["photograph", "generated"], imgsz: int) -> ProofInput:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise PrepareError(f"The proof picture {path} cannot be read.")
    height, width = image.shape[:2]
    square = letterbox(np.asarray(image, np.uint8), plan_letterbox(width, height, imgsz))
    return ProofInput(path.name, kind, torch.from_numpy(square)[None])

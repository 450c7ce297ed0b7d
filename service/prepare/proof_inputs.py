"""The inputs a fold is proved on: photographs, generated pictures of codes, and noise."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch

from service.errors import PrepareError
from service.preprocessing.letterbox import Letterbox, letterbox, plan_letterbox

ProofKind = Literal["photograph", "generated", "noise"]

PICTURES = Path(__file__).parent / "pictures"
_NOISE_SEED = 0


@dataclass(frozen=True)
class ProofInput:
    """One letterboxed input: uint8 (1, S, S, 3) BGR, and where the picture lies in it; noise fills it."""

    name: str
    kind: ProofKind
    image: torch.Tensor
    plan: Letterbox


def proof_inputs(imgsz: int) -> list[ProofInput]:
    """Ultralytics' two photographs, the pictures shipped beside this module, and seeded uniform noise.

    Raises:
        PrepareError: a picture is missing from the installation.
    """
    from ultralytics.utils import ASSETS

    inputs: list[ProofInput] = []
    sources: tuple[tuple[Path, ProofKind], ...] = ((Path(ASSETS), "photograph"), (PICTURES, "generated"))
    for folder, kind in sources:
        pictures = sorted(folder.glob("*.jpg"))
        if not pictures:
            raise PrepareError(f"The pictures that a fold is proved on are missing from {folder}.")
        inputs += [_picture(path, kind, imgsz) for path in pictures]
    full = plan_letterbox(imgsz, imgsz, imgsz)
    noise = np.random.default_rng(_NOISE_SEED).integers(0, 256, (imgsz, imgsz, 3), np.uint8)
    return [*inputs, ProofInput(f"noise, seed {_NOISE_SEED}", "noise", torch.from_numpy(noise)[None], full)]


def _picture(path: Path, kind: ProofKind, imgsz: int) -> ProofInput:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise PrepareError(f"The proof picture {path} cannot be read.")
    height, width = image.shape[:2]
    plan = plan_letterbox(width, height, imgsz)
    square = letterbox(np.asarray(image, np.uint8), plan)
    return ProofInput(path.name, kind, torch.from_numpy(square)[None], plan)

"""The inputs a fold is proved on: photographs, generated pictures of codes, and noise."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from service.bundle.manifest import RectSpec
from service.errors import PrepareError
from service.pictures import PICTURES
from service.preprocessing.letterbox import letterbox, plan_letterbox

ProofKind = Literal["photograph", "generated", "noise"]

_NOISE_SEED = 0


@dataclass(frozen=True)
class ProofPicture:
    """One picture as it was taken: uint8 (H, W, 3) BGR."""

    name: str
    kind: ProofKind
    image: NDArray[np.uint8]


@dataclass(frozen=True)
class ProofInput:
    """One letterboxed input: uint8 (1, H, W, 3) BGR."""

    name: str
    kind: ProofKind
    image: torch.Tensor


def proof_inputs(imgsz: int, rect: RectSpec | None = None) -> list[ProofInput]:
    """Ultralytics' two photographs, the pictures that come with the project, and seeded uniform noise.

    Args:
        rect: leave padding out of the pictures, and give noise in the narrowest inputs, too.

    Raises:
        PrepareError: a picture is missing from the installation.
    """
    inputs = [_letterboxed(picture, imgsz, rect) for picture in proof_pictures()]
    noise = np.random.default_rng(_NOISE_SEED).integers(0, 256, (imgsz, imgsz, 3), np.uint8)
    name = f"noise, seed {_NOISE_SEED}"
    inputs.append(ProofInput(name, "noise", torch.from_numpy(noise)[None]))
    if rect is not None:
        flat, upright = noise[: rect.shortest], np.ascontiguousarray(noise[:, : rect.shortest])
        inputs.append(ProofInput(f"{name}, flat", "noise", torch.from_numpy(flat)[None]))
        inputs.append(ProofInput(f"{name}, upright", "noise", torch.from_numpy(upright)[None]))
    return inputs


def proof_pictures() -> list[ProofPicture]:
    """The photographs and the generated pictures in full size.

    Raises:
        PrepareError: a picture is missing from the installation.
    """
    from ultralytics.utils import ASSETS

    found: list[ProofPicture] = []
    sources: tuple[tuple[Path, ProofKind], ...] = ((Path(ASSETS), "photograph"), (PICTURES, "generated"))
    for folder, kind in sources:
        pictures = sorted(folder.glob("*.jpg"))
        if not pictures:
            raise PrepareError(f"The pictures that a fold is proved on are missing from {folder}.")
        found += [ProofPicture(path.name, kind, _read(path)) for path in pictures]
    return found


def _read(path: Path) -> NDArray[np.uint8]:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise PrepareError(f"The proof picture {path} cannot be read.")
    return np.asarray(image, np.uint8)


def _letterboxed(picture: ProofPicture, imgsz: int, rect: RectSpec | None) -> ProofInput:
    height, width = picture.image.shape[:2]
    fitted = letterbox(picture.image, plan_letterbox(width, height, imgsz, rect))
    return ProofInput(picture.name, picture.kind, torch.from_numpy(fitted)[None])

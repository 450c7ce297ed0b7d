"""Pictures enough for a calibration, cut at random out of the repository's samples."""

from pathlib import Path

import cv2
import numpy as np


def cut_pictures(samples: list[Path], count: int, seed: int, side: int = 320) -> list[np.ndarray]:
    """``count`` different uint8 (H, W, 3) BGR pictures of ordinary brightness, each a part of one sample."""
    rng = np.random.default_rng(seed)
    sources = [cv2.imread(str(path)) for path in samples]
    found = []
    for number in range(count):
        source = sources[number % len(sources)]
        share = rng.uniform(0.4, 0.9)
        height, width = (int(length * share) for length in source.shape[:2])
        top, left = (int(rng.integers(0, length)) for length in (source.shape[0] - height, source.shape[1] - width))
        part = source[top : top + height, left : left + width]
        scale = side / max(part.shape[:2])
        part = cv2.resize(part, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        found.append(np.clip(part * rng.uniform(0.85, 1.1), 0, 255).astype(np.uint8))
    return found


def as_png(picture: np.ndarray) -> bytes:
    """The picture as a file that loses nothing."""
    return cv2.imencode(".png", picture)[1].tobytes()

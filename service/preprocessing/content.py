"""The picture alone out of the network's square, and the tensor that the network's first convolution reads."""

import numpy as np
from numpy.typing import NDArray

from service.preprocessing.letterbox import Letterbox

#: Strides of a YOLO pyramid divide this.
MULTIPLE = 32


def crop_content(square: NDArray[np.uint8], plan: Letterbox) -> NDArray[np.uint8]:
    """The picture inside a letterboxed square (S, S, 3), cut in its middle to multiples of 32 pixels.

    Grey padding would mix the proportions of a picture into its statistics. A picture thinner than 32 pixels keeps
    as much of the padding as makes it 32.

    Returns:
        A view (H, W, 3); H and W are multiples of 32, at least 32.
    """
    (width, height), (left, top) = plan.resized_wh, plan.offset_xy
    return square[_middle(top, height, plan.size), _middle(left, width, plan.size)]


def _middle(start: int, length: int, size: int) -> slice:
    kept = max(length // MULTIPLE * MULTIPLE, MULTIPLE)
    first = min(max(start + (length - kept) // 2, 0), size - kept)
    return slice(first, first + kept)


def network_tensor(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Pixels (H, W, 3) uint8 BGR to the tensor (1, 3, H, W) float32 RGB in 0..1 that the deployed graph makes of
    them before its first convolution."""
    planes = np.ascontiguousarray(pixels[..., ::-1].transpose(2, 0, 1)[None])
    return planes.astype(np.float32) / np.float32(255)

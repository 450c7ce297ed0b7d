"""Letterboxing that matches ``ultralytics.data.augment.LetterBox`` to the byte, and its inverse for boxes."""

import math
import mmap
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

PAD_VALUE = 114


class Rect(Protocol):
    """How far padding may be left out, so that the input is a rectangle."""

    @property
    def multiple(self) -> int:
        """What is left of a side is a multiple of so many pixels: the network's largest stride."""
        ...

    @property
    def shortest(self) -> int:
        """No side gets shorter, pixels; a multiple of ``multiple``."""
        ...


@dataclass(frozen=True)
class Letterbox:
    """Where a picture lies inside the network's input.

    Attributes:
        source_wh: width and height of the picture, pixels.
        input_wh: width and height of the input, pixels; equal unless padding is left out.
        resized_wh: width and height the picture has inside it.
        offset_xy: its top-left corner inside it.
    """

    source_wh: tuple[int, int]
    input_wh: tuple[int, int]
    resized_wh: tuple[int, int]
    offset_xy: tuple[int, int]


def plan_letterbox(width: int, height: int, size: int, rect: Rect | None = None) -> Letterbox:
    """Fit ``width`` x ``height`` centred into a square of ``size``, keeping its proportions.

    Rounding follows Ultralytics: the resized sides are rounded (never below 1), and an odd remainder of the
    padding goes to the right and bottom. So does the rectangle that is left of the square with ``rect``.

    Args:
        rect: leave padding out; None pads to the whole square.
    """
    scale = min(size / height, size / width)
    resized = max(round(width * scale), 1), max(round(height * scale), 1)
    across, down = (_input_side(side, size, rect) for side in resized)
    # The 0.1 makes an exact half round down on the left, hence up on the right.
    left, top = round((across - resized[0]) / 2 - 0.1), round((down - resized[1]) / 2 - 0.1)
    return Letterbox((width, height), (across, down), resized, (left, top))


def _input_side(resized: int, size: int, rect: Rect | None) -> int:
    """What remains of the side ``size`` for a picture that takes ``resized`` of it."""
    if rect is None:
        return size
    return max(resized + (size - resized) % rect.multiple, rect.shortest)


def letterbox(image: NDArray[np.uint8], plan: Letterbox, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
    """Draw ``image`` (H, W, 3, any channel order, any strides) into the input of ``plan``.

    Args:
        out: uint8 array of the input's height and width and 3 to draw into; a new one when None.

    Returns:
        The same, the border filled with grey 114.
    """
    canvas = np.empty((*plan.input_wh[::-1], 3), np.uint8) if out is None else out
    (width, height), (left, top) = plan.resized_wh, plan.offset_xy
    canvas[:top], canvas[top + height :] = PAD_VALUE, PAD_VALUE
    rows = canvas[top : top + height]
    rows[:, :left], rows[:, left + width :] = PAD_VALUE, PAD_VALUE
    content = rows[:, left : left + width]
    if (image.shape[1], image.shape[0]) == (width, height):
        content[:] = image
    elif image.flags.c_contiguous or len(image) < 2 * height:
        cv2.resize(np.ascontiguousarray(image), (width, height), dst=content, interpolation=cv2.INTER_LINEAR)
    else:
        # One colour after the other takes a third of the memory, and gives the same.
        for colour in range(3):
            content[..., colour] = cv2.resize(
                _contiguous_where_read(image[..., colour], height), (width, height), interpolation=cv2.INTER_LINEAR
            )
    return canvas


def _contiguous_where_read(image: NDArray[np.uint8], rows: int) -> NDArray[np.uint8]:
    """``image`` (H, W) in C order, which OpenCV needs, as far as interpolating it to ``rows`` rows reads it.

    Of a photograph that is a small part. The rest is left zero.
    """
    height = len(image)
    copy = _sparse(image.shape)
    # The upper one of the two rows read, which OpenCV finds in float32: it may err by less than a hundredth of a row.
    upper = (np.arange(rows) + 0.5) * (height / rows) - 0.5
    starts, stops = np.floor(upper - 0.01).astype(int), np.floor(upper + 0.01).astype(int) + 2
    for start, stop in zip(starts.clip(0), stops.clip(max=height), strict=True):
        copy[start:stop] = image[start:stop]
    return copy


def _sparse(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """An array of zeros in which only what is written takes memory: NumPy's own would take it by huge pages."""
    pages = mmap.mmap(-1, math.prod(shape), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if sys.platform == "linux":
        with suppress(OSError):  # a kernel without huge pages knows no advice against them
            pages.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(pages, np.uint8).reshape(shape)


def content_of(fitted: NDArray[np.uint8], plan: Letterbox, multiple: int = 32) -> NDArray[np.uint8]:
    """The picture inside the letterboxed one, without the padding: a view (H, W, 3).

    Args:
        fitted: the input that ``letterbox`` drew by ``plan``.
        multiple: the sides are rounded down to multiples of it about the picture's middle; sides below it get it, with
            padding where the picture has no more.
    """
    (left, top), (width, height) = plan.offset_xy, plan.resized_wh
    across, down = plan.input_wh
    return fitted[_span(top, height, down, multiple), _span(left, width, across, multiple)]


def picture_tensor(picture: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What the deployed graph makes of a picture before its first layer.

    Args:
        picture: (H, W, 3) uint8 BGR.

    Returns:
        (3, H, W) float32 RGB, 0 to 1.
    """
    tensor = picture[..., ::-1].transpose(2, 0, 1).astype(np.float32, order="C")
    tensor /= np.float32(255)  # in place: beside it another one would take 5 MB at 640 px
    return tensor


def content_tensor(fitted: NDArray[np.uint8], plan: Letterbox, multiple: int = 32) -> NDArray[np.float32]:
    """``picture_tensor`` of ``content_of``: (3, H, W) float32 RGB, 0 to 1."""
    return picture_tensor(content_of(fitted, plan, multiple))


def _span(start: int, length: int, size: int, multiple: int) -> slice:
    kept = max(length // multiple, 1) * multiple
    first = min(max(start + (length - kept) // 2, 0), size - kept)
    return slice(first, first + kept)


def unletterbox_xyxy(xyxy: NDArray[np.float32], plan: Letterbox) -> NDArray[np.float32]:
    """Map boxes from the network's input back to the picture and clip them to it.

    Args:
        xyxy: (N, 4) corners x1, y1, x2, y2 in pixels of the input.

    Returns:
        (N, 4) float32 corners in pixels of the picture, within [0, width] and [0, height].
    """
    left, top = plan.offset_xy
    width, height = plan.source_wh
    # Each axis has its own gain because each side was rounded by itself.
    gain_x, gain_y = plan.resized_wh[0] / width, plan.resized_wh[1] / height
    boxes = (xyxy - np.array([left, top, left, top], np.float32)) / np.array([gain_x, gain_y] * 2, np.float32)
    return np.clip(boxes, 0, np.array([width, height, width, height], np.float32)).astype(np.float32)

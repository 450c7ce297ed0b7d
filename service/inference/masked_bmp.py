"""BMP pixels of 16 or 32 bits whose colours lie where bit masks say, perhaps with alpha, as browsers show them.

OpenCV knows few masks, passes over alpha and leaves the lowest bits of 5- and 6-bit colours zero, so that its white is
248.
"""

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.errors import BrokenImage

_BITFIELDS, _ALPHA_BITFIELDS = 3, 6
_RGB = 0
#: Red, green and blue where a file of 16 bits names no masks.
_MASKS_555 = (0x7C00, 0x03E0, 0x001F)
_MASKS_AT = 54
#: Sizes of the headers that may have masks, in or right behind them. The first of those with alpha is 56.
_HEADERS_WITH_MASKS = (40, 52, 56, 108, 124)
_FIRST_WITH_ALPHA = 56

#: Pixels worked on at once, so that what is built up on the way stays small.
_BAND_PIXELS = 1 << 16


@dataclass(frozen=True)
class MaskedPixels:
    """Where the pixels lie in the file, and the bits of each colour in one of them.

    Attributes:
        offset: of the first row, bytes.
        bits: of one pixel, 16 or 32.
        is_top_down: the first row is the upper one.
        masks: of blue, green, red and, if there is any, alpha.
    """

    offset: int
    bits: int
    is_top_down: bool
    masks: tuple[int, ...]


def read_masked_pixels(data: bytes) -> MaskedPixels | None:
    """What the header of a BMP file says, or None where OpenCV decodes it as it looks.

    Raises:
        BrokenImage: a mask is not one run of bits of a pixel, or two masks overlap.
        struct.error: the file ends within its header.
    """
    (header_bytes,) = struct.unpack_from("<I", data, 14)
    if header_bytes not in _HEADERS_WITH_MASKS:
        return None
    height, _, bits, compression = struct.unpack_from("<iHHI", data, 22)
    masks: tuple[int, ...] = _MASKS_555
    if compression in (_BITFIELDS, _ALPHA_BITFIELDS) and bits in (16, 32):
        has_alpha = compression == _ALPHA_BITFIELDS or header_bytes >= _FIRST_WITH_ALPHA
        masks = struct.unpack_from("<4I" if has_alpha else "<3I", data, _MASKS_AT)
    elif (compression, bits) != (_RGB, 16):
        return None
    _check(masks, bits)
    alpha = tuple(mask for mask in masks[3:] if mask)
    (offset,) = struct.unpack_from("<I", data, 10)
    return MaskedPixels(offset, bits, height < 0, (*masks[2::-1], *alpha))


def decode_masked(data: bytes, layout: MaskedPixels, width: int, height: int) -> NDArray[np.uint8] | None:
    """(H, W, 3) or, with alpha, (H, W, 4) uint8, BGR(A), upright; None if the file ends before its last row.

    Alpha that is zero everywhere was never filled in: such a picture is opaque, as in browsers.
    """
    pixel_bytes = layout.bits // 8
    row_bytes = -(-width * pixel_bytes // 4) * 4
    if layout.offset + row_bytes * height > len(data):
        return None
    stored: NDArray[np.uint16 | np.uint32] = np.ndarray(
        (height, width), f"<u{pixel_bytes}", data, layout.offset, (row_bytes, pixel_bytes)
    )
    upright = stored if layout.is_top_down else stored[::-1]
    image = np.empty((height, width, len(layout.masks)), np.uint8)
    rows = max(1, _BAND_PIXELS // width)
    for start in range(0, height, rows):
        for channel, mask in enumerate(layout.masks):
            image[start : start + rows, :, channel] = _scaled(upright[start : start + rows], mask)
    if image.shape[2] == 4 and not image[..., 3].any():
        image[..., 3] = 255
    return image


def _check(masks: tuple[int, ...], bits: int) -> None:
    taken = 0
    for mask in masks:
        run = mask >> _shift(mask)
        if mask >> bits or run & (run + 1) or taken & mask:
            shown = ", ".join(f"{mask:#x}" for mask in masks)
            raise BrokenImage(f"The BMP header gives colour masks that make no sense in {bits} bits: {shown}.")
        taken |= mask


def _shift(mask: int) -> int:
    return max((mask & -mask).bit_length() - 1, 0)


def _scaled(stored: NDArray[np.uint16 | np.uint32], mask: int) -> NDArray[np.uint8]:
    """The bits below ``mask``, scaled to 0 to 255: rounded where they are fewer than eight, else the upper eight."""
    shift, bits = _shift(mask), mask.bit_count()
    values = (stored & mask) >> shift
    if bits >= 8:
        return (values >> (bits - 8)).astype(np.uint8)
    levels: NDArray[np.uint8] = np.rint(np.arange(1 << bits) * 255 / max((1 << bits) - 1, 1)).astype(np.uint8)
    return np.take(levels, values)

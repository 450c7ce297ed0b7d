"""Bytes of a picture to upright pixels, refusing whatever is not a whole picture of an accepted format."""

import cv2
import numpy as np
from numpy.typing import NDArray

from service.errors import BrokenImage, ImageTooLarge
from service.inference.headers import ImageHeader, read_header

# OpenCV reports every damaged upload to stderr; the answer to its sender says the same.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


#: How OpenCV asks libjpeg for a picture whose sides are divided.
_REDUCED_FLAGS = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
#: Bytes of the coefficients of one pixel, three of 16 bits: a progressive JPEG's are collected before any is decoded.
_COEFFICIENT_BYTES = 6

#: Pixels made opaque at once: their 16-bit intermediates take under a megabyte each, however large the picture is.
_BAND_PIXELS = 1 << 16


def decode_image(data: bytes, *, max_pixels: int) -> NDArray[np.uint8]:
    """Decode JPEG, PNG, WebP, BMP or the first frame of a GIF as a viewer shows it.

    EXIF orientation is applied, transparency is laid on white, grey and palette become colour.

    Args:
        data: the whole file.
        max_pixels: most width x height, checked in the header before anything is decoded.

    Returns:
        (height, width, 3) uint8, BGR, C-contiguous.

    Raises:
        UnsupportedImage: another format.
        ImageTooLarge: more pixels than ``max_pixels``.
        BrokenImage: truncated or damaged.
    """
    return decode_pixels(data, inspect_image(data, max_pixels=max_pixels))


def inspect_image(data: bytes, *, max_pixels: int) -> ImageHeader:
    """The first half of ``decode_image``: read and check the header. Raises the same errors."""
    header = read_header(data)
    pixels = header.width * header.height
    if pixels > max_pixels:
        raise ImageTooLarge(
            f"The picture has {header.width} x {header.height} = {pixels} pixels; the limit is {max_pixels}."
        )
    return header


def decode_pixels(data: bytes, header: ImageHeader, reduction: int = 1) -> NDArray[np.uint8]:
    """The second half of ``decode_image``.

    Args:
        header: what ``inspect_image`` found in the same bytes.
        reduction: what ``choose_reduction`` found: both sides are divided by it.

    Raises:
        BrokenImage: damaged.
    """
    # Nested, so that no name keeps the pixels as stored while the upright copy is made.
    return np.ascontiguousarray(
        _turn_upright(_lay_on_white(_decode_stored(data, header, reduction), header), header.orientation)
    )


def decoding_bytes(header: ImageHeader, reduction: int = 1) -> int:
    """Most memory that decoding a picture takes at once, with what is returned, both sides divided by ``reduction``.

    OpenCV decodes into an array of its own and copies it for Python, so the pixels as stored exist twice. That is no
    less than these once and the answer, or the answer twice while it is turned. Multipass decoders measured at most
    four times the pixels as stored.
    """
    pixels = header.width * header.height
    if reduction > 1:
        collected = pixels * _COEFFICIENT_BYTES if header.is_multipass else 0
        return collected + pixels // reduction**2 * 3 * 2
    stored = (8 if header.is_deep else 4) if header.has_alpha else 3
    return pixels * stored * (4 if header.is_multipass else 2)


def _decode_stored(data: bytes, header: ImageHeader, reduction: int) -> NDArray[np.uint8 | np.uint16]:
    """Pixels as stored: (H, W, 3) uint8 without alpha, else whatever layout the file has."""
    coloured = _REDUCED_FLAGS[reduction] | cv2.IMREAD_IGNORE_ORIENTATION
    flags = cv2.IMREAD_UNCHANGED if header.has_alpha else coloured
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise _damaged(header) from error
    if image is None or image.shape[:2] != (header.height // reduction, header.width // reduction):
        raise _damaged(header)
    return image  # type: ignore[return-value]


def _damaged(header: ImageHeader) -> BrokenImage:
    return BrokenImage(f"The {header.format} data is damaged and cannot be decoded.")


def _lay_on_white(stored: NDArray[np.uint8 | np.uint16], header: ImageHeader) -> NDArray[np.uint8]:
    """(H, W), (H, W, 3) or (H, W, 4), 8 or 16 bits, to (H, W, 3) uint8 over a white page."""
    if header.frame_xyxy is not None:
        stored = _clear_margins(stored, header.frame_xyxy)
    if stored.dtype == np.uint8 and stored.shape[2:] == (3,):
        return stored  # type: ignore[return-value]
    image = np.empty((*stored.shape[:2], 3), np.uint8)
    flat, flat_image = stored.reshape(header.width * header.height, -1), image.reshape(-1, 3)
    for start in range(0, len(flat), _BAND_PIXELS):
        band = slice(start, start + _BAND_PIXELS)
        _lay_band_on_white(flat[band], flat_image[band], header.transparent_grey)
    return image


def _lay_band_on_white(
    stored: NDArray[np.uint8 | np.uint16], image: NDArray[np.uint8], transparent_grey: int | None
) -> None:
    """(N, 1), (N, 3) or (N, 4), 8 or 16 bits, drawn into (N, 3) uint8."""
    eight = (stored >> 8 if stored.dtype == np.uint16 else stored).astype(np.uint8, copy=False)
    if eight.shape[1] == 4:
        colour, alpha = eight[:, :3], eight[:, 3:].astype(np.uint16)
        # At most 65 025 + 127, which fits 16 bits.
        image[:] = (colour * alpha + 255 * (255 - alpha) + 127) // 255
        return
    image[:] = eight
    # Only as the file stores it can the grey level that stands for "transparent" be recognised.
    if transparent_grey is not None:
        image[stored[:, 0] == transparent_grey] = 255


def _clear_margins(
    canvas: NDArray[np.uint8 | np.uint16], frame_xyxy: tuple[int, int, int, int]
) -> NDArray[np.uint8 | np.uint16]:
    """White around a frame smaller than its canvas, where OpenCV paints GIF's obsolete background colour."""
    left, top, right, bottom = frame_xyxy
    canvas[:top], canvas[bottom:], canvas[:, :left], canvas[:, right:] = 255, 255, 255, 255
    return canvas


def _turn_upright(image: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Undo an EXIF orientation (1 to 8) by flips and a transpose; a view where possible."""
    if orientation >= 5:
        image = image.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return image

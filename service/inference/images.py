"""Bytes of a picture to upright pixels, refusing whatever is not a whole picture of an accepted format."""

import cv2
import numpy as np
from numpy.typing import NDArray

from service.errors import BrokenImage, ImageTooLarge
from service.inference.headers import ImageHeader, read_header

# OpenCV reports every damaged upload to stderr; the answer to its sender says the same.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


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
    header = read_header(data)
    pixels = header.width * header.height
    if pixels > max_pixels:
        raise ImageTooLarge(
            f"The picture has {header.width} x {header.height} = {pixels} pixels; the limit is {max_pixels}."
        )
    stored = _decode_stored(data, header)
    return np.ascontiguousarray(_turn_upright(_lay_on_white(stored, header), header.orientation))


def _decode_stored(data: bytes, header: ImageHeader) -> NDArray[np.uint8 | np.uint16]:
    """Pixels as stored: (H, W, 3) uint8 without alpha, else whatever layout the file has."""
    flags = cv2.IMREAD_UNCHANGED if header.has_alpha else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise _damaged(header) from error
    if image is None or image.shape[:2] != (header.height, header.width):
        raise _damaged(header)
    return image  # type: ignore[return-value]


def _damaged(header: ImageHeader) -> BrokenImage:
    return BrokenImage(f"The {header.format} data is damaged and cannot be decoded.")


def _lay_on_white(stored: NDArray[np.uint8 | np.uint16], header: ImageHeader) -> NDArray[np.uint8]:
    """(H, W), (H, W, 3) or (H, W, 4), 8 or 16 bits, to (H, W, 3) uint8 over a white page."""
    # Only as the file stores it can the grey level that stands for "transparent" be recognised.
    transparent = stored == header.transparent_grey if header.transparent_grey is not None else None
    if header.frame_xyxy is not None:
        stored = _clear_margins(stored, header.frame_xyxy)
    image = (stored >> 8 if stored.dtype == np.uint16 else stored).astype(np.uint8, copy=False)
    if image.ndim == 2:
        image = np.repeat(image[..., None], 3, axis=2)
        if transparent is not None:
            image[transparent] = 255
    if image.shape[2] == 3:
        return image
    colour, alpha = image[..., :3], image[..., 3:].astype(np.uint16)
    # At most 65 025 + 127, which fits 16 bits.
    return ((colour * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


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

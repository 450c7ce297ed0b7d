"""Bytes of a picture to upright pixels, refusing whatever is not a whole picture of an accepted format."""

import cv2
import numpy as np
from numpy.typing import NDArray

from service.errors import BrokenImage, ImageTooLarge
from service.inference.headers import ImageHeader, read_header
from service.inference.jpeg import decode_sound_jpeg
from service.inference.masked_bmp import decode_masked
from service.inference.memory_file import named_file

# OpenCV reports every damaged upload to stderr; the answer to its sender says the same.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
# Pictures are resized side by side: OpenCV's own threads would only take cores from the network.
cv2.setNumThreads(1)


#: How OpenCV asks libjpeg for a picture whose sides are divided.
_REDUCED_FLAGS = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
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
    return np.ascontiguousarray(decode_pixels(data, inspect_image(data, max_pixels=max_pixels)))


def inspect_image(data: bytes, *, max_pixels: int) -> ImageHeader:
    """The first half of ``decode_image``: read and check the header. Raises the same errors."""
    header = read_header(data)
    pixels = header.width * header.height
    if pixels > max_pixels:
        raise ImageTooLarge(
            f"The picture has {header.width} x {header.height} = {pixels} pixels; the limit is {max_pixels}.",
            max_pixels,
        )
    return header


def decode_pixels(data: bytes, header: ImageHeader, reduction: int = 1) -> NDArray[np.uint8]:
    """The second half of ``decode_image``.

    Args:
        header: what ``inspect_image`` found in the same bytes.
        reduction: what ``choose_reduction`` found: both sides are divided by it.

    Returns:
        (height, width, 3) uint8, BGR. Where EXIF turns the picture it is a view of it as stored, in another order than
        C's: a copy of the whole would be as large again.

    Raises:
        BrokenImage: damaged.
    """
    return _turn_upright(_lay_on_white(_decode_stored(data, header, reduction), header), header.orientation)


def decoding_bytes(header: ImageHeader, reduction: int = 1, *, in_c_order: bool = False) -> int:
    """Most memory that ``decode_pixels`` takes at once, with what it returns, both sides divided by ``reduction``.

    Args:
        in_c_order: what is returned is copied into C order afterwards, if it is in another.
    """
    stored = header.stored_bytes // reduction**2
    copied = header.width * header.height // reduction**2 * 3 if in_c_order and header.orientation != 1 else 0
    return stored + max(header.decoder_bytes, copied)


def require_memory(header: ImageHeader, most_bytes: int, reduction: int = 1, *, in_c_order: bool = False) -> int:
    """``decoding_bytes``, if they are no more than ``most_bytes``.

    Raises:
        ImageTooLarge: they are; the message names how many pixels a file of this kind may have.
    """
    needed = decoding_bytes(header, reduction, in_c_order=in_c_order)
    if needed > most_bytes:
        pixels = header.width * header.height
        limit = pixels * most_bytes // needed
        raise ImageTooLarge(
            f"The picture has {header.width} x {header.height} = {pixels} pixels; decoding this kind of "
            f"{header.format} takes {needed / pixels:.1f} bytes a pixel, and its limit is {limit} pixels.",
            limit,
        )
    return needed


def _decode_stored(data: bytes, header: ImageHeader, reduction: int) -> NDArray[np.uint8 | np.uint16]:
    """Pixels as stored: (H, W, 3) uint8 without alpha, else whatever layout the file has."""
    image: NDArray[np.uint8 | np.uint16] | None = None
    if header.masked_pixels is not None:
        image = decode_masked(data, header.masked_pixels, header.width, header.height)
    elif header.format == "JPEG" and not header.is_cmyk:
        image = decode_sound_jpeg(data, header, reduction)
    if image is None:
        image = _decode_by_opencv(data, header, reduction)
    if image is None or image.shape[:2] != (header.height // reduction, header.width // reduction):
        raise _damaged(header)
    return image


def _decode_by_opencv(data: bytes, header: ImageHeader, reduction: int) -> NDArray[np.uint8 | np.uint16] | None:
    coloured = _REDUCED_FLAGS[reduction] | cv2.IMREAD_IGNORE_ORIENTATION
    flags = cv2.IMREAD_UNCHANGED if header.has_alpha else coloured
    try:
        return _first_frame(data, flags) if header.is_animated else _decode_once(data, flags)
    except cv2.error as error:
        raise _damaged(header) from error


def _decode_once(data: bytes, flags: int) -> NDArray[np.uint8 | np.uint16] | None:
    """Decode into the array that is returned.

    ``cv2.imdecode`` decodes into an array of its own and copies it for Python: for that time the pixels exist twice.
    ``cv2.imread`` does without, but only where it is told that the answer is an output (here by None), and it reads
    files only.
    """
    with named_file(data) as path:
        return cv2.imread(path, None, flags)  # type: ignore[return-value]


def _first_frame(data: bytes, flags: int) -> NDArray[np.uint8 | np.uint16] | None:
    """Decode the first frame of an animated PNG, of which ``cv2.imread`` gives the picture for those that do not
    animate."""
    return cv2.imdecode(np.frombuffer(data, np.uint8), flags)  # type: ignore[return-value]


def _damaged(header: ImageHeader) -> BrokenImage:
    return BrokenImage(f"The {header.format} data is damaged and cannot be decoded.")


def _lay_on_white(stored: NDArray[np.uint8 | np.uint16], header: ImageHeader) -> NDArray[np.uint8]:
    """(H, W), (H, W, 3) or (H, W, 4), 8 or 16 bits, to (H, W, 3) uint8 over a white page."""
    if header.frame_xyxy is not None:
        stored = _clear_margins(stored, header.frame_xyxy)
    if stored.dtype == np.uint8 and stored.shape[2:] == (3,):
        return stored  # type: ignore[return-value]
    pixels = header.width * header.height
    flat = stored.reshape(pixels, -1)
    # What has at least as many bytes is overwritten, as each pixel is read before another is written in its place.
    buffer = stored.view(np.uint8) if flat.shape[1] >= 3 else np.empty((pixels, 3), np.uint8)
    flat_image = buffer.reshape(-1)[: pixels * 3].reshape(pixels, 3)
    for start in range(0, len(flat), _BAND_PIXELS):
        band = slice(start, start + _BAND_PIXELS)
        _lay_band_on_white(flat[band], flat_image[band], header.transparent_grey)
    return flat_image.reshape(header.height, header.width, 3)


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

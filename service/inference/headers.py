"""What an image file says about itself, read from its container without decoding a pixel."""

import math
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from service.errors import BrokenImage, UnsupportedImage
from service.inference.masked_bmp import MaskedPixels, read_masked_pixels

ImageFormat = Literal["JPEG", "PNG", "WebP", "BMP", "GIF"]

ACCEPTED = "JPEG, PNG, WebP, BMP and GIF (its first frame)"

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_BIT_DEPTHS = (1, 2, 4, 8, 16)
_PNG_GREY, _PNG_GREY_ALPHA, _PNG_COLOUR_ALPHA = 0, 4, 6
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xff]")
_JPEG_SOI, _JPEG_EOI, _JPEG_SOS, _JPEG_APP1 = 0xD8, 0xD9, 0xDA, 0xE1
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_PROGRESSIVE = frozenset((0xC2, 0xC6, 0xCA, 0xCE))
#: A block of 8 x 8 coefficients, 16 bits each.
_JPEG_BLOCK_BYTES = 128
_JPEG_STANDALONE = frozenset(range(0xD0, 0xD8)) | {0x01}
#: Whether a byte behind 0xFF ends a scan. In entropy-coded data 0xFF is stuffed with 0x00 or is a restart marker.
_JPEG_ENDS_SCAN = np.isin(np.arange(256), [0x00, *range(0xD0, 0xD8), 0xFF], invert=True)
#: Bytes of a scan looked at by one call: what it makes of them fits the processor's caches.
_JPEG_SCAN_STEP = 1 << 18
_EXIF_PREFIX = b"Exif\0\0"
_EXIF_ORIENTATION, _TIFF_SHORT = 0x0112, 3
#: Measured in OpenCV's decoders, bytes of each pixel beside those of the answer: WebP by what the file has in it.
_GIF_DECODER_BYTES = 5
_WEBP_DECODER_BYTES = {b"ANMF": 8, b"VP8L": 4, b"ALPH": 2}
_ISO_BRANDS = {
    b"avif": "AVIF",
    b"avis": "AVIF",
    b"heic": "HEIC",
    b"heix": "HEIC",
    b"mif1": "HEIC",
    b"msf1": "HEIC",
}
_REFUSED_SIGNATURES = (
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"%PDF", "PDF"),
    (b"8BPS", "Photoshop"),
    (b"\x76\x2f\x31\x01", "OpenEXR"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"\0\0\x01\0", "ICO"),
    (b"PK\x03\x04", "ZIP"),
    (b"\x1f\x8b", "gzip"),
)


@dataclass(frozen=True)
class ImageHeader:
    """What decides how a picture is decoded.

    Attributes:
        width, height: stored size in pixels, before orientation is applied.
        has_alpha: some pixels may be transparent.
        orientation: EXIF orientation, 1 to 8.
        transparent_grey: 8- or 16-bit grey level that stands for "transparent" (PNG), or None.
        frame_xyxy: the part of the canvas that the first frame covers (GIF), or None for all of it.
        is_deep: 16 bits per sample.
        is_cmyk: four inks instead of colours (JPEG).
        is_animated: it has several pictures, and the first of them need not be the one outside the animation (PNG).
        masked_pixels: where its colours and alpha lie (BMP), or None where OpenCV knows.
        decoder_bytes: what its decoder builds up beside the pixels as stored, of whatever size they are wanted.
    """

    format: ImageFormat
    width: int
    height: int
    has_alpha: bool = False
    orientation: int = 1
    transparent_grey: int | None = None
    frame_xyxy: tuple[int, int, int, int] | None = None
    is_deep: bool = False
    is_cmyk: bool = False
    is_animated: bool = False
    decoder_bytes: int = 0
    masked_pixels: MaskedPixels | None = None

    @property
    def stored_bytes(self) -> int:
        """Bytes of the pixels as they are decoded: three colours, or with alpha whatever the file has at most."""
        return self.width * self.height * ((8 if self.is_deep else 4) if self.has_alpha else 3)


def read_header(data: bytes) -> ImageHeader:
    """Identify an image by its first bytes and read its header; the container must be complete.

    Bytes after the end of the picture are allowed, as cameras and editors write them.

    Raises:
        UnsupportedImage: not one of the accepted formats.
        BrokenImage: the container is damaged or ends too early.
    """
    image_format = _sniff(data)
    try:
        header = _READERS[image_format](data)
    except (struct.error, IndexError) as error:
        raise _truncated(image_format) from error
    if header.width < 1 or header.height < 1:
        raise BrokenImage(f"The {image_format} header gives a size of {header.width} x {header.height} pixels.")
    return header


def exif_orientation(exif: bytes) -> int:
    """Orientation (1 to 8) from an EXIF block in TIFF layout; 1 when there is none or it makes no sense."""
    exif = exif.removeprefix(_EXIF_PREFIX)
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return 1
    try:
        (directory,) = struct.unpack_from(f"{order}I", exif, 4)
        (entries,) = struct.unpack_from(f"{order}H", exif, directory)
        for index in range(entries):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", exif, directory + 2 + 12 * index)
            if tag == _EXIF_ORIENTATION:
                return value if kind == _TIFF_SHORT and 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def _truncated(image_format: ImageFormat) -> BrokenImage:
    return BrokenImage(f"The {image_format} file ends too early; it looks truncated.")


def _sniff(data: bytes) -> ImageFormat:
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(_PNG_SIGNATURE):
        return "PNG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if data.startswith(b"BM"):
        return "BMP"
    kind = _refused_kind(data)
    what = f"This looks like {kind}" if kind else "The content is not a known image format"
    raise UnsupportedImage(f"{what}. Accepted are {ACCEPTED}.")


def _refused_kind(data: bytes) -> str | None:
    if data[4:8] == b"ftyp":
        return _ISO_BRANDS.get(data[8:12], "a video or an unknown ISO media file")
    for signature, kind in _REFUSED_SIGNATURES:
        if data.startswith(signature):
            return kind
    start = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith(b"<"):
        return "SVG" if b"<svg" in data[:4096].lower() else "HTML or XML"
    if start.startswith((b"{", b"[")):
        return "JSON"
    return None


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Marker, payload and end position of every segment up to and including the first start of scan."""
    position = 2
    # Some cameras leave stray bytes between segments; like libjpeg, go on at the next marker.
    while match := _JPEG_MARKER.search(data, position):
        position, marker = match.start(), data[match.start() + 1]
        if marker in _JPEG_STANDALONE:
            position += 2
            continue
        if marker in (_JPEG_SOI, _JPEG_EOI):
            raise BrokenImage("The JPEG file holds no picture.")
        (length,) = struct.unpack_from(">H", data, position + 2)
        end = position + 2 + length
        if length < 2 or end > len(data):
            raise _truncated("JPEG")
        yield marker, data[position + 4 : end], end
        if marker == _JPEG_SOS:
            return
        position = end
    raise _truncated("JPEG")


def _scan_markers(data: bytes, position: int) -> Iterator[int]:
    """Where the markers at ``position`` and behind it lie that are none of those within entropy-coded data."""
    # Not by a regular expression: over 20 MB it takes twice as long, and holds the interpreter and with it the event
    # loop all the while.
    view = np.frombuffer(data, np.uint8)
    for start in range(position, len(data) - 1, _JPEG_SCAN_STEP):
        step = view[start : start + _JPEG_SCAN_STEP + 1]
        escaped = step[:-1] == 0xFF
        escaped &= step[1:] != 0  # all but a few of them, before each is looked up
        places = np.flatnonzero(escaped)
        yield from (places[_JPEG_ENDS_SCAN[step[places + 1]]] + start).tolist()


def _require_jpeg_end(data: bytes, position: int) -> None:
    for marker in _scan_markers(data, position):
        if marker < position:  # within a segment
            continue
        if data[marker + 1] == _JPEG_EOI:
            return
        position = marker + 2
        if data[marker + 1] not in _JPEG_STANDALONE and position + 2 <= len(data):
            position += max(2, struct.unpack_from(">H", data, position)[0])
    raise _truncated("JPEG")


def _read_jpeg(data: bytes) -> ImageHeader:
    frame, orientation, scan, components, is_progressive = b"", None, 0, 0, False
    for marker, payload, end in _jpeg_segments(data):
        if marker in _JPEG_FRAMES:
            frame, is_progressive = payload, marker in _JPEG_PROGRESSIVE
        elif marker == _JPEG_APP1 and orientation is None and payload.startswith(_EXIF_PREFIX):
            orientation = exif_orientation(payload)
        elif marker == _JPEG_SOS:
            components = payload[0]
        scan = end
    if not frame:
        raise BrokenImage("The JPEG file has no frame header before its data.")
    bits, height, width, all_components = struct.unpack_from(">BHHB", frame)
    if bits != 8:
        raise UnsupportedImage(
            f"This JPEG has {bits} bits per sample. Accepted are 8-bit JPEG, and otherwise {ACCEPTED}."
        )
    _require_jpeg_end(data, scan)
    # What comes in several scans is collected before any pixel is made.
    collected = _jpeg_coefficient_bytes(frame) if is_progressive or components < all_components else 0
    upright, inks = orientation or 1, all_components == 4
    return ImageHeader("JPEG", width, height, orientation=upright, is_cmyk=inks, decoder_bytes=collected)


def _jpeg_coefficient_bytes(frame: bytes) -> int:
    """Bytes of all coefficients of the picture that a frame header describes."""
    _, height, width, count = struct.unpack_from(">BHHB", frame)
    samplings = [divmod(frame[7 + 3 * index], 16) for index in range(count)]
    across, down = (max((sampling[axis] for sampling in samplings), default=0) for axis in (0, 1))
    if not across or not down:
        raise BrokenImage("The JPEG frame header gives no sampling factors.")
    units = math.ceil(width / (8 * across)) * math.ceil(height / (8 * down))
    blocks: int = units * sum(horizontal * vertical for horizontal, vertical in samplings)
    return blocks * _JPEG_BLOCK_BYTES


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    position = len(_PNG_SIGNATURE)
    while True:
        length, name = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data):
            raise _truncated("PNG")
        # Pixel data is the bulk of the file and never looked at here.
        yield name, b"" if name == b"IDAT" else data[position + 8 : end - 4]
        if name == b"IEND":
            return
        position = end


def _read_png(data: bytes) -> ImageHeader:
    ihdr, transparency, orientation, is_animated = None, None, 1, False
    for name, payload in _png_chunks(data):
        if ihdr is None:
            if name != b"IHDR":
                raise BrokenImage("The PNG file does not begin with its header.")
            ihdr = struct.unpack_from(">IIBB", payload)
        elif name == b"tRNS":
            transparency = payload
        elif name == b"eXIf":
            orientation = exif_orientation(payload)
        elif name == b"acTL":
            is_animated = True
    assert ihdr is not None  # the first chunk was one, or a BrokenImage
    width, height, bits, colour = ihdr
    if bits not in _PNG_BIT_DEPTHS:
        raise BrokenImage(f"The PNG header gives {bits} bits per sample.")
    grey = None
    if transparency is not None and colour == _PNG_GREY:
        (level,) = struct.unpack_from(">H", transparency)
        grey = level if bits == 16 else level * 255 // (2**bits - 1)
    has_alpha = transparency is not None or colour in (_PNG_GREY_ALPHA, _PNG_COLOUR_ALPHA)
    header = ImageHeader("PNG", width, height, has_alpha, orientation, grey, is_deep=bits == 16)
    # Three more such pictures were measured in OpenCV's decoder of animations.
    return replace(header, is_animated=True, decoder_bytes=3 * header.stored_bytes) if is_animated else header


def _riff_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    end = 8 + struct.unpack_from("<I", data, 4)[0]
    if end > len(data):
        raise _truncated("WebP")
    position = 12
    while position + 8 <= end:
        name, length = struct.unpack_from("<4sI", data, position)
        if position + 8 + length > end:
            raise _truncated("WebP")
        # Ten bytes hold every size field; only the EXIF block is wanted whole.
        wanted = length if name == b"EXIF" else min(length, 10)
        yield name, data[position + 8 : position + 8 + wanted]
        position += 8 + length + length % 2


def _read_webp(data: bytes) -> ImageHeader:
    size, has_alpha, orientation, built_up = None, False, 1, 0
    for name, payload in _riff_chunks(data):
        built_up = max(built_up, _WEBP_DECODER_BYTES.get(name, 0))
        if name == b"EXIF":
            orientation = exif_orientation(payload)
        elif size is None:
            if name == b"VP8X":
                has_alpha = bool(payload[0] & 0x10)
                size = int.from_bytes(payload[4:7], "little") + 1, int.from_bytes(payload[7:10], "little") + 1
            elif name == b"VP8L":
                (bits,) = struct.unpack_from("<I", payload, 1)
                size, has_alpha = ((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1), bool(bits >> 28 & 1)
            elif name == b"VP8 ":
                width, height = struct.unpack_from("<HH", payload, 6)
                size = width & 0x3FFF, height & 0x3FFF
    if size is None:
        raise BrokenImage("The WebP file holds no picture.")
    # The decoder has the file in memory once more.
    return ImageHeader("WebP", *size, has_alpha, orientation, decoder_bytes=built_up * size[0] * size[1] + len(data))


def _read_bmp(data: bytes) -> ImageHeader:
    (header_bytes,) = struct.unpack_from("<I", data, 14)
    if header_bytes == 12:
        width, height = struct.unpack_from("<HH", data, 18)
    else:
        width, height = struct.unpack_from("<ii", data, 18)
    masked = read_masked_pixels(data)
    has_alpha = masked is not None and len(masked.masks) == 4
    # A negative height means rows from the top.
    return ImageHeader("BMP", width, abs(height), has_alpha, masked_pixels=masked)


def _read_gif(data: bytes) -> ImageHeader:
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    position = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    frame = None
    while (block := data[position]) != 0x3B:  # trailer
        if block == 0x21:  # extension
            position = _skip_gif_blocks(data, position + 2)
        elif block == 0x2C:  # image
            left, top, columns, rows, palette = struct.unpack_from("<HHHHB", data, position + 1)
            frame = frame or (left, top, left + columns, top + rows)
            position += 10 + (3 << (palette & 7) + 1 if palette & 0x80 else 0)
            position = _skip_gif_blocks(data, position + 1)
        else:
            raise BrokenImage("The GIF file has bytes between its blocks that belong to none.")
    if frame is None:
        raise BrokenImage("The GIF file holds no picture.")
    decoder_bytes = _GIF_DECODER_BYTES * width * height
    return ImageHeader("GIF", width, height, has_alpha=True, frame_xyxy=frame, decoder_bytes=decoder_bytes)


def _skip_gif_blocks(data: bytes, position: int) -> int:
    while length := data[position]:
        position += 1 + length
    return position + 1


_READERS = {"JPEG": _read_jpeg, "PNG": _read_png, "WebP": _read_webp, "BMP": _read_bmp, "GIF": _read_gif}

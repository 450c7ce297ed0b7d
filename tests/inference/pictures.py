"""Image files for tests, written by Pillow: an encoder and a reference decoder independent of OpenCV."""

import io
import struct
import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

ORIENTATION = 0x0112


def scene(width: int = 61, height: int = 40, seed: int = 0) -> NDArray[np.uint8]:
    """(height, width, 3) uint8 RGB without any symmetry, smooth enough for JPEG."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def translucent_scene() -> Image.Image:
    """RGBA with opaque, half transparent and wholly transparent rows."""
    rgb = scene()
    alpha = np.random.default_rng(1).integers(0, 256, rgb.shape[:2], dtype=np.uint8)
    alpha[:10], alpha[10:20] = 0, 255
    return Image.fromarray(np.dstack([rgb, alpha]))


def encode(image: Image.Image, image_format: str, orientation: int | None = None, **options: object) -> bytes:
    """An image file; ``orientation`` is written as EXIF."""
    if orientation is not None:
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        options["exif"] = exif
    stream = io.BytesIO()
    image.save(stream, image_format, **options)
    return stream.getvalue()


def as_viewed(data: bytes) -> NDArray[np.uint8]:
    """Pillow's rendering: upright, on white, (H, W, 3) uint8 BGR."""
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I;16"):  # Pillow clips instead of scaling
            upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
        rgba = upright.convert("RGBA")
    page = Image.new("RGBA", rgba.size, "white")
    return np.asarray(Image.alpha_composite(page, rgba).convert("RGB"))[..., ::-1]


def png_chunk(name: bytes, payload: bytes) -> bytes:
    """One PNG chunk with its length and checksum."""
    return struct.pack(">I", len(payload)) + name + payload + struct.pack(">I", zlib.crc32(name + payload))


def png_file(ihdr: tuple[int, int, int, int], raw: bytes, *between: bytes) -> bytes:
    """A PNG file from width, height, bit depth, colour type and unfiltered rows with their filter bytes."""
    header = struct.pack(">IIBBBBB", *ihdr, 0, 0, 0)
    chunks = [
        png_chunk(b"IHDR", header),
        *between,
        png_chunk(b"IDAT", zlib.compress(raw)),
        png_chunk(b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)

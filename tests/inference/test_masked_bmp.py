"""BMP files whose colours lie where masks say: written by hand, against arithmetic on their fields and Pillow."""

import io
import random
import struct

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from service.errors import BrokenImage, ImageError
from service.inference.headers import read_header
from service.inference.images import decode_image
from tests.inference.pictures import as_viewed

MANY = 10**6
WIDTH, HEIGHT = 7, 5
RGB, BITFIELDS, ALPHA_BITFIELDS = 0, 3, 6
BGRA = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
RGBA = (0xFF, 0xFF00, 0xFF0000, 0xFF000000)
MASKS = {
    "bgra": (32, BGRA),
    "bgrx": (32, (*BGRA[:3], 0)),
    "rgba": (32, RGBA),
    "argb": (32, (0xFF00, 0xFF0000, 0xFF000000, 0xFF)),
    "10-bit": (32, (0x3FF00000, 0xFFC00, 0x3FF, 0xC0000000)),
    "565": (16, (0xF800, 0x7E0, 0x1F, 0)),
    "555": (16, (0x7C00, 0x3E0, 0x1F, 0)),
    "1555": (16, (0x7C00, 0x3E0, 0x1F, 0x8000)),
    "4444": (16, (0xF00, 0xF0, 0xF, 0xF000)),
    "no-blue": (16, (0xF00, 0xF0, 0, 0)),
}


def bmp(
    words: NDArray[np.integer],
    bits: int,
    masks: tuple[int, ...] = (),
    *,
    header_bytes: int = 108,
    compression: int = BITFIELDS,
    top_down: bool = False,
) -> bytes:
    """A file of the upright picture ``words`` (H, W), each a pixel as stored; masks lie in or behind the header."""
    height, width = words.shape
    fields = struct.pack("<IiiHHI", header_bytes, width, -height if top_down else height, 1, bits, compression)
    header = (fields + bytes(20) + struct.pack(f"<{len(masks)}I", *masks)).ljust(header_bytes, b"\0")
    rows = words if top_down else words[::-1]
    padding = bytes(-width * bits // 8 % 4)
    pixels = b"".join(row.astype(f"<u{bits // 8}").tobytes() + padding for row in rows)
    offset = 14 + len(header)
    return b"BM" + struct.pack("<IHHI", offset + len(pixels), 0, 0, offset) + header + pixels


def some_words(bits: int, seed: int = 0) -> NDArray[np.integer]:
    return np.random.default_rng(seed).integers(0, 1 << bits, (HEIGHT, WIDTH), np.uint32)


def on_white(words: NDArray[np.integer], masks: tuple[int, ...]) -> NDArray[np.float64]:
    """(H, W, 3) BGR of exact fractions, not rounded to whole levels."""

    def fraction(mask: int) -> NDArray[np.float64]:
        return (words & mask) / mask if mask else np.zeros(words.shape)

    red, green, blue = (fraction(mask) for mask in masks[:3])
    alpha = fraction(masks[3]) if masks[3:] and masks[3] else np.ones(words.shape)
    return 255 * (np.dstack([blue, green, red]) * alpha[..., None] + 1 - alpha[..., None])


@pytest.mark.parametrize("top_down", [False, True])
@pytest.mark.parametrize("header_bytes", [56, 108, 124])
@pytest.mark.parametrize("name", MASKS)
def test_colours_and_alpha_lie_where_the_masks_say(name: str, header_bytes: int, top_down: bool) -> None:
    bits, masks = MASKS[name]
    words = some_words(bits)
    data = bmp(words, bits, masks, header_bytes=header_bytes, top_down=top_down)
    assert read_header(data).has_alpha == bool(masks[3])
    image = decode_image(data, max_pixels=MANY)
    assert image.flags.c_contiguous
    # Both the colour and the alpha are rounded before they are multiplied.
    assert np.abs(image - on_white(words, masks)).max() <= 1.01


@pytest.mark.parametrize(("header_bytes", "compression", "count"), [(40, 3, 3), (52, 3, 3), (40, 6, 4)])
def test_masks_behind_a_short_header(header_bytes: int, compression: int, count: int) -> None:
    words = some_words(32)
    data = bmp(words, 32, RGBA[:count], header_bytes=header_bytes, compression=compression)
    expected = on_white(words, RGBA[:count])
    assert np.abs(decode_image(data, max_pixels=MANY) - expected).max() <= 1.01


@pytest.mark.parametrize("header_bytes", [40, 108, 124])
def test_the_fourth_byte_without_masks_is_padding(header_bytes: int) -> None:
    words = some_words(32)
    data = bmp(words, 32, header_bytes=header_bytes, compression=RGB)
    assert not read_header(data).has_alpha
    expected = on_white(words, BGRA[:3])
    np.testing.assert_allclose(decode_image(data, max_pixels=MANY), expected, rtol=1e-9)


@pytest.mark.parametrize("masks", [(), MASKS["555"][1][:3], MASKS["565"][1][:3]])
def test_16_bits_reach_white_and_equal_pillow(masks: tuple[int, ...]) -> None:
    words = some_words(16)
    words[0, 0] = 0xFFFF
    data = bmp(words, 16, masks, header_bytes=40, compression=BITFIELDS if masks else RGB)
    image = decode_image(data, max_pixels=MANY)
    assert image[0, 0].tolist() == [255, 255, 255]
    # Pillow cuts off what is rounded here.
    assert np.abs(image.astype(int) - as_viewed(data)).max() <= 1


@pytest.mark.parametrize("masks", [BGRA, RGBA])
def test_alpha_equals_pillow(masks: tuple[int, ...]) -> None:
    data = bmp(some_words(32), 32, masks, header_bytes=124)
    with Image.open(io.BytesIO(data)) as image:
        assert image.mode == "RGBA"
    assert np.abs(decode_image(data, max_pixels=MANY).astype(int) - as_viewed(data)).max() <= 1


def test_alpha_that_was_never_filled_in_is_opaque() -> None:
    words = some_words(32) & 0xFFFFFF
    image = decode_image(bmp(words, 32, BGRA), max_pixels=MANY)
    np.testing.assert_allclose(image, on_white(words, BGRA[:3]), rtol=1e-9)
    words[2, 3] |= 0x01000000
    image = decode_image(bmp(words, 32, BGRA), max_pixels=MANY)
    assert (image.reshape(-1, 3)[np.arange(WIDTH * HEIGHT) != 2 * WIDTH + 3] == 255).all()


@pytest.mark.parametrize(
    ("bits", "masks"),
    [
        (32, (0xFF0000, 0xFF00, 0x1FF, 0)),
        (32, (0xF0F000, 0xF00, 0xF, 0)),
        (32, (*BGRA[:3], 0x00FF0000)),
        (16, (0x1F0000, 0x7E0, 0x1F, 0)),
    ],
)
def test_senseless_masks_are_refused(bits: int, masks: tuple[int, ...]) -> None:
    with pytest.raises(BrokenImage, match=f"make no sense in {bits} bits: {masks[0]:#x}"):
        decode_image(bmp(some_words(bits), bits, masks), max_pixels=MANY)


@pytest.mark.parametrize("name", ["rgba", "1555"])
def test_every_truncation_and_any_damage_is_refused_by_name(name: str) -> None:
    bits, masks = MASKS[name]
    data = bmp(some_words(bits), bits, masks)
    for length in range(32, len(data)):
        with pytest.raises(BrokenImage):
            decode_image(data[:length], max_pixels=MANY)
    rng = random.Random(name)
    for _ in range(300):
        damaged = bytearray(data)
        damaged[rng.randrange(2, 80)] = rng.randrange(256)
        try:
            image = decode_image(bytes(damaged), max_pixels=MANY)
        except ImageError:
            continue
        assert image.dtype == np.uint8
        assert image.shape[2:] == (3,)


def test_large_pictures_are_worked_on_in_bands() -> None:
    words = np.arange(300 * 500, dtype=np.uint32).reshape(300, 500) * 28_571
    image = decode_image(bmp(words, 32, BGRA), max_pixels=MANY)
    assert np.abs(image - on_white(words, BGRA)).max() <= 1.01

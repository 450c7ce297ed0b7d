"""Pixels against two independent decoders, and hostile files against the promise of named errors only."""

import contextlib
import random
import struct
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from service.errors import BrokenImage, ImageError, ImageTooLarge, UnsupportedImage
from service.inference.headers import exif_orientation
from service.inference.images import decode_image
from tests.conftest import ROOT
from tests.inference.pictures import as_viewed, encode, png_chunk, png_file, scene, translucent_scene

MANY = 10**6
RGB, RGBA = Image.fromarray(scene()), translucent_scene()
PALETTE = RGB.quantize(16)

PLAIN = {
    "jpeg": encode(RGB, "JPEG"),
    "jpeg-progressive": encode(RGB, "JPEG", progressive=True),
    "jpeg-444": encode(RGB, "JPEG", subsampling=0),
    "jpeg-grey": encode(RGB.convert("L"), "JPEG"),
    "png": encode(RGB, "PNG"),
    "png-grey": encode(RGB.convert("L"), "PNG"),
    "png-1bit": encode(RGB.convert("1"), "PNG"),
    "png-palette": encode(PALETTE, "PNG"),
    "png-palette-4bit": encode(PALETTE, "PNG", bits=4),
    "webp": encode(RGB, "WEBP"),
    "webp-lossless": encode(RGB, "WEBP", lossless=True),
    "bmp": encode(RGB, "BMP"),
    "bmp-grey": encode(RGB.convert("L"), "BMP"),
    "bmp-palette": encode(PALETTE, "BMP"),
    "bmp-1bit": encode(RGB.convert("1"), "BMP"),
}
LAST_FRAMES = [Image.fromarray(np.roll(scene(), shift, 1)) for shift in (5, 9)]
UNUSUAL = {
    "jpeg-cmyk": encode(RGB.convert("CMYK"), "JPEG"),
    "png-rgba": encode(RGBA, "PNG"),
    "png-grey-alpha": encode(RGBA.convert("LA"), "PNG"),
    "png-palette-alpha": encode(PALETTE, "PNG", transparency=bytes([0, 128, 255, 10] + [255] * 12)),
    "png-palette-index": encode(PALETTE, "PNG", transparency=3),
    "png-grey-key": encode(RGB.convert("L"), "PNG", transparency=int(np.asarray(RGB.convert("L"))[20, 30])),
    "png-rgb-key": encode(RGB, "PNG", transparency=tuple(int(v) for v in scene()[20, 30])),
    "png-grey-16": encode(Image.fromarray(scene()[..., 0].astype(np.uint16) * 257 + 3), "PNG"),
    "webp-rgba": encode(RGBA, "WEBP", lossless=True),
    "webp-animated": encode(RGB, "WEBP", save_all=True, append_images=LAST_FRAMES, lossless=True),
    "webp-animated-rgba": encode(RGBA, "WEBP", save_all=True, append_images=LAST_FRAMES, lossless=True),
    "gif": encode(PALETTE, "GIF"),
    "gif-grey": encode(RGB.convert("L"), "GIF"),
    "gif-interlaced": encode(PALETTE, "GIF", interlace=1),
    "gif-transparent": encode(PALETTE, "GIF", transparency=3),
    "gif-animated": encode(RGB, "GIF", save_all=True, append_images=LAST_FRAMES),
    "apng": encode(RGB, "PNG", save_all=True, append_images=LAST_FRAMES),
}
ALL = PLAIN | UNUSUAL


@pytest.mark.parametrize("name", PLAIN)
def test_ordinary_pictures_equal_the_training_loader_exactly(name: str) -> None:
    reference = cv2.imdecode(np.frombuffer(PLAIN[name], np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(decode_image(PLAIN[name], max_pixels=MANY), reference)


def _decoded_elsewhere(data: bytes) -> np.ndarray | None:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)


@pytest.mark.parametrize("size", [(61, 40), (17, 33), (130, 99), (8, 8), (1, 1)])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpegs_of_all_kinds_equal_the_training_loader_exactly(
    size: tuple[int, int], subsampling: int, progressive: bool
) -> None:
    options = {"subsampling": subsampling, "progressive": progressive}
    for quality in (20, 75, 98):
        for restart in (0, 3):
            data = encode(
                Image.fromarray(scene(*size)), "JPEG", quality=quality, restart_marker_blocks=restart, **options
            )
            np.testing.assert_array_equal(decode_image(data, max_pixels=MANY), _decoded_elsewhere(data))


@pytest.mark.parametrize("name", [name for name in PLAIN if name.startswith("jpeg")])
def test_damaged_jpegs_give_what_the_training_loader_makes_of_them(name: str) -> None:
    rng, compared = random.Random(name), 0
    for _ in range(200):
        data = bytearray(PLAIN[name])
        data[rng.randrange(160, len(data))] = rng.randrange(256)
        try:
            image = decode_image(bytes(data), max_pixels=MANY)
        except ImageError:
            continue
        np.testing.assert_array_equal(image, _decoded_elsewhere(bytes(data)))
        compared += 1
    assert compared > 50


@pytest.mark.parametrize("name", ALL)
def test_every_format_looks_as_a_viewer_shows_it(name: str) -> None:
    image = decode_image(ALL[name], max_pixels=MANY)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    reference = as_viewed(ALL[name])
    assert image.shape == reference.shape
    assert np.abs(image.astype(int) - reference).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("picture", [RGB, RGBA, RGB.convert("L")], ids=["rgb", "rgba", "grey"])
def test_orientation_is_applied(picture: Image.Image, image_format: str, orientation: int) -> None:
    if image_format == "JPEG":
        picture = picture.convert("L" if picture.mode == "L" else "RGB")
    options = {"lossless": True} if image_format == "WEBP" else {}
    data = encode(picture, image_format, orientation, **options)
    image, reference = decode_image(data, max_pixels=MANY), as_viewed(data)
    assert image.shape == reference.shape
    assert np.abs(image.astype(int) - reference).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_oriented_jpeg_equals_opencv_exactly(orientation: int) -> None:
    data = encode(RGB, "JPEG", orientation)
    reference = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(decode_image(data, max_pixels=MANY), reference)


def test_orientation_chunk_after_the_pixels_counts() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    plain = encode(RGB, "PNG")
    end = plain.rindex(b"IEND") - 4
    data = plain[:end] + png_chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")) + plain[end:]
    assert decode_image(data, max_pixels=MANY).shape == (61, 40, 3)


@pytest.mark.parametrize("order", ["<", ">"])
def test_orientation_in_either_byte_order(order: str) -> None:
    mark = b"II*\0" if order == "<" else b"MM\0*"
    exif = mark + struct.pack(f"{order}IHHHIHH", 8, 1, 0x0112, 3, 1, 5, 0)
    assert exif_orientation(exif) == 5
    assert exif_orientation(b"Exif\0\0" + exif) == 5


@pytest.mark.parametrize(
    "exif",
    [
        b"",
        b"Exif\0\0",
        b"nonsense",
        b"II*\0\xff\xff\xff\xff",
        b"II*\0" + struct.pack("<IHHHIHH", 8, 1, 0x0112, 3, 1, 9, 0),
        b"II*\0" + struct.pack("<IHHHIHH", 8, 1, 0x0112, 3, 1, 0, 0),
        b"II*\0" + struct.pack("<IHHHII", 8, 1, 0x0112, 4, 1, 6),
        b"II*\0" + struct.pack("<IH", 8, 65535),
    ],
)
def test_senseless_exif_means_upright(exif: bytes) -> None:
    assert exif_orientation(exif) == 1


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bit_png_keeps_its_high_bytes(channels: int) -> None:
    deep = np.random.default_rng(0).integers(0, 65536, (20, 30, channels), dtype=np.uint16)
    if channels == 4:
        deep[..., 3] = 65535
    data = cv2.imencode(".png", deep.squeeze())[1].tobytes()
    expected = np.broadcast_to(deep[..., :3] >> 8, (20, 30, 3))
    np.testing.assert_array_equal(decode_image(data, max_pixels=MANY), expected)


@pytest.mark.parametrize(("bits", "raw", "key"), [(1, b"\0\x40", 1), (2, b"\0\x60", 2), (8, b"\0\x05\x07", 7)])
def test_transparent_grey_of_few_bits(bits: int, raw: bytes, key: int) -> None:
    data = png_file((2, 1, bits, 0), raw, png_chunk(b"tRNS", struct.pack(">H", key)))
    left, right = decode_image(data, max_pixels=MANY)[0, :, 0]
    assert left < 255
    assert right == 255


def test_16_bit_transparent_colour_is_matched_in_full_depth() -> None:
    raw = b"\0" + struct.pack(">3H", 0x1234, 0x1234, 0x1234) + struct.pack(">3H", 0x1235, 0x1234, 0x1234)
    data = png_file((2, 1, 16, 2), raw, png_chunk(b"tRNS", struct.pack(">3H", 0x1234, 0x1234, 0x1234)))
    assert decode_image(data, max_pixels=MANY)[0].tolist() == [[255, 255, 255], [0x12, 0x12, 0x12]]


def test_gif_frame_smaller_than_its_canvas_leaves_white() -> None:
    small = Image.fromarray(scene(20, 10)).quantize(8)
    data = bytearray(encode(small, "GIF"))
    data[6:10] = struct.pack("<HH", 30, 15)
    image = decode_image(bytes(data), max_pixels=MANY)
    assert image.shape == (15, 30, 3)
    np.testing.assert_array_equal(image[:10, :20], as_viewed(encode(small, "GIF")))
    assert (image[10:] == 255).all()
    assert (image[:, 20:] == 255).all()


def test_bmp_stored_from_the_top() -> None:
    data = bytearray(encode(RGB, "BMP"))
    upright = decode_image(bytes(data), max_pixels=MANY)
    data[22:26] = struct.pack("<i", -40)
    np.testing.assert_array_equal(decode_image(bytes(data), max_pixels=MANY), upright[::-1])


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1)])
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "BMP", "GIF"])
def test_thin_pictures(image_format: str, size: tuple[int, int]) -> None:
    data = encode(Image.fromarray(scene(*size)), image_format)
    assert decode_image(data, max_pixels=300).shape == (size[1], size[0], 3)


def test_an_animated_png_shows_its_first_frame_rather_than_the_picture_beside_it() -> None:
    first = encode(LAST_FRAMES[0], "PNG")
    data = encode(RGB, "PNG", save_all=True, append_images=LAST_FRAMES, default_image=True)
    np.testing.assert_array_equal(decode_image(data, max_pixels=MANY), decode_image(first, max_pixels=MANY))


# --- refusals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (encode(RGB, "AVIF"), "AVIF"),
        (encode(RGB, "TIFF"), "TIFF"),
        (encode(RGB, "JPEG2000"), "JPEG 2000"),
        (encode(RGB, "PDF"), "PDF"),
        (encode(RGB, "ICO"), "ICO"),
        (b"\0\0\0\x18ftypheic" + bytes(40), "HEIC"),
        (b"\0\0\0\x18ftypmp42" + bytes(40), "video"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b"<!doctype html><title>x</title>", "HTML"),
        (b'{"image": "aGVsbG8="}', "JSON"),
        (b"PK\x03\x04rest", "ZIP"),
        (b"hello", "not a known image format"),
        (b"", "not a known image format"),
        (encode(RGB, "PPM"), "not a known image format"),
    ],
)
def test_other_formats_are_named_and_refused(data: bytes, kind: str) -> None:
    with pytest.raises(UnsupportedImage, match=kind) as caught:
        decode_image(data, max_pixels=MANY)
    assert "JPEG, PNG, WebP, BMP and GIF" in str(caught.value)


@pytest.mark.parametrize("name", ALL)
def test_the_pixel_limit_is_exact(name: str) -> None:
    assert decode_image(ALL[name], max_pixels=61 * 40).shape == (40, 61, 3)
    with pytest.raises(ImageTooLarge, match=r"61 x 40 = 2440 pixels; the limit is 2439"):
        decode_image(ALL[name], max_pixels=61 * 40 - 1)


def _bombs() -> dict[str, bytes]:
    jpeg = bytearray(PLAIN["jpeg"])
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", 65535, 65535)
    webp = bytearray(encode(RGBA, "WEBP", orientation=1))
    webp[24:30] = b"\xff\x3f\0" * 2
    bmp = bytearray(PLAIN["bmp"])
    bmp[18:26] = struct.pack("<ii", 2**31 - 1, -(2**31))
    gif = bytearray(UNUSUAL["gif"])
    gif[6:10] = struct.pack("<HH", 65535, 65535)
    png = png_file((2**31 - 1, 2**31 - 1, 8, 2), b"")
    return {"jpeg": bytes(jpeg), "webp": bytes(webp), "bmp": bytes(bmp), "gif": bytes(gif), "png": png}


@pytest.mark.parametrize("name", _bombs())
def test_a_header_that_promises_gigapixels_is_refused_undecoded(name: str) -> None:
    with pytest.raises(ImageTooLarge):
        decode_image(_bombs()[name], max_pixels=50_000_000)


@pytest.mark.parametrize("name", _bombs())
def test_a_header_that_promises_more_than_the_file_holds_is_broken(name: str) -> None:
    """The decoders' own ceilings hold where the limit would let it pass; no memory is spent on a promise."""
    with pytest.raises(BrokenImage):
        decode_image(_bombs()[name], max_pixels=2**70)


@pytest.mark.parametrize("name", ALL)
def test_every_truncation_is_refused(name: str) -> None:
    data = ALL[name]
    for length in range(len(data)):
        with pytest.raises(ImageError):
            decode_image(data[:length], max_pixels=MANY)
    for length in range(32, len(data)):
        with pytest.raises(BrokenImage):
            decode_image(data[:length], max_pixels=MANY)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("tail", [b"\0", b"\0" * 4096, b"\xff\xd8\xff\xe0 a second picture", b"any text"])
def test_trailing_bytes_are_harmless(name: str, tail: bytes) -> None:
    np.testing.assert_array_equal(
        decode_image(ALL[name] + tail, max_pixels=MANY), decode_image(ALL[name], max_pixels=MANY)
    )


@pytest.mark.parametrize("name", ALL)
def test_damage_never_escapes_as_anything_but_an_image_error(name: str) -> None:
    rng = random.Random(name)
    for _ in range(150):
        data = bytearray(ALL[name])
        for _ in range(rng.choice((1, 1, 2, 8, 40))):
            # Half of the damage goes to the headers, where it is the most harmful.
            reach = len(data) if rng.random() < 0.5 else min(len(data), 80)
            data[rng.randrange(reach)] = rng.randrange(256)
        try:
            image = decode_image(bytes(data), max_pixels=MANY)
        except ImageError:
            continue
        assert image.dtype == np.uint8
        assert image.ndim == 3
        assert image.shape[2] == 3
        assert image.shape[0] * image.shape[1] <= MANY


@pytest.mark.parametrize("start", [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\xff\xff\0\0WEBP", b"BM", b"GIF89a"])
def test_noise_behind_a_valid_signature(start: bytes) -> None:
    rng = random.Random(0)
    for length in (0, 1, 7, 30, 200, 5000):
        with pytest.raises(ImageError):
            decode_image(start + rng.randbytes(length), max_pixels=MANY)


def test_jpeg_without_an_end_marker_is_truncated() -> None:
    assert PLAIN["jpeg"].endswith(b"\xff\xd9")
    with pytest.raises(BrokenImage, match="ends too early"):
        decode_image(PLAIN["jpeg"][:-2], max_pixels=MANY)


@pytest.mark.parametrize("stray", [b"\0", b"stray", b"\xff\x00\x12", b"\xff" * 40, b"\x12\xff\xff", b"\0" * 3000])
@pytest.mark.parametrize("name", ["jpeg", "jpeg-progressive"])
def test_stray_bytes_between_jpeg_segments_are_skipped(name: str, stray: bytes) -> None:
    plain = PLAIN[name]
    data = plain
    for marker in (b"\xff\xdb", b"\xff\xc4"):
        data = data.replace(marker, stray + marker, 1)
    assert len(data) == len(plain) + 2 * len(stray)
    np.testing.assert_array_equal(decode_image(data, max_pixels=MANY), decode_image(plain, max_pixels=MANY))
    for length in range(32, len(data), 7):
        with pytest.raises(BrokenImage):
            decode_image(data[:length], max_pixels=MANY)


def test_end_marker_of_an_embedded_thumbnail_is_not_the_end() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    payload = exif.tobytes() + PLAIN["jpeg"]
    segment = b"\xff\xe1" + struct.pack(">H", len(payload) + 2) + payload
    data = PLAIN["jpeg"][:2] + segment + PLAIN["jpeg"][2:]
    assert decode_image(data, max_pixels=MANY).shape == (61, 40, 3)
    with pytest.raises(BrokenImage):
        decode_image(data[: len(segment) + 400], max_pixels=MANY)


@pytest.mark.parametrize("bits", [0, 3, 255])
def test_png_of_no_known_bit_depth(bits: int) -> None:
    with pytest.raises(BrokenImage, match=f"{bits} bits"):
        decode_image(png_file((2, 1, bits, 0), b"\0\0", png_chunk(b"tRNS", b"\0\0")), max_pixels=MANY)


def test_12_bit_jpeg_is_refused_by_name() -> None:
    data = bytearray(PLAIN["jpeg"])
    data[data.index(b"\xff\xc0") + 4] = 12
    with pytest.raises(UnsupportedImage, match="12 bits"):
        decode_image(bytes(data), max_pixels=MANY)


def test_opencv_does_not_log_damaged_uploads(capfd: pytest.CaptureFixture[str]) -> None:
    rng = random.Random(3)
    for data in ALL.values():
        middle = len(data) // 2
        with contextlib.suppress(ImageError):
            decode_image(data[:middle] + rng.randbytes(20) + data[middle + 20 :], max_pixels=MANY)
    # The codecs inside OpenCV print a line of their own, which no setting stops.
    assert "grfmt" not in capfd.readouterr().err


# --- memory ------------------------------------------------------------------------------------------------

_MEASURED = """
import sys
import cv2, numpy as np
from pathlib import Path
from service.inference.headers import read_header
from service.inference.images import decode_image, decoding_bytes

def memory(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

cv2.imdecode(cv2.imencode(".png", np.zeros((9, 9, 4), np.uint8))[1], cv2.IMREAD_UNCHANGED)
data = Path(sys.argv[1]).read_bytes()
before = memory("VmRSS:")
image = decode_image(data, max_pixels=10**8)
taken = memory("VmHWM:") - before
stored = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
eight = (stored >> 8 if stored.dtype == np.uint16 else stored).astype(np.uint8)
if eight.shape[2:] == (4,):
    colour, alpha = eight[..., :3].astype(np.uint32), eight[..., 3:].astype(np.uint32)
    eight = (colour * alpha + 255 * (255 - alpha) + 127) // 255
print(taken, decoding_bytes(read_header(data)), np.array_equal(image, eight))
"""


def _measured(path: Path) -> tuple[int, int, str]:
    """Bytes that decoding took, those announced, and whether the pixels are right."""
    command = [sys.executable, "-c", _MEASURED, str(path)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    taken, announced, is_equal = ran.stdout.split()
    return int(taken), int(announced), is_equal


@pytest.mark.parametrize(
    ("suffix", "channels", "element", "built_up"),
    [
        (".jpg", 3, np.uint8, 0),
        (".webp", 3, np.uint8, 4),
        (".webp", 4, np.uint8, 4),
        (".png", 3, np.uint8, 0),
        (".png", 4, np.uint8, 0),
        (".png", 3, np.uint16, 0),
        (".png", 4, np.uint16, 0),
    ],
)
def test_decoding_12_megapixels_takes_no_more_memory_than_announced(
    tmp_path: Path, suffix: str, channels: int, element: type[np.uint8] | type[np.uint16], built_up: int
) -> None:
    tile = np.random.default_rng(0).integers(0, np.iinfo(element).max, (100, 100, channels), element, endpoint=True)
    path = tmp_path / f"large{suffix}"
    assert cv2.imwrite(str(path), np.tile(tile, (30, 40, 1)))
    taken, announced, is_equal = _measured(path)
    assert is_equal == "True"
    stored = 3 if channels == 3 else channels * np.dtype(element).itemsize
    assert announced == 12_000_000 * stored + (path.stat().st_size if suffix == ".webp" else 0) + built_up * 12e6
    # The bands, and what the allocator and the codecs keep for themselves.
    assert taken <= announced + 24_000_000


def _in_three_scans(picture: Image.Image) -> bytes:
    """A sequential JPEG with each component in a scan of its own, from three grey JPEGs with the same tables."""
    grey = [encode(picture.getchannel(channel), "JPEG", quality=90) for channel in range(3)]
    frame, scan = (grey[0].index(marker) for marker in (b"\xff\xc0", b"\xff\xda"))
    _, height, width = struct.unpack_from(">BHH", grey[0], frame + 4)
    components = b"".join(bytes((number, 0x11, 0)) for number in (1, 2, 3))
    colour = b"\xff\xc0" + struct.pack(">HBHHB", 17, 8, height, width, 3) + components
    scans = [
        b"\xff\xda" + struct.pack(">HBBBBBB", 8, 1, number, 0, 0, 63, 0) + data[data.index(b"\xff\xda") + 10 : -2]
        for number, data in enumerate(grey, 1)
    ]
    tables = grey[0][:frame] + colour + grey[0][frame + 13 : scan]
    return tables + b"".join(scans) + b"\xff\xd9"


def _large(name: str) -> bytes:
    tile = Image.fromarray(np.tile(scene(300, 200), (10, 10, 1)))
    last = Image.fromarray(np.roll(np.asarray(tile), 99, 1))
    translucent = tile.copy()
    translucent.putalpha(tile.convert("L"))
    match name:
        case "jpeg-progressive-420":
            return encode(tile, "JPEG", progressive=True)
        case "jpeg-progressive-444":
            return encode(tile, "JPEG", progressive=True, subsampling=0)
        case "jpeg-progressive-grey":
            return encode(tile.convert("L"), "JPEG", progressive=True)
        case "jpeg-progressive-cmyk":
            return encode(tile.convert("CMYK"), "JPEG", progressive=True)
        case "jpeg-three-scans":
            return _in_three_scans(tile)
        case "jpeg-cmyk":
            return encode(tile.convert("CMYK"), "JPEG")
        case "webp":
            return encode(tile, "WEBP", method=0)
        case "webp-lossy-alpha":
            return encode(translucent, "WEBP", method=0)
        case "webp-animated":
            return encode(translucent, "WEBP", method=0, save_all=True, append_images=[last])
        case "gif-animated":
            return encode(tile.quantize(16), "GIF", save_all=True, append_images=[last.quantize(16)])
        case "apng":
            return encode(tile, "PNG", compress_level=1, save_all=True, append_images=[last])
        case "png-palette":
            return encode(tile.quantize(16), "PNG", transparency=3)
        case _:
            return encode(tile.convert("L"), "PNG", transparency=100, compress_level=1)


@pytest.mark.parametrize(
    ("name", "bytes_a_pixel"),
    [
        ("jpeg-progressive-420", 3 + 3),
        ("jpeg-progressive-444", 3 + 6),
        ("jpeg-progressive-grey", 3 + 2),
        ("jpeg-progressive-cmyk", 3 + 8),
        ("jpeg-three-scans", 3 + 6),
        ("jpeg-cmyk", 3),
        ("webp", 3),
        ("webp-lossy-alpha", 4 + 2),
        ("webp-animated", 4 + 8),
        ("gif-animated", 4 + 5),
        ("apng", 3 * 4),
        ("png-palette", 4),
        ("png-grey-key", 4),
    ],
)
def test_what_the_decoders_build_up_is_announced(tmp_path: Path, name: str, bytes_a_pixel: int) -> None:
    path = tmp_path / "large"
    path.write_bytes(_large(name))
    taken, announced, _ = _measured(path)
    of_the_file = path.stat().st_size if name.startswith("webp") else 0
    # Blocks of a JPEG are whole, so its sides are rounded up.
    assert announced == pytest.approx(6_000_000 * bytes_a_pixel + of_the_file, rel=0.01)
    assert announced - 7_000_000 <= taken <= announced + 4_000_000


def test_three_scans_hold_three_components() -> None:
    red, green, blue = (encode(RGB.getchannel(channel), "JPEG", quality=90) for channel in range(3))
    planes = [cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE) for data in (red, green, blue)]
    expected = cv2.cvtColor(np.dstack([planes[0], planes[2], planes[1]]), cv2.COLOR_YCrCb2BGR)
    image = decode_image(_in_three_scans(RGB), max_pixels=MANY)
    assert np.abs(image.astype(int) - expected).max() <= 2

"""The decoder of sound JPEGs gives OpenCV's pixels, and leaves to OpenCV what is not sound."""

import cv2
import numpy as np
import pytest

from service.inference.headers import read_header
from service.inference.jpeg import decode_sound_jpeg
from tests.inference.pictures import scene

REDUCED = {1: cv2.IMREAD_COLOR} | {by: getattr(cv2, f"IMREAD_REDUCED_COLOR_{by}") for by in (2, 4, 8)}
SAMPLINGS = {name: getattr(cv2, f"IMWRITE_JPEG_SAMPLING_FACTOR_{name}") for name in ("411", "420", "422", "440", "444")}


def jpeg(width: int, height: int, *options: int) -> bytes:
    done, data = cv2.imencode(".jpg", scene(width, height), options)
    assert done
    return data.tobytes()


@pytest.mark.parametrize("reduction", REDUCED)
@pytest.mark.parametrize("progressive", [0, 1])
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_its_pixels_are_those_of_opencv(sampling: str, progressive: int, reduction: int) -> None:
    for width, height in ((8, 8), (1080, 810), (136, 72), (264, 1048)):
        for quality in (15, 75, 97):
            options = (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, SAMPLINGS[sampling], cv2.IMWRITE_JPEG_QUALITY, quality)
            data = jpeg(width, height, *options, cv2.IMWRITE_JPEG_PROGRESSIVE, progressive)
            found = decode_sound_jpeg(data, read_header(data), reduction)
            expected = cv2.imdecode(np.frombuffer(data, np.uint8), REDUCED[reduction])
            assert found is not None
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("size", [(1, 1), (7, 9), (17, 33), (641, 479)])
def test_sides_need_not_be_multiples_of_a_block(size: tuple[int, int]) -> None:
    for sampling in SAMPLINGS.values():
        data = jpeg(*size, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling)
        found = decode_sound_jpeg(data, read_header(data), 1)
        assert found is not None
        np.testing.assert_array_equal(found, cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR))


def test_grey_becomes_colour() -> None:
    _, data = cv2.imencode(".jpg", scene(90, 60)[..., 0])
    found = decode_sound_jpeg(data.tobytes(), read_header(data.tobytes()), 1)
    assert found is not None and found.shape == (60, 90, 3)
    np.testing.assert_array_equal(found, cv2.imdecode(data, cv2.IMREAD_COLOR))


def test_what_is_damaged_is_left_to_another_decoder() -> None:
    data = bytearray(jpeg(640, 480))
    header = read_header(bytes(data))
    middle = len(data) // 2
    # A marker that has no business there: libjpeg warns and fills the rest with grey.
    data[middle : middle + 2] = b"\xff\xd4"
    assert decode_sound_jpeg(bytes(data), header, 1) is None
    assert decode_sound_jpeg(bytes(data[:middle]), header, 1) is None

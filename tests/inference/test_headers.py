"""Where a JPEG's scan ends, against the rule in its plainest form. Whole files of every kind are in ``test_images``."""

import random
import re
import struct

import pytest

from service.errors import BrokenImage
from service.inference.headers import _JPEG_SCAN_STEP, read_header

#: Start, frame of 16 x 16 grey pixels, start of scan.
HEAD = (
    b"\xff\xd8" + b"\xff\xc0\x00\x0b\x08\x00\x10\x00\x10\x01\x01\x11\x00" + b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00"
)
EOI = b"\xff\xd9"
#: What decides, and enough of it that most strings hold several; lengths of up to a few hundred bytes with them.
TELLING = (
    [b"\xff"] * 3 + [bytes([byte]) for byte in (0x00, 0x01, 0x02, 0x03, 0xC4, 0xD0, 0xD7, 0xD8, 0xDA, 0xFE)] + [EOI]
)


def is_ended(data: bytes, position: int) -> bool:
    """Step from marker to marker, over the segments that have a length."""
    marker = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
    while found := marker.search(data, position):
        kind, position = data[found.start() + 1], found.end()
        if kind == 0xD9:
            return True
        if kind != 0x01 and position + 2 <= len(data):
            position += max(2, struct.unpack_from(">H", data, position)[0])
    return False


def is_accepted(scan: bytes) -> bool:
    try:
        header = read_header(HEAD + scan)
    except BrokenImage as error:
        assert "ends too early" in str(error)
        return False
    assert (header.width, header.height) == (16, 16)
    return True


@pytest.mark.parametrize("seed", range(4))
def test_random_scans_end_where_the_rule_says(seed: int) -> None:
    choose, verdicts = random.Random(seed), set()
    for _ in range(2500):
        if choose.random() < 0.2:
            scan = choose.randbytes(choose.randint(0, 2000))
        else:
            scan = b"".join(choose.choices(TELLING, k=choose.randint(0, 40)))
        verdicts.add(is_accepted(scan))
        assert is_accepted(scan) == is_ended(HEAD + scan, len(HEAD)), scan.hex()
    assert verdicts == {True, False}


@pytest.mark.parametrize("before", range(_JPEG_SCAN_STEP - 3, _JPEG_SCAN_STEP + 3))
def test_an_end_across_two_steps_is_found(before: int) -> None:
    for steps in (0, 1):
        filling = bytes(steps * _JPEG_SCAN_STEP + before)
        for end in (EOI, b"\xff" + EOI, b"\xff\x01" + EOI, b"\xff\xc4\x00\x02" + EOI):
            assert is_accepted(filling + end) and is_accepted(filling + end + b"\0")
        for no_end in (b"\xff", b"\xff\x00\xd9", b"\xff\xd0\xd9", b"\xff\xc4\x00\x04" + EOI, EOI[::-1]):
            assert not is_accepted(filling + no_end)


def test_a_segment_over_several_steps_hides_what_is_in_it() -> None:
    hidden = b"\xff\xc4\xff\xff" + EOI.ljust(0xFFFD, b"\0")
    for before in range(_JPEG_SCAN_STEP - 0x10000, _JPEG_SCAN_STEP + 5, 0x1001):
        assert not is_accepted(bytes(before) + hidden)
        assert not is_accepted(bytes(before) + hidden * 9)
        assert is_accepted(bytes(before) + hidden * 9 + EOI)

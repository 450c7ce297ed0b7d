"""Tensors as NumPy writes them, and everything else refused."""

import io

import numpy as np
import pytest

from service.errors import BrokenTensor
from service.lint.tensors import MAX_TENSORS, read_tensors

PICTURE = np.random.default_rng(3).integers(0, 256, (48, 64, 3)).astype(np.uint8)  # RGB
RIGHT = PICTURE.transpose(2, 0, 1).astype(np.float32) / 255


def npy(array: np.ndarray, version: tuple[int, int] | None = None) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, version)
    return stream.getvalue()


HOSTILE = (
    "{'descr': ",
    "(" * 5000,
    "-" * 9000 + "1",
    "{[]: 1}",
    "{1: 2, 'a': 3}",
    "{'descr': (), 'fortran_order': False, 'shape': (3, 32, 32)}",
    "{'descr': 'f4,,,', 'fortran_order': False, 'shape': (3, 32, 32)}",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 3, -32, 32)}",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (0, 3, 1180591620717411303424, 5)}",
    "{'descr': '<f4', 'fortran_order': False, 'shape': " + repr((1,) * 65) + "}",
)


def header(text: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + bytes(4 * 3 * 32 * 32)


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4"])
def test_floats_are_taken_as_the_network_takes_them(dtype, version):
    given = read_tensors(npy(RIGHT.astype(dtype), version))
    (picture,) = given
    assert (len(given), given.size_hw) == (1, (48, 64))
    assert picture.dtype == np.float32 and picture.flags.c_contiguous
    assert picture == pytest.approx(RIGHT, abs=1e-3)
    assert (given.contract, given.transposed, given.shape) == ("network", False, (3, 48, 64))


def test_bytes_are_taken_as_the_deployed_graph_takes_them():
    given = read_tensors(npy(np.ascontiguousarray(PICTURE[..., ::-1])[None]))
    assert given.picture(0) == pytest.approx(RIGHT, abs=1e-6)
    assert (given.contract, given.transposed, given.dtype) == ("deployed", False, "uint8")


def test_misplaced_channels_are_put_right_and_said():
    last = read_tensors(npy(np.stack([RIGHT, RIGHT]).transpose(0, 2, 3, 1)))
    assert last.transposed
    assert last.picture(1) == pytest.approx(RIGHT)
    first = read_tensors(npy(PICTURE[..., ::-1].transpose(2, 0, 1)))
    assert first.transposed
    assert first.picture(0) == pytest.approx(RIGHT, abs=1e-6)


def test_fortran_order_is_read():
    assert read_tensors(npy(np.asfortranarray(RIGHT))).picture(0) == pytest.approx(RIGHT)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no .npy"),
        (b"\x93NUMPY", "no .npy"),
        (b"\x93NUMPY\x07\x00junk", "no .npy"),
        (npy(RIGHT)[:-1], "bytes follow"),
        (npy(RIGHT) + b"x", "bytes follow"),
        (npy(RIGHT)[:20], "no .npy"),
        (npy(RIGHT.astype(np.int64)), "int64"),
        (npy(RIGHT.astype(complex)), "complex"),
        (npy(np.array([{"a": 1}], object)), "object"),
        (npy(RIGHT[:2]), "shape"),
        (npy(RIGHT[0]), "shape"),
        (npy(np.zeros((0, 3, 32, 32), np.float32)), "shape"),
        (npy(np.zeros((MAX_TENSORS + 1, 3, 32, 32), np.float32)), "shape"),
        (npy(RIGHT[:, :31]), "sides"),
        (npy(np.zeros((3, 32, 2049), np.float16)), "sides"),
        *((header(text), "no .npy|sides|shape") for text in HOSTILE),
        *((npy(np.where(RIGHT > 0.99, bad, RIGHT)), "not a number") for bad in (np.nan, np.inf, -np.inf)),
        (npy(RIGHT.astype(np.float64) * 1e300), "infinite"),
    ],
)
def test_what_is_no_tensor_is_refused_with_the_reason(data, words):
    with pytest.raises(BrokenTensor, match=words):
        list(read_tensors(data))


def test_nothing_is_copied_before_a_picture_is_asked_for():
    data = npy(np.stack([PICTURE] * 4))
    assert np.shares_memory(read_tensors(data).sent, np.frombuffer(data, np.uint8))

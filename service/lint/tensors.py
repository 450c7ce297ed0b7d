"""Reads the tensors that callers send to be looked at: NumPy's .npy format, never a pickle."""

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from service.errors import BrokenTensor

MAGIC = b"\x93NUMPY"
MAX_TENSORS = 32
MIN_SIDE, MAX_SIDE = 32, 2048
_DTYPES = ("uint8", "float16", "float32", "float64")
_WANTED = f"send (3, H, W), (H, W, 3) or up to {MAX_TENSORS} of one along a first axis"
_MAX_HEADER_BYTES = 10_000
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


@dataclass(frozen=True)
class GivenTensors:
    """Pictures as tensors, their values as they came. Each is converted when it is asked for, and not kept.

    Attributes:
        sent: (N, 3, H, W) of the dtype sent, a view of the bytes sent; RGB where the caller kept to the contract.
        shape, dtype: as sent.
        contract: "deployed" for uint8, which ``model.onnx`` takes as (N, H, W, 3) BGR; "network" for floats, which
            the network behind its in-graph preprocessing takes as (N, 3, H, W) RGB from 0 to 1.
        transposed: the channels came where the contract does not have them.
    """

    sent: NDArray[np.generic]
    shape: tuple[int, ...]
    dtype: str
    contract: Literal["deployed", "network"]
    transposed: bool

    def __len__(self) -> int:
        return len(self.sent)

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        return map(self.picture, range(len(self)))

    @property
    def size_hw(self) -> tuple[int, int]:
        """Rows and columns of each picture."""
        height, width = self.sent.shape[2:]
        return height, width

    def picture(self, index: int) -> NDArray[np.float32]:
        """One picture, (3, H, W) float32. Bytes are divided by 255, since the deployed graph does so.

        Raises:
            BrokenTensor: a value is infinite or not a number.
        """
        with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinite
            values: NDArray[np.float32] = self.sent[index].astype(np.float32, order="C")
        if self.contract == "deployed":
            values /= np.float32(255)
        # Bounds, which not a number goes into as well, instead of an array of as many answers.
        elif not (np.isfinite(values.min()) and np.isfinite(values.max())):
            raise BrokenTensor("Some values are infinite or not a number.")
        return values


def read_tensors(data: bytes) -> GivenTensors:
    """Tensors of 1 to 32 pictures out of the bytes of one .npy file, a single picture with or without its batch axis.

    Nothing is copied. Whether values are finite is seen when a picture is taken.

    Raises:
        BrokenTensor: another format, dtype or shape, or truncated.
    """
    array = _read_npy(data)
    batch = array[None] if array.ndim == 3 else array
    if batch.ndim != 4 or not 1 <= len(batch) <= MAX_TENSORS or 3 not in (batch.shape[1], batch.shape[3]):
        raise BrokenTensor(f"The shape is {array.shape}; {_WANTED}.")
    channels_last = batch.shape[1] != 3
    pictures = batch.transpose(0, 3, 1, 2) if channels_last else batch
    if not all(MIN_SIDE <= side <= MAX_SIDE for side in pictures.shape[2:]):
        raise BrokenTensor(f"The shape is {array.shape}; sides have {MIN_SIDE} to {MAX_SIDE} values.")
    deployed = array.dtype == np.uint8
    return GivenTensors(
        sent=pictures[:, ::-1] if deployed else pictures,
        shape=array.shape,
        dtype=array.dtype.name,
        contract="deployed" if deployed else "network",
        transposed=channels_last != deployed,
    )


def _read_npy(data: bytes) -> NDArray[np.generic]:
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        shape, fortran_order, dtype = _HEADERS[version](stream, _MAX_HEADER_BYTES)
    except Exception as error:  # the header is a Python literal: its parser raises many kinds
        raise BrokenTensor(f"This is no .npy file of version 1 or 2: {error}") from error
    if dtype.name not in _DTYPES:
        raise BrokenTensor(f"The dtype is {dtype}; send one of {', '.join(_DTYPES)}.")
    if len(shape) not in (3, 4) or not all(1 <= side <= MAX_SIDE for side in shape):
        raise BrokenTensor(f"The shape has {len(shape)} sides or one beyond 1 to {MAX_SIDE}; {_WANTED}.")
    body = memoryview(data)[stream.tell() :]
    if len(body) != math.prod(shape) * dtype.itemsize:
        raise BrokenTensor(f"The header promises {shape} {dtype}, but {len(body)} bytes follow it.")
    flat = np.frombuffer(body, dtype)
    return flat.reshape(shape, order="F" if fortran_order else "C")

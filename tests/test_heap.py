"""Large blocks in a fresh process of the C library at hand."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT, clean_environ

#: Frees a block of 16 MiB, which raises glibc's own limit to that, and says whether one of 8 MiB is in the heap then.
_PROGRAM = """
import ctypes
from service.heap import map_large_blocks
{call}
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
libc.free(libc.malloc(ctypes.c_size_t(16 << 20)))
block = libc.malloc(ctypes.c_size_t(8 << 20))
heap = next(line for line in open("/proc/self/maps") if line.rstrip().endswith("[heap]")).split()[0]
first, end = (int(side, 16) for side in heap.split("-"))
print(first <= block < end)
"""


def _in_heap(call: str, **environ: str) -> bool:
    environment = {k: v for k, v in clean_environ().items() if k != "MALLOC_MMAP_THRESHOLD_"} | environ
    arguments = [sys.executable, "-c", _PROGRAM.format(call=call)]
    done = subprocess.run(arguments, cwd=ROOT, env=environment, check=True, capture_output=True, text=True)
    return done.stdout.strip() == "True"


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
def test_large_blocks_leave_the_heap() -> None:
    assert _in_heap("")
    assert not _in_heap("map_large_blocks()")


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
def test_the_operators_own_limit_stands() -> None:
    assert _in_heap("map_large_blocks()", MALLOC_MMAP_THRESHOLD_=str(32 << 20))

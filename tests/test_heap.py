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
    environment = {k: v for k, v in clean_environ().items() if not k.startswith("MALLOC_")} | environ
    arguments = [sys.executable, "-c", _PROGRAM.format(call=call)]
    done = subprocess.run(arguments, cwd=ROOT, env=environment, check=True, capture_output=True, text=True)
    return done.stdout.splitlines()[-1] == "True"


def _run_main(module: str, *arguments: str) -> str:
    """Python that runs a program's ``main`` as far as its help."""
    words = ["program", *arguments, "--help"]
    return f"""
import contextlib, sys
from {module} import main
sys.argv = {words!r}
with contextlib.suppress(SystemExit):
    main()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
def test_large_blocks_leave_the_heap() -> None:
    assert _in_heap("")
    assert not _in_heap("map_large_blocks()")


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
@pytest.mark.parametrize(("command", "in_heap"), [("recalibrate", False), ("prepare", True)])
def test_commands_map_large_blocks_but_for_the_one_that_times_pytorch(command: str, in_heap: bool) -> None:
    assert _in_heap(_run_main("service.cli", command)) == in_heap


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
def test_a_script_that_decodes_maps_large_blocks_itself() -> None:
    assert not _in_heap(_run_main("scripts.reduced_decode"))


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
def test_large_blocks_can_go_back_into_the_heap() -> None:
    assert _in_heap("from service.heap import reuse_large_blocks; map_large_blocks(); reuse_large_blocks()")


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
def test_the_operators_own_limit_stands() -> None:
    assert _in_heap("map_large_blocks()", MALLOC_MMAP_THRESHOLD_=str(32 << 20))


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
def test_what_was_freed_below_a_block_that_is_kept_can_be_given_back() -> None:
    program = """
import ctypes
from service.heap import give_back_freed, map_large_blocks
map_large_blocks()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
def resident_kb():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS"))
blocks = [libc.malloc(ctypes.c_size_t(1 << 20)) for _ in range(65)]
for block in blocks:
    ctypes.memset(block, 1, 1 << 20)
for block in blocks[:-1]:
    libc.free(block)
freed = resident_kb()
give_back_freed()
print(freed - resident_kb())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=clean_environ(), check=True, capture_output=True, text=True
    )
    assert int(done.stdout) > 60 * 1024

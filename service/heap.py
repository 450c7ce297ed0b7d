"""The C heap of a process that decodes many pictures."""

import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_VARIABLES = frozenset({"MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"})
#: Below the drift probe's maps of a quarter of 640 px with 32 channels, which are 3.3 MB; above a letterboxed picture.
_THRESHOLD_BYTES = 3 * 2**20
#: Kept free at the heap's end. A decoded picture and the letterboxed one come and go with each request; given back and
#: taken anew they cost 900 page faults and some 5 % of the throughput (1080 x 810 pixels, YOLO26n, two cores).
_KEPT_BYTES = 4 * 2**20
#: As far as glibc raises the limit by itself; it then keeps twice as much at the heap's end.
_MOST_BYTES = 32 * 2**20


def map_large_blocks() -> None:
    """Have glibc map each block of 3 MiB and more by itself, so that freeing it gives its memory back.

    Left alone, glibc raises that limit up to 32 MiB by what is freed. Decoded pictures and activations then lie in the
    heap, where one small block kept behind a freed one holds all of it: measuring 60 pictures with the probe, six
    versions of each, left 2.8 GB behind, and 0.15 GB this way. ``MALLOC_MMAP_THRESHOLD_`` or ``MALLOC_TRIM_THRESHOLD_``
    in the environment decides where it is set; where the C library is another, nothing happens.
    """
    _set({_M_MMAP_THRESHOLD: _THRESHOLD_BYTES, _M_TRIM_THRESHOLD: _KEPT_BYTES})


def reuse_large_blocks() -> None:
    """Undo ``map_large_blocks``: what glibc comes to by itself once blocks of up to 32 MiB have been freed.

    For timing what allocates anew in each run, as eager PyTorch does: with every block mapped afresh it takes a third
    longer (YOLO26n at 640 px, one thread: 152 ms, and 192 to 216 ms with ``map_large_blocks``).
    """
    _set({_M_MMAP_THRESHOLD: _MOST_BYTES, _M_TRIM_THRESHOLD: 2 * _MOST_BYTES})


def give_back_freed() -> None:
    """Give the pages of what was freed back to the system; for after work that leaves many small blocks behind.

    By itself glibc gives back the heap's end only. Where the C library is another, nothing happens.
    """
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if malloc_trim is not None:
        malloc_trim(ctypes.c_size_t(0))


def _set(options: dict[int, int]) -> None:
    if sys.platform != "linux" or not _VARIABLES.isdisjoint(os.environ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in options.items():
            mallopt(ctypes.c_int(option), ctypes.c_int(value))

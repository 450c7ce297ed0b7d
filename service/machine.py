"""The machine as this process sees it: what it may use, not what the host has. For POSIX systems."""

import ctypes
import math
import os
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from service.bundle.latency import Machine

PROC, CGROUP_ROOT = Path("/proc"), Path("/sys/fs/cgroup")

#: As Linux names them; the last one is ARM's.
_INT8_DOT_PRODUCTS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8", "asimddp"})
#: Of CUdevice_attribute in cuda.h.
_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR = 75, 76
#: Of the machine's cores. Where other work took more during a measurement, the measurement says little.
BUSY_SHARE = 0.25


def describe_machine(proc: Path = PROC, cgroup_root: Path = CGROUP_ROOT) -> Machine:
    """Describe where a measurement is taken; names neither the host nor its user.

    Args:
        proc: where procfs is mounted; need not exist.
        cgroup_root: where the cgroup hierarchy (version 1 or 2) is mounted; need not exist.
    """
    return Machine(
        cpu=cpu_model(proc),
        cores=usable_cores(proc, cgroup_root),
        memory_bytes=usable_memory_bytes(proc, cgroup_root),
        system=platform.platform(),
        python=platform.python_version(),
    )


def cpu_model(proc: Path = PROC) -> str:
    """The processor's name as Linux reports it, else the architecture (ARM kernels give no name)."""
    for line in _read(proc / "cpuinfo").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name" and value.strip():
            return value.strip()
    return platform.processor() or platform.machine() or "unknown"


def cpu_flags(proc: Path = PROC) -> list[str]:
    """The processor's instruction set extensions as Linux names them, sorted; empty where it does not say."""
    for line in _read(proc / "cpuinfo").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):  # the latter on ARM
            return sorted(set(value.split()))
    return []


def has_int8_dot_products(proc: Path = PROC) -> bool:
    """Whether the processor adds up products of 8-bit numbers in 32 bits (VNNI and its like), as far as Linux says.

    Others add pairs of them in 16 bits, which saturate.
    """
    return not _INT8_DOT_PRODUCTS.isdisjoint(cpu_flags(proc))


def threads_under_load(cores: int, fill: int) -> int:
    """Threads of each of ``fill`` runs that fill the cores: rather one too many of some than a core left idle."""
    return math.ceil(cores / fill)


def gpu_models(proc: Path = PROC) -> list[str]:
    """Names of the NVIDIA GPUs whose driver this process sees, sorted."""
    found = []
    for path in (proc / "driver" / "nvidia" / "gpus").glob("*/information"):
        for line in _read(path).splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "Model":
                found.append(value.strip())
    return sorted(found)


def gpu_driver(proc: Path = PROC) -> str:
    """Release of NVIDIA's kernel driver as it describes itself, empty where there is none."""
    return _read(proc / "driver" / "nvidia" / "version").partition("\n")[0].strip()


def first_cuda_device() -> str:
    """Name and compute capability of the GPU that CUDA counts first, such as ``NVIDIA H200, 9.0``; empty without one.

    ``CUDA_VISIBLE_DEVICES`` decides which one that is, where there are several.
    """
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return ""
    device, major, minor, name = ctypes.c_int(), ctypes.c_int(), ctypes.c_int(), ctypes.create_string_buffer(256)
    failed = (
        cuda.cuInit(0)
        or cuda.cuDeviceGet(ctypes.byref(device), 0)
        or cuda.cuDeviceGetName(name, len(name), device)
        or cuda.cuDeviceGetAttribute(ctypes.byref(major), _COMPUTE_CAPABILITY_MAJOR, device)
        or cuda.cuDeviceGetAttribute(ctypes.byref(minor), _COMPUTE_CAPABILITY_MINOR, device)
    )
    return "" if failed else f"{name.value.decode(errors='replace')}, {major.value}.{minor.value}"


def usable_cores(proc: Path = PROC, cgroup_root: Path = CGROUP_ROOT) -> int:
    """Whole cores this process can keep busy: CPU affinity, cut to the cgroup's CPU quota, at least 1."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = []
    for folder in _cgroup_folders("cpu", proc, cgroup_root):
        quota, _, period = _read(folder / "cpu.max").strip().partition(" ")
        if not quota:
            quota, period = (_read(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period"))
        if quota.isdigit() and period.isdigit():  # "max" and -1 stand for no limit
            quotas.append(int(quota) // int(period))
    return max(1, min([affinity, *quotas]))


def usable_memory_bytes(proc: Path = PROC, cgroup_root: Path = CGROUP_ROOT) -> int:
    """Physical memory in bytes, cut to the cgroup's limit."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for folder in _cgroup_folders("memory", proc, cgroup_root):
        for name in ("memory.max", "memory.limit_in_bytes"):
            text = _read(folder / name).strip()
            if text.isdigit():
                limits.append(int(text))
    return min(limits)


def was_busy(other_cores: float | None) -> bool:
    """Whether so many cores, as ``CpuWatch`` tells them, are more than ``BUSY_SHARE`` of this machine's.

    Of all its cores, not of those this process may use: where it may use two of sixty-four, ten at work for others are
    no obstacle. False where the system does not say.
    """
    return other_cores is not None and other_cores > BUSY_SHARE * (os.cpu_count() or 1)


class CpuWatch:
    """Watches how much of the processor everything but this process takes."""

    def __init__(
        self,
        proc: Path = PROC,
        own_s: Callable[[], float] = time.process_time,
        wall_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin to watch.

        Args:
            proc: where procfs is mounted; need not exist.
            own_s: processor time of this process, seconds.
            wall_s: monotonic clock, seconds.
        """
        self._proc, self._own_s, self._wall_s = proc, own_s, wall_s
        self._before = self._look()

    def other_cores(self) -> float | None:
        """Cores that others kept busy since the start, on average; None where the system does not say.

        Inside a container the others are those of the whole host, and what a hypervisor withheld counts as well.
        """
        before, now = self._before, self._look()
        if before is None or now is None or now[2] <= before[2]:
            return None
        busy, own, wall = (after - earlier for after, earlier in zip(now, before, strict=True))
        return max(0.0, busy - own) / wall

    def _look(self) -> tuple[float, float, float] | None:
        """Seconds that all cores were busy, that this process was, and of the clock."""
        first = _read(self._proc / "stat").partition("\n")[0].split()
        if len(first) < 9 or first[0] != "cpu":
            return None
        user, nice, system, _idle, _iowait, irq, softirq, steal = (int(ticks) for ticks in first[1:9])
        busy = user + nice + system + irq + softirq + steal
        return busy / os.sysconf("SC_CLK_TCK"), self._own_s(), self._wall_s()


def look_at_others(seconds: float = 0.5) -> float | None:
    """Cores that others keep busy now, see ``CpuWatch``: on average of so many seconds, which this thread sleeps for.

    Half a second is 50 ticks of the system's clock on each core.
    """
    watch = CpuWatch()
    time.sleep(seconds)
    return watch.other_cores()


def resident_peak_bytes(proc: Path = PROC) -> int | None:
    """Most memory this process has held so far (VmHWM), None where the system does not say.

    Unlike getrusage's figure it starts anew with each program, so what the parent held does not count.
    """
    for line in _read(proc / "self" / "status").splitlines():
        key, _, value = line.partition(":")
        if key == "VmHWM":
            return int(value.split()[0]) * 1024
    return None


def _cgroup_folders(controller: str, proc: Path, root: Path) -> Iterator[Path]:
    """Folders whose limits apply: this process's group and all above it, in either version of cgroups.

    Inside a container the path in ``/proc/self/cgroup`` may be the host's and not exist; the mount's top is
    then the container's own group.
    """
    for line in _read(proc / "self" / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = root / controller if controllers else root
        folder = top / path.lstrip("/")
        yield from (place for place in (folder, *folder.parents) if place == top or top in place.parents)


def _read(path: Path) -> str:
    """The file's text, empty if there is none to be had."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""

"""The machine as this process sees it: what it may use, not what the host has. For POSIX systems."""

import os
import platform
from collections.abc import Iterator
from pathlib import Path

from service.bundle.latency import Machine

PROC, CGROUP_ROOT = Path("/proc"), Path("/sys/fs/cgroup")


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

"""What a process may use, read from made-up procfs and cgroup trees."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from service.machine import (
    CpuWatch,
    cpu_model,
    describe_machine,
    gpu_driver,
    gpu_models,
    has_int8_dot_products,
    resident_peak_bytes,
    usable_cores,
    usable_memory_bytes,
)

GIB = 1 << 30
UNLIMITED_V1 = str((1 << 63) - 4096)


@pytest.fixture(autouse=True)
def host(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host of 8 cores and 16 GiB."""
    pages = {"SC_PHYS_PAGES": 16 * GIB // 4096, "SC_PAGE_SIZE": 4096, "SC_CLK_TCK": 100}
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(os, "sysconf", pages.__getitem__)


def tree(root: Path, files: dict[str, str]) -> tuple[Path, Path]:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root / "proc", root / "cgroup"


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 8),
        ({"proc/self/cgroup": "0::/", "cgroup/cpu.max": "max 100000"}, 8),
        ({"proc/self/cgroup": "0::/", "cgroup/cpu.max": "200000 100000"}, 2),
        ({"proc/self/cgroup": "0::/", "cgroup/cpu.max": "250000 100000"}, 2),
        ({"proc/self/cgroup": "0::/", "cgroup/cpu.max": "50000 100000"}, 1),
        ({"proc/self/cgroup": "0::/", "cgroup/cpu.max": "6400000 100000"}, 8),
        # The tighter limit of an outer group applies as well.
        (
            {
                "proc/self/cgroup": "0::/a/b",
                "cgroup/a/b/cpu.max": "500000 100000",
                "cgroup/a/cpu.max": "300000 100000",
            },
            3,
        ),
        # A host's path that does not exist in the container.
        ({"proc/self/cgroup": "0::/docker/1f3a", "cgroup/cpu.max": "400000 100000"}, 4),
        (
            {
                "proc/self/cgroup": "3:memory:/\n2:cpu,cpuacct:/docker/1f3a",
                "cgroup/cpu/cpu.cfs_quota_us": "300000",
                "cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            3,
        ),
        (
            {
                "proc/self/cgroup": "1:cpu:/",
                "cgroup/cpu/cpu.cfs_quota_us": "-1",
                "cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            8,
        ),
    ],
)
def test_usable_cores(tmp_path: Path, files: dict[str, str], cores: int) -> None:
    assert usable_cores(*tree(tmp_path, files)) == cores


def test_cores_without_affinity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert usable_cores(*tree(tmp_path, {})) == 6


@pytest.mark.parametrize(
    ("files", "gib"),
    [
        ({}, 16),
        ({"proc/self/cgroup": "0::/", "cgroup/memory.max": "max"}, 16),
        ({"proc/self/cgroup": "0::/", "cgroup/memory.max": str(4 * GIB)}, 4),
        ({"proc/self/cgroup": "0::/", "cgroup/memory.max": str(64 * GIB)}, 16),
        ({"proc/self/cgroup": "4:memory:/x", "cgroup/memory/memory.limit_in_bytes": UNLIMITED_V1}, 16),
        ({"proc/self/cgroup": "4:memory:/x", "cgroup/memory/x/memory.limit_in_bytes": str(2 * GIB)}, 2),
    ],
)
def test_usable_memory(tmp_path: Path, files: dict[str, str], gib: int) -> None:
    assert usable_memory_bytes(*tree(tmp_path, files)) == gib * GIB


def test_cpu_model_is_the_first_processors_name(tmp_path: Path) -> None:
    text = "processor\t: 0\nmodel\t\t: 17\nmodel name\t: CPU @ 3: GHz\n\nprocessor\t: 1\nmodel name\t: Other"
    assert cpu_model(tree(tmp_path, {"proc/cpuinfo": text})[0]) == "CPU @ 3: GHz"


@pytest.mark.parametrize("files", [{}, {"proc/cpuinfo": "processor\t: 0\nCPU part\t: 0xd0c"}])
def test_cpu_model_falls_back_to_the_architecture(
    tmp_path: Path, files: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert cpu_model(tree(tmp_path, files)[0]) == "aarch64"


def test_the_description_names_no_host(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = describe_machine()
    assert machine.python == platform.python_version()
    assert machine.cores >= 1
    assert platform.node() not in machine.system.split("-")


@pytest.mark.parametrize(
    ("before", "after", "own_s", "cores"),
    [
        # 800 ticks of user, 100 of system, 100 of steal in 5 s are 2 cores; this process was 0.5 of them.
        ("1000 0 500 9000 40 0 0 0", "1800 0 600 9500 90 0 0 100", 2.5, 1.5),
        ("1000 0 500 9000 40 0 0 0 70 70", "1000 200 500 9000 40 30 20 0 90 90", 0.0, 0.5),
        ("0 0 0 0 0 0 0 0", "0 0 0 100 900 0 0 0", 0.0, 0.0),  # idle and waiting for a disk
        ("0 0 0 0 0 0 0 0", "100 0 0 0 0 0 0 0", 1.1, 0.0),  # two clocks that do not quite agree
    ],
)
def test_other_work_is_what_the_machine_did_less_what_this_process_did(
    before: str, after: str, own_s: float, cores: float, tmp_path: Path
) -> None:
    proc, _ = tree(tmp_path, {"proc/stat": f"cpu  {before}\ncpu0 1 2 3"})
    own, wall = iter([7.0, 7.0 + own_s]), iter([100.0, 105.0])
    watch = CpuWatch(proc, lambda: next(own), lambda: next(wall))
    tree(tmp_path, {"proc/stat": f"cpu  {after}\ncpu0 1 2 3"})
    assert watch.other_cores() == pytest.approx(cores)


@pytest.mark.parametrize("text", ["", "cpu  1 2 3", "intr 1 2 3 4 5 6 7 8"])
def test_other_work_is_unknown_where_the_system_does_not_say(text: str, tmp_path: Path) -> None:
    proc, _ = tree(tmp_path, {"proc/stat": text})
    assert CpuWatch(proc).other_cores() is None
    assert CpuWatch(tmp_path / "nowhere").other_cores() is None


def test_the_peak_of_a_process_is_its_high_water_mark(tmp_path: Path) -> None:
    status = "Name:\tpython\nVmPeak:\t  900000 kB\nVmHWM:\t   83000 kB\nVmRSS:\t   70000 kB"
    proc, _ = tree(tmp_path, {"proc/self/status": status})
    assert resident_peak_bytes(proc) == 83_000 * 1024
    assert resident_peak_bytes(tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    ("flags", "has_them"),
    [
        ("flags : fpu avx2 avx512f avx512bw", False),
        ("flags : fpu avx2 avx512f avx512_vnni", True),
        ("flags : fpu avx2 avx_vnni", True),
        ("Features : fp asimd asimddp", True),
        ("Features : fp asimd", False),
    ],
)
def test_which_processors_add_products_of_int8_in_32_bits(tmp_path: Path, flags: str, has_them: bool) -> None:
    proc, _ = tree(tmp_path, {"proc/cpuinfo": f"processor : 0\n{flags}"})
    assert has_int8_dot_products(proc) == has_them
    assert not has_int8_dot_products(tmp_path / "nowhere")


def test_gpus_and_their_driver(tmp_path: Path) -> None:
    version = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build"
    files = {"proc/driver/nvidia/version": f"{version}\nGCC version:  gcc 13"}
    for bus, model in (("0000:02:00.0", "NVIDIA L4"), ("0000:01:00.0", "NVIDIA H200")):
        files[f"proc/driver/nvidia/gpus/{bus}/information"] = f"Model: \t\t {model}\nIRQ:   \t\t 31"
    proc, _ = tree(tmp_path, files)
    assert (gpu_driver(proc), gpu_models(proc)) == (version, ["NVIDIA H200", "NVIDIA L4"])
    assert (gpu_driver(tmp_path), gpu_models(tmp_path)) == ("", [])


_CUDA = """
#include <string.h>
int cuInit(unsigned flags) { return BROKEN; }
int cuDeviceGet(int *device, int number) { *device = 7 + number; return 0; }
int cuDeviceGetName(char *name, int length, int device) { strncpy(name, "NVIDIA H200", length); return device != 7; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? 9 : 0;
    return device != 7;
}
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
@pytest.mark.parametrize(("broken", "expected"), [(0, "NVIDIA H200, 9.0"), (100, "")])
def test_the_first_gpu_is_told_by_its_driver(tmp_path: Path, broken: int, expected: str) -> None:
    """By a library in the place of NVIDIA's, with the numbers of its header."""
    source = tmp_path / "cuda.c"
    source.write_text(_CUDA)
    build = ["cc", f"-DBROKEN={broken}", "-shared", "-fPIC", "-o", str(tmp_path / "libcuda.so.1"), str(source)]
    subprocess.run(build, check=True)
    program = "from service.machine import first_cuda_device; print(first_cuda_device())"
    environ = os.environ | {"LD_LIBRARY_PATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], env=environ, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == expected

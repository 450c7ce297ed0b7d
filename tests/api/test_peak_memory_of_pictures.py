"""The largest pictures that are accepted, sent to a real server process, against the peak that the kernel saw."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from service.machine import usable_cores
from tests.conftest import running_server
from tests.inference.pictures import encode, scene

#: What serving YOLO26n may hold at most, and what it may hold under load with pictures of usual size.
MOST_BYTES, MOST_HELD_BYTES = 400_000_000, 260_000_000


def peak_bytes(pid: int) -> int:
    return _memory(pid, "VmHWM")


def held_bytes(pid: int) -> int:
    return _memory(pid, "VmRSS")


def _memory(pid: int, name: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def photograph(width: int, height: int, **options: object) -> bytes:
    tile = np.tile(scene(400, 300), (height // 300 + 1, width // 400 + 1, 1))
    return encode(Image.fromarray(tile[:height, :width]), "JPEG", **options)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc only")
def test_no_picture_drives_the_process_over_400_mb(bundle_root: Path) -> None:
    largest = photograph(8192, 6144)
    progressive = photograph(5200, 3320, progressive=True, subsampling=0)
    twelve = photograph(4032, 3024)
    with running_server(bundle_root) as server, httpx.Client(base_url=server.url, timeout=120) as client:

        def send(data: bytes) -> httpx.Response:
            return client.post("/detect", files={"file": data})

        started = peak_bytes(server.pid)
        assert send(largest).status_code == 200
        # Decoding it is what is measured: 151 MB, some of it where the start has left room.
        assert peak_bytes(server.pid) > started + 100_000_000
        with ThreadPoolExecutor(8) as executor:
            assert {response.status_code for response in executor.map(send, [twelve] * 8)} == {200}
        for data in (largest, photograph(8192, 6144, orientation=6), progressive):
            assert send(data).status_code == 200
        held = peak_bytes(server.pid)
        # Each of these would take more than the accepted ones; what a small file promises costs nothing.
        for data, limit in (
            (photograph(8000, 6000, progressive=True), 26_000_000),
            (photograph(5200, 3336, progressive=True, subsampling=0), 17_333_333),
        ):
            refused = send(data)
            assert refused.status_code == 413
            assert refused.json()["limit"] == limit
        assert peak_bytes(server.pid) == held
    assert held < MOST_BYTES


@pytest.mark.skipif(sys.platform != "linux", reason="/proc only")
def test_sixteen_callers_at_once_leave_onnx_runtime_below_260_mb(bundle_root: Path, samples: list[Path]) -> None:
    # The drift watch is off: it takes some 20 MB for the tenths of a second that a picture takes it.
    pictures = [picture.read_bytes() for picture in samples] * 20
    with running_server(bundle_root, engine="onnxruntime", threads="0", drift_cpu="0") as server:
        with httpx.Client(base_url=server.url, timeout=120) as client, ThreadPoolExecutor(16) as executor:
            answers = executor.map(lambda data: client.post("/detect", files={"file": data}), pictures)
            assert {response.status_code for response in answers} == {200}
        # 241 MB with two cores. Each run at once takes 21 MB, so more cores take more.
        more_cores = max(0, usable_cores() - 2)
        assert peak_bytes(server.pid) < MOST_HELD_BYTES + more_cores * 30_000_000


@pytest.mark.skipif(sys.platform != "linux", reason="/proc only")
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_checks_of_the_fold_leave_no_memory_taken(bundle_root: Path, samples: list[Path], engine: str) -> None:
    with running_server(bundle_root, engine=engine) as server, httpx.Client(base_url=server.url, timeout=120) as client:

        def send(path: str, picture: Path) -> int:
            return client.post(path, files={"file": picture.read_bytes()}).raise_for_status().status_code

        with ThreadPoolExecutor(8) as executor:
            list(executor.map(lambda picture: send("/detect", picture), samples * 3))
        held = held_bytes(server.pid)
        for _ in range(3):
            send("/model/fold/check", samples[0])
        # Kept, the two graphs' weights and what their runs took would be 60 MB more.
        assert held_bytes(server.pid) < held + 20_000_000
        assert peak_bytes(server.pid) < MOST_BYTES

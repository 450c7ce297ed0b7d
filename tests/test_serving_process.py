"""What a real ``serve`` process loads, maps and starts while every route of it is asked, and at a second start."""

import io
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest

from service.bundle.store import Bundle
from tests.conftest import RunningServer, running_server
from tests.test_imports import NEVER_WHILE_SERVING

#: Python runs this in every process it starts. It notes what is imported, unpickled, opened as weights,
#: started and reached over the network.
WATCHER = """
import os, sys
log = open(os.path.join({folder!r}, f"{{os.getpid()}}.txt"), "a", buffering=1)
busy = False
def hook(event, arguments):
    global busy
    if busy:
        return
    busy = True
    try:
        if event == "import":
            print("import", arguments[0], file=log)
        elif event == "pickle.find_class":
            print("unpickle", arguments[0], file=log)
        elif event == "open" and str(arguments[0]).endswith((".pt", ".pth", ".pkl")):
            print("weights", arguments[0], file=log)
        elif event == "subprocess.Popen":
            print("start", *map(str, arguments[1]), file=log)
        elif event in ("os.fork", "os.forkpty", "os.posix_spawn", "os.system"):
            print("start", event, file=log)
        elif event in ("socket.connect", "socket.getaddrinfo"):
            print("reach", *map(str, arguments), file=log)
    finally:
        busy = False
sys.addaudithook(hook)
"""
NAME = "embedded-640-one2one-small"
FOREIGN = ("libtorch", "/torch/", "/torchvision/", "/ultralytics/", ".pt")

pytestmark = pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux tells what is mapped")


@dataclass(frozen=True)
class Watched:
    """A server and the notes of it and of the processes it started."""

    server: RunningServer
    folder: Path

    def notes(self, kind: str) -> set[str]:
        """What was noted of this kind, by any process."""
        lines = [line for file in self.folder.iterdir() for line in file.read_text().splitlines()]
        return {line.split(" ", 1)[1] for line in lines if line.startswith(f"{kind} ")}

    def mapped(self) -> set[str]:
        """Files mapped by the server and its children now."""
        server, found = psutil.Process(self.server.pid), set()
        for process in (server, *server.children(recursive=True)):
            try:
                found |= {entry.path for entry in process.memory_maps()}
            except psutil.Error:  # it has ended meanwhile
                continue
        return found


@contextmanager
def watched_server(root: Path, folder: Path) -> Iterator[Watched]:
    site, notes = folder / "site", folder / "notes"
    site.mkdir(parents=True)
    notes.mkdir()
    (site / "sitecustomize.py").write_text(WATCHER.format(folder=str(notes)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(site))
        with running_server(root, state_dir=str(folder / "state")) as server:
            yield Watched(server, notes)


@pytest.fixture(scope="module")
def root(faulty_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bundle of small pictures, under the name that the settings of these servers look for."""
    folder = tmp_path_factory.mktemp("bundles")
    shutil.copytree(faulty_bundle.path, folder / NAME)
    return folder


def tensor() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.random.default_rng(0).random((1, 3, 64, 64), np.float32))
    return stream.getvalue()


def ask_every_route(client: httpx.Client, watched: Watched, picture: bytes) -> tuple[set[str], set[str]]:
    """Ask each route once and measure to the end; the routes asked, and every file mapped at any time."""
    image = {"content-type": "image/jpeg"}
    requests: list[tuple[str, str, dict]] = [
        ("GET", path, {})
        for path in ("/", "/docs", "/healthz", "/readyz", "/model", "/model/layers", "/model/fold", "/model/drift")
    ]
    requests += [
        ("GET", "/metrics", {}),
        ("GET", "/openapi.json", {}),
        ("GET", "/model/bn-stats", {"params": {"detail": "full"}}),
        ("GET", "/model/bn-stats", {"headers": {"accept": "text/csv"}}),
        ("GET", "/model/bn-diff", {"params": {"other": NAME}}),
        ("POST", "/detect", {"content": picture, "headers": image}),
        ("POST", "/detect", {"content": picture, "headers": image | {"accept": "image/png"}}),
        ("POST", "/detect/batch", {"files": [("file", picture), ("file", b"no picture")]}),
        ("POST", "/model/drift/image", {"content": picture, "headers": image}),
        ("POST", "/model/fold/check", {"content": picture, "headers": image}),
        ("POST", "/model/lint", {"content": tensor(), "headers": {"content-type": "application/octet-stream"}}),
        ("POST", "/model/lint", {"content": picture, "headers": image}),
    ]
    asked, mapped = set(), watched.mapped()
    for method, path, arguments in requests:
        response = client.request(method, path, **arguments)
        assert response.status_code == 200, f"{method} {path}: {response.text}"
        asked.add(f"{method} {path}")
    assert client.post("/model/latency", params={"rounds": 12}).status_code == 202
    until = time.monotonic() + 600
    while (measured := client.get("/model/latency").json()["measured"])["state"] == "running":
        assert time.monotonic() < until
        mapped |= watched.mapped()
        time.sleep(0.02)
    assert measured["state"] == "done", measured["reason"]
    client.post("/model/latency")
    assert client.delete("/model/latency").status_code == 200
    return asked | {f"{method} /model/latency" for method in ("GET", "POST", "DELETE")}, mapped | watched.mapped()


def test_no_route_brings_torch_into_the_process_or_its_children(
    root: Path, samples: list[Path], tmp_path: Path
) -> None:
    with watched_server(root, tmp_path) as watched, httpx.Client(base_url=watched.server.url) as client:
        client.timeout = 120
        asked, mapped = ask_every_route(client, watched, samples[0].read_bytes())
        paths = client.get("/openapi.json").json()["paths"]
    described = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    assert described <= asked, "a route that this test does not ask"
    imported = {name.split(".")[0] for name in watched.notes("import")}
    assert {"onnxruntime", "cv2"} <= imported
    assert imported.isdisjoint(NEVER_WHILE_SERVING)
    started = watched.notes("start")
    assert any("service.measurement.session_peak" in line for line in started), started  # the children were watched
    assert len(list(watched.folder.iterdir())) > 2
    assert not watched.notes("weights")
    unpickled = {name.split(".")[0] for name in watched.notes("unpickle")}
    assert unpickled.isdisjoint(NEVER_WHILE_SERVING)
    assert any("onnxruntime" in path for path in mapped)
    assert [path for path in mapped if any(part in path for part in FOREIGN)] == []


def test_a_second_start_only_loads_and_checks(root: Path, tmp_path: Path, record_property: Callable) -> None:
    """What would make a restart slow: preparing, importing torch, measuring, another process, or asking the network."""
    for start in ("first", "second"):
        begun = time.monotonic()
        with watched_server(root, tmp_path / start) as watched:
            assert httpx.get(f"{watched.server.url}/readyz").json() == {"status": "ready"}
            record_property(f"{start}_start_ready_s", round(time.monotonic() - begun, 2))
        assert watched.notes("start") == watched.notes("reach") == set()
        assert len(list(watched.folder.iterdir())) == 1, "each process of Python's has notes of its own"
        imported = watched.notes("import")
        assert {name.split(".")[0] for name in imported}.isdisjoint(NEVER_WHILE_SERVING)
        assert "service.api.server" in imported
        assert not any(name.startswith(("service.prepare", "service.tuning.measure")) for name in imported)

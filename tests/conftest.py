"""The real thing, made once per run: a bundle of the embedded checkpoint and a uvicorn that serves it."""

import fcntl
import gc
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from service.bundle.store import Bundle, load_bundle
from service.prepare.weights import EMBEDDED

ROOT = Path(__file__).parent.parent
IMGSZ = 640
#: What the bundle of the session is prepared with. The head is that of the official YOLO26, not the embedded model's.
SESSION_BUNDLE = {"weights": "embedded", "imgsz": str(IMGSZ), "head": "one2one"}


def pytest_collection_finish() -> None:
    """Spare the collector the millions of objects of torch and others, which it would walk through in every test."""
    gc.collect()
    gc.freeze()


def command(*arguments: str) -> list[str]:
    """The command line of one of our commands, as a user would type it."""
    return [sys.executable, "-m", "service", *arguments]


def clean_environ(**settings: str) -> dict[str, str]:
    """This process's environment without the operator's own settings, plus the ones given."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("YOLOFOLD_")}
    return kept | {f"YOLOFOLD_{k.upper()}": v for k, v in settings.items()}


@dataclass(frozen=True)
class RunningServer:
    """A server process and where it listens."""

    url: str
    pid: int
    banner: str


@pytest.fixture(scope="session")
def samples() -> list[Path]:
    """Every sample picture of the repository."""
    found = sorted((ROOT / "samples").glob("*.jpg"))
    assert found
    return found


@pytest.fixture(scope="session")
def embedded_checkpoint() -> Path:
    """The checkpoint that comes with the project."""
    return EMBEDDED


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that ``make`` fills, for all processes that share the work of one run; they must not change it."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        folder = factory.mktemp(name)
        make(folder)
        return folder
    folder = factory.getbasetemp().parent / name
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = folder.with_suffix(".done")
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)  # what another has begun and not finished
            folder.mkdir()
            make(folder)
            done.touch()
    return folder


def prepare_with_command(bundle_dir: Path, **settings: str) -> None:
    """Prepare a checkpoint as a user would, its latency measured as briefly as can be asked for."""
    environ = clean_environ(bundle_dir=str(bundle_dir), **settings)
    subprocess.run(command("prepare", "--latency-rounds", "12"), cwd=ROOT, env=environ, check=True, timeout=600)


@pytest.fixture(scope="session")
def bundle_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle folder in which the embedded checkpoint has been prepared by the command itself."""
    return made_once(tmp_path_factory, "bundles", lambda root: prepare_with_command(root, **SESSION_BUNDLE))


@pytest.fixture(scope="session")
def bundle_path(bundle_root: Path) -> Path:
    """Folder of the prepared bundle."""
    (path,) = (p for p in bundle_root.iterdir() if (p / "manifest.json").is_file())
    return path


@pytest.fixture(scope="session")
def bundle(bundle_path: Path) -> Bundle:
    """The prepared bundle, verified and read."""
    return load_bundle(bundle_path)


@pytest.fixture(scope="module")
def bundle_copy(bundle_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A copy of the bundle, for tests that keep something beside it."""
    copy = tmp_path_factory.mktemp("copy") / bundle_path.name
    shutil.copytree(bundle_path, copy)
    return load_bundle(copy)


def _prepare_faulty(root: Path) -> None:
    from tests.faults import plant_faults  # torch, hence only where it is needed
    from tests.networks import calibrated_network, save_checkpoint

    network = calibrated_network("yolo26n.yaml")
    plant_faults(network)
    checkpoint = save_checkpoint(network, root / "faulty.pt")
    prepare_with_command(root / "bundles", weights=str(checkpoint), imgsz="128")


@pytest.fixture(scope="session")
def faulty_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint whose BatchNorm layers have planted faults, and the bundle prepared from it."""
    return made_once(tmp_path_factory, "faulty", _prepare_faulty)


@pytest.fixture(scope="session")
def faulty_bundle(faulty_root: Path) -> Bundle:
    """That bundle, verified and read."""
    (path,) = (p for p in (faulty_root / "bundles").iterdir() if (p / "manifest.json").is_file())
    return load_bundle(path)


@pytest.fixture(scope="session")
def halved_root(bundle_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the bundle that holds a graph in fp16, and what the command that made it printed."""

    def make(root: Path) -> None:
        environ = clean_environ(**SESSION_BUNDLE, bundle_dir=str(bundle_root))
        arguments = command("halve", "--out", str(root / "fp16"))
        done = subprocess.run(arguments, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        (root / "printed.txt").write_text(done.stdout)

    return made_once(tmp_path_factory, "halved", make)


@pytest.fixture(scope="session")
def halved(halved_root: Path) -> Bundle:
    """That bundle, verified and read."""
    return load_bundle(halved_root / "fp16")


@contextmanager
def running_server(bundle_root: Path, *, cwd: Path = ROOT, **settings: str) -> Iterator[RunningServer]:
    """A real uvicorn on an ephemeral port of the loopback interface, in a process of its own."""
    environ = clean_environ(**SESSION_BUNDLE, bundle_dir=str(bundle_root), port="0", **settings)
    process = subprocess.Popen(command("serve"), cwd=cwd, env=environ, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        banner = ""
        for line in process.stdout:
            banner += line
            if "curl" in line:
                break
        url = next(word for word in banner.split() if word.startswith("http://")).rstrip("/")
        yield RunningServer(url, process.pid, banner)
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.fixture(scope="session")
def server(bundle_root: Path) -> Iterator[RunningServer]:
    """One with the default settings."""
    with running_server(bundle_root) as running:
        yield running


@pytest.fixture(scope="session")
def server_url(server: RunningServer) -> str:
    """Address of the running server, without a trailing slash."""
    return server.url

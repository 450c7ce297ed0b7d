"""What scripts/environment.sh and scripts/run.sh install, and what the lock files bring along. Nothing is installed."""

import re
import shlex
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from importlib.metadata import requires, version
from pathlib import Path

import httpx
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT, SESSION_BUNDLE, clean_environ

INDEX = "https://torch.example/whl/cpu"
#: Stands for the interpreter of a new environment: it notes how it is called, installs nothing and runs all else.
INTERPRETER = """#!/bin/sh
if [ "$1" = --version ]; then echo "Python ${{ITS_VERSION:-3.11}}"; exit; fi
if [ "$1" = -c ]; then exit "${{IS_OLD:-0}}"; fi
echo "$@" >>{calls}
if [ "$2" = pip ]; then exit "${{PIP_STATUS:-0}}"; fi
if [ "$2" = playwright ]; then exit "${{PLAYWRIGHT_STATUS:-0}}"; fi
exec {python} "$@"
"""
PREPARING = {"torch", "torchvision", "ultralytics", "ultralytics-opencv-headless", "onnx"}


class Environment:
    """A virtual environment in which pip only notes what it is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._calls = folder / "venv", folder / "calls.txt"
        python = self.folder / "bin/python"
        python.parent.mkdir(parents=True)
        python.write_text(INTERPRETER.format(calls=shlex.quote(str(self._calls)), python=shlex.quote(sys.executable)))
        python.chmod(0o755)

    def variables(self, **variables: str) -> dict[str, str]:
        kept = {k: v for k, v in clean_environ().items() if k not in ("TORCH_INDEX_URL", "REQUIRE_BROWSER")}
        return kept | {"VENV": str(self.folder)} | variables

    def need(self, name: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Source the script as the others do and ask it for an environment."""
        return self._source(f"need_environment {name}", variables)

    def need_browser(self, *, apt: int, **variables: str) -> subprocess.CompletedProcess[str]:
        """Ask it for a browser, as root on a machine without one whose apt-get ends with this status."""
        programs = self.folder.parent / "programs"
        programs.mkdir(exist_ok=True)
        for name in ("bash", "dirname"):
            (programs / name).unlink(missing_ok=True)
            (programs / name).symlink_to(shutil.which(name))
        for name, script in (("id", "echo 0"), ("apt-get", f'echo "apt-get $@" >>{self._calls}; exit {apt}')):
            (programs / name).write_text(f"#!{shutil.which('sh')}\n{script}\n")
            (programs / name).chmod(0o755)
        return self._source("need_browser; echo on", variables | {"PATH": str(programs)})

    def _source(self, script: str, variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
        command = ["bash", "-c", f". scripts/environment.sh; {script}"]
        environ = self.variables(**variables)
        return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True)

    def calls(self) -> list[str]:
        """How the interpreter was called since this was last asked; whether pip is there is left out."""
        lines = self._calls.read_text().splitlines() if self._calls.exists() else []
        self._calls.unlink(missing_ok=True)
        return [line for line in lines if line != "-m pip --version"]


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    return Environment(tmp_path)


def pins(name: str) -> dict[str, str]:
    """Exact versions in a lock file by normalised name."""
    lines = (ROOT / f"requirements/{name}.txt").read_text().split()
    assert all(re.fullmatch(r"[\w.-]+==[\w.!-]+", line) for line in lines)
    return {canonicalize_name(name): exact for name, exact in (line.split("==") for line in lines)}


def closure(wanted: list[Requirement]) -> dict[str, list[Requirement]]:
    """All that ``wanted`` bring along, by the metadata of what is installed here, and who asks for it how."""
    found: dict[str, list[Requirement]] = {}
    while wanted:
        requirement = wanted.pop()
        name = canonicalize_name(requirement.name)
        found.setdefault(name, []).append(requirement)
        if len(found[name]) > 1 and not requirement.extras:
            continue
        for line in requires(name) or []:
            more = Requirement(line)
            if any(more.marker is None or more.marker.evaluate({"extra": e}) for e in ("", *requirement.extras)):
                wanted.append(more)
    return found


def declared(extra: str | None = None) -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = project["dependencies"] if extra is None else project["optional-dependencies"][extra]
    return [Requirement(line) for line in lines]


def test_installing_what_serves_never_brings_torch() -> None:
    needed, locked = closure(declared()), pins("serve")
    assert PREPARING.isdisjoint(needed) and PREPARING.isdisjoint(locked)
    assert set(needed) == set(locked)
    for name, requirements in needed.items():
        assert version(name) == locked[name], f"{name}: the tests run another version than is locked"
        assert all(requirement.specifier.contains(locked[name]) for requirement in requirements), name
    assert {"torch", "ultralytics-opencv-headless"} <= set(closure(declared("prepare")))


def test_what_prepares_is_installed_on_top_of_what_serves() -> None:
    serve, prepare, dev = pins("serve"), pins("prepare"), pins("dev")
    assert prepare.items() >= serve.items() and prepare.keys() >= PREPARING - {"ultralytics"}
    assert dev.items() >= prepare.items()


def test_torch_comes_from_the_index_given_and_nothing_else_does(environment: Environment) -> None:
    locked = pins("prepare")
    torch_first = [
        f"-m pip install -q --index-url {INDEX} torch=={locked['torch']} torchvision=={locked['torchvision']}",
        "-m pip install -q -r requirements/prepare.txt",
    ]
    assert environment.need("prepare", TORCH_INDEX_URL=INDEX).returncode == 0
    assert environment.calls() == torch_first
    assert environment.need("dev", TORCH_INDEX_URL=INDEX).returncode == 0
    assert environment.calls() == [torch_first[0], "-m pip install -q -r requirements/dev.txt"]
    for name in ("serve", "serve-openvino"):
        assert environment.need(name, TORCH_INDEX_URL=INDEX).returncode == 0
        assert environment.calls() == [f"-m pip install -q -r requirements/{name}.txt"]


def test_without_an_index_everything_comes_from_where_pip_looks_by_itself(environment: Environment) -> None:
    assert environment.need("prepare").returncode == 0
    assert environment.calls() == ["-m pip install -q -r requirements/prepare.txt"]


def test_an_installation_that_failed_is_tried_again_and_one_that_succeeded_is_not(environment: Environment) -> None:
    assert environment.need("serve", PIP_STATUS="1").returncode != 0
    environment.calls()
    assert environment.need("serve").returncode == 0
    assert environment.calls() == ["-m pip install -q -r requirements/serve.txt"]
    assert environment.need("serve").returncode == 0
    assert environment.calls() == []
    stamp = environment.folder / ".installed-serve"
    stamp.write_text("of other lock files")
    assert environment.need("serve").returncode == 0
    assert environment.calls() == ["-m pip install -q -r requirements/serve.txt"]


def test_another_python_than_it_was_made_with_has_it_installed_anew(environment: Environment) -> None:
    assert environment.need("serve").returncode == 0
    environment.calls()
    assert environment.need("serve", ITS_VERSION="3.12").returncode == 0
    assert environment.calls() == ["-m pip install -q -r requirements/serve.txt"]


def test_an_environment_of_too_old_a_python_is_named(environment: Environment) -> None:
    done = environment.need("serve", ITS_VERSION="3.9.2", IS_OLD="1")
    assert done.returncode == 1 and environment.calls() == []
    assert f"{environment.folder} holds Python 3.9.2, but 3.11 or newer is needed." in done.stderr


@pytest.mark.parametrize("named", ["mine.pt", "./mine.pt"])
def test_weights_are_seen_from_the_folder_it_is_called_in(environment: Environment, tmp_path: Path, named: str) -> None:
    (tmp_path / "mine.pt").touch()
    environ = environment.variables(YOLOFOLD_WEIGHTS=named, YOLOFOLD_BUNDLE_DIR=str(tmp_path / "bundles"))
    done = subprocess.run([ROOT / "scripts/run.sh"], cwd=tmp_path, env=environ, capture_output=True, text=True)
    assert done.returncode == 1
    assert "mine.pt is no Ultralytics checkpoint that can be loaded safely: it is empty" in done.stderr


APT = ["apt-get update -qq", "apt-get install -yqq --no-install-recommends chromium"]
DOWNLOAD = "-m playwright install chromium"


def test_a_browser_comes_from_the_system_or_else_from_playwright(environment: Environment) -> None:
    done = environment.need_browser(apt=0)
    assert (done.returncode, done.stdout, done.stderr) == (0, "on\n", "")
    assert environment.calls() == APT
    done = environment.need_browser(apt=100)
    assert (done.returncode, done.stdout, done.stderr) == (0, "on\n", "")
    assert environment.calls() == [APT[0], DOWNLOAD]


def test_without_a_browser_the_tests_go_on_unless_one_is_required(environment: Environment) -> None:
    done = environment.need_browser(apt=100, PLAYWRIGHT_STATUS="1")
    assert (done.returncode, done.stdout) == (0, "on\n")
    assert "THE TESTS OF THE PAGE WILL BE SKIPPED" in done.stderr
    assert environment.calls() == [APT[0], DOWNLOAD]
    done = environment.need_browser(apt=100, PLAYWRIGHT_STATUS="1", REQUIRE_BROWSER="1")
    assert (done.returncode, done.stdout) == (1, "")
    assert "REQUIRE_BROWSER is set" in done.stderr


def start_and_ask(environ: dict[str, str]) -> float:
    """``scripts/run.sh`` until it is ready, then ended; seconds that took."""
    begun = time.monotonic()
    process = subprocess.Popen([ROOT / "scripts/run.sh"], env=environ, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        banner = ""
        for line in process.stdout:
            banner += line
            if "curl" in line:
                break
        url = re.search(r"http://[\d.:]+", banner).group(0)
        assert httpx.get(f"{url}/readyz").status_code == 200
        return time.monotonic() - begun
    finally:
        process.terminate()
        process.wait(timeout=30)


def test_the_second_start_installs_and_prepares_nothing(
    environment: Environment, bundle_root: Path, record_property: Callable
) -> None:
    settings = clean_environ(**SESSION_BUNDLE, bundle_dir=str(bundle_root), port="0")
    environ = environment.variables(**{k: v for k, v in settings.items() if k.startswith("YOLOFOLD_")})
    record_property("first_start_ready_s", round(start_and_ask(environ), 2))
    serving = ["-m service bundle", "-m service serve"]
    assert environment.calls() == ["-m pip install -q -r requirements/serve.txt", *serving]
    record_property("second_start_ready_s", round(start_and_ask(environ), 2))
    assert environment.calls() == serving

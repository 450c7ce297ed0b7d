"""What becomes of the tests of the page where there is no browser."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

USE = """
from tests.web.conftest import browser

def test_that_needs_one(browser):
    pass

def test_that_needs_none():
    pass
"""


@pytest.fixture
def without_browser(tmp_path: Path) -> dict[str, str]:
    """An environment in which neither the system nor Playwright has one."""
    kept = {name: value for name, value in os.environ.items() if name != "REQUIRE_BROWSER"}
    return kept | {"PATH": str(tmp_path), "PLAYWRIGHT_BROWSERS_PATH": str(tmp_path), "PYTHONPATH": str(ROOT)}


def test_they_are_skipped_and_the_reason_is_printed(tmp_path: Path, without_browser: dict[str, str]) -> None:
    done = run_tests(tmp_path, without_browser)
    assert done.returncode == 0, done.stdout
    assert "SKIPPED [1]" in done.stdout and "No browser can be started: " in done.stdout
    assert "1 passed, 1 skipped" in done.stdout


def test_continuous_integration_insists_on_one(tmp_path: Path, without_browser: dict[str, str]) -> None:
    assert "REQUIRE_BROWSER=1" in (ROOT / ".ci/run").read_text()
    done = run_tests(tmp_path, without_browser | {"REQUIRE_BROWSER": "1"})
    assert done.returncode == 1 and "1 passed, 1 error" in done.stdout, done.stdout
    assert "ERROR test_use.py::test_that_needs_one" in done.stdout  # failures are listed at the end as well


def run_tests(folder: Path, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """pytest as this project configures it, with its two tests in a process of their own."""
    (folder / "test_use.py").write_text(USE)
    # Quiet by default, it would not print the counts.
    command = [sys.executable, "-m", "pytest", "-v", "-c", ROOT / "pyproject.toml", "-p", "no:cacheprovider"]
    return subprocess.run(
        [*command, "--rootdir", folder, folder / "test_use.py"],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        timeout=120,
    )

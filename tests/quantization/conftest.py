"""Drawn pictures, and a bundle quantized on them by the command itself."""

import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest

from service.bundle.store import Bundle, load_bundle
from service.machine import has_int8_dot_products
from tests.conftest import ROOT, SESSION_BUNDLE, clean_environ, command, made_once

CALIBRATION = 16
#: Labels and shelves of about four codes each, so that 32 of them hold the hundred boxes that a gate asks for.
PICTURES = CALIBRATION + 32
#: No data set and no sample is drawn with it.
SEED = 80_000


def draw_pictures(folder: Path) -> None:
    from scripts.embedded_model.samples import parcel, shelf  # fonts and symbologies, hence only where needed

    for number in range(PICTURES):
        image = (parcel, shelf)[number % 2](np.random.default_rng([SEED, number]))
        assert cv2.imwrite(str(folder / f"{number:03d}.jpg"), image)


def run_quantize(bundle_root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command on the prepared bundle."""
    environ = clean_environ(**SESSION_BUNDLE, bundle_dir=str(bundle_root))
    return subprocess.run(
        command("quantize", *arguments), cwd=ROOT, env=environ, capture_output=True, text=True, timeout=600
    )


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures on which the embedded network is sure of itself."""
    return made_once(tmp_path_factory, "drawn", draw_pictures)


@pytest.fixture(scope="session")
def quantized_root(bundle_root: Path, drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the quantized bundle and what the command printed."""
    if not has_int8_dot_products():
        pytest.skip("without VNNI the gate refuses int8 on these pictures: held to AVX2 it repeated 115 of 125 boxes")

    def make(root: Path) -> None:
        done = run_quantize(
            bundle_root, "--data", str(drawn), "--calibration", str(CALIBRATION), "--out", str(root / "int8")
        )
        assert done.returncode == 0, done.stderr
        (root / "printed.txt").write_text(done.stdout)

    return made_once(tmp_path_factory, "quantized", make)


@pytest.fixture(scope="session")
def quantized(quantized_root: Path) -> Bundle:
    """The quantized bundle, verified and read."""
    return load_bundle(quantized_root / "int8")


@pytest.fixture
def spoilable(quantized: Bundle, tmp_path: Path) -> Path:
    """A copy of it to spoil."""
    return Path(shutil.copytree(quantized.path, tmp_path / "bundle"))

"""A library that only tells TensorRT's release, compiled, where the package of TensorRT's libraries would lie."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, clean_environ

RELEASE = 101601

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")


def run_with_tensorrt(folder: Path, program: str) -> str:
    """What a Python program prints in a process that finds the library, which is made in ``folder``."""
    package = folder / "tensorrt_libs"
    package.mkdir()
    (package / "__init__.py").touch()
    source = folder / "nvinfer.c"
    source.write_text(f"int getInferLibVersion(void) {{ return {RELEASE}; }}\n")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(package / "libnvinfer.so.10"), str(source)], check=True)
    environ = clean_environ() | {"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout

"""A network with random weights, as Ultralytics builds it, goes the whole way: prepared by the command, then served."""

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from ultralytics.nn.tasks import DetectionModel

from service.api.app import create_app
from service.bundle.store import Bundle, load_bundle
from service.errors import SelfCheckFailed
from service.inference.onnxruntime_engine import OnnxRuntimeEngine
from service.inference.openvino_engine import OpenVinoEngine
from service.inference.self_check import check_engine
from service.settings import load_settings
from tests.conftest import ROOT, clean_environ, command, made_once
from tests.inference.altered_engine import AlteredEngine


@dataclass(frozen=True)
class Prepared:
    """What the command printed, and the bundle it wrote."""

    printed: str
    root: Path
    bundle: Bundle


def _prepare(root: Path) -> None:
    torch.manual_seed(0)
    network = DetectionModel("yolov6n.yaml", nc=2, verbose=False)
    torch.save({"model": network, "ema": None, "train_args": {"imgsz": 320}, "epoch": -1}, root / "plain net.pt")
    done = subprocess.run(
        command("prepare", "--weights", str(root / "plain net.pt"), "--imgsz", "128", "--latency-rounds", "12"),
        cwd=ROOT,
        env=clean_environ(bundle_dir=str(root / "its bundles")),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    (root / "printed.txt").write_text(done.stderr)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    root = made_once(tmp_path_factory, "untrained", _prepare)
    (path,) = (p for p in (root / "its bundles").iterdir() if (p / "manifest.json").is_file())
    return Prepared((root / "printed.txt").read_text(), root, load_bundle(path))


def test_prepare_says_what_the_start_up_check_compares(prepared: Prepared) -> None:
    assert "Self-check compares the highest confidence only" in prepared.printed
    assert prepared.bundle.self_check.rows == 0


def test_the_command_it_names_works_as_printed(prepared: Prepared, tmp_path: Path) -> None:
    named = re.search(r"`(python -m service bn-stats .*)` says what", prepared.printed)
    assert named is not None
    program, *arguments = shlex.split(named[1])
    assert program == "python"
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=clean_environ(weights="embedded", imgsz="640", bundle_dir=str(tmp_path)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "model.0.bn" in done.stdout


def test_prepare_says_that_it_was_trained_at_another_size(prepared: Prepared) -> None:
    (line,) = (line for line in prepared.printed.splitlines() if line.startswith("Size "))
    assert line.split(maxsplit=1)[1] == (
        "trained at 320 px, served at 128 px; `--imgsz 320` (YOLOFOLD_IMGSZ=320) serves it as it was trained"
    )


@pytest.mark.parametrize(
    "engine", [lambda graph: OnnxRuntimeEngine(graph, "cpu", 1), lambda graph: OpenVinoEngine(graph, "fp32", 1, 1)]
)
def test_both_runtimes_pass_the_start_up_check(engine: Callable, prepared: Prepared) -> None:
    checked = check_engine(prepared.bundle, engine(prepared.bundle.deployed_graph))
    assert (checked.rows, checked.matched, checked.extra) == (0, 0, 0)
    assert checked.difference.score < checked.tolerance.score < 1e-3


@pytest.mark.parametrize(
    "change",
    [lambda rows: rows * 0, lambda rows: rows * np.nan, lambda rows: rows * 1.001, lambda rows: rows[:, ::-1, ::-1]],
)
def test_an_engine_of_another_confidence_does_not(change: Callable, prepared: Prepared) -> None:
    with pytest.raises(SelfCheckFailed, match=r"the highest confidence in .*\.jpg is \S+ off"):
        check_engine(prepared.bundle, AlteredEngine(prepared.bundle, change, "fp32"))


def test_it_is_served(prepared: Prepared, samples: list[Path]) -> None:
    with TestClient(create_app(load_settings({}), prepared.bundle)) as client:
        started = client.get("/model/fold").json()["startup_check"]
        assert started["boxes"] == 0
        assert started["highest_confidence"] == prepared.bundle.self_check.highest_confidence > 0
        answer = client.post("/detect?conf=0", content=samples[0].read_bytes(), headers={"Content-Type": "image/jpeg"})
        assert answer.status_code == 200 and answer.json()["detections"]

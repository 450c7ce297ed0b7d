"""The command as a user runs it: a bundle beside the served one, what it holds, and that nothing else changed."""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from onnxruntime import get_available_providers

from service.api.app import create_app
from service.bundle.store import Bundle, bundle_names, load_bundle, sha256_file
from service.errors import (
    BundleDirUnusable,
    BundleNameRefused,
    EngineError,
    RecalibrationError,
    SettingsError,
    WeightsHashMismatch,
)
from service.inference.detector import Detector, Selection
from service.inference.onnxruntime_engine import OnnxRuntimeEngine
from service.prepare.checkpoint import load_model
from service.recalibration.pictures import open_pictures
from service.recalibration.recalibrate import Request, recalibrate
from service.recalibration.report import Engine
from service.settings import Settings, load_settings
from tests.bundles import rehash
from tests.conftest import ROOT, clean_environ, command

IMGSZ, PICTURES, PRIOR = 320, 24, 4.0
MAX_PIXELS = 50_000_000


@dataclass(frozen=True)
class Run:
    """One recalibration by the command."""

    root: Path
    served: Path
    served_before: dict[str, str]
    new: Bundle
    report: dict[str, Any]
    printed: str


def fingerprints(folder: Path) -> dict[str, str]:
    return {path.name: sha256_file(path) for path in folder.iterdir()}


@pytest.fixture(scope="module")
def data(samples: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The samples, dimmed and cut, and a file that is no picture."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    whole = [cv2.imread(str(path)) for path in samples]
    for number in range(PICTURES):
        image = whole[number % len(whole)]
        top, left = rng.integers(0, image.shape[0] // 5), rng.integers(0, image.shape[1] // 5)
        cv2.imwrite(str(folder / f"{number:02d}.png"), (image[top:, left:] * rng.uniform(0.3, 0.8)).astype(np.uint8))
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0nothing")
    return folder


@pytest.fixture(scope="module")
def run(data: Path, embedded_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A copy of the embedded network prepared and recalibrated, both by command."""
    root = tmp_path_factory.mktemp("recalibration")
    weights = Path(shutil.copy(embedded_checkpoint, root / "our-own.pt"))
    environ = clean_environ(weights=str(weights), imgsz=str(IMGSZ), bundle_dir=str(root / "bundles"))
    subprocess.run(command("prepare", "--latency-rounds", "12"), cwd=ROOT, env=environ, check=True, timeout=900)
    (served,) = (root / "bundles").iterdir()
    before, file = fingerprints(served), root / "report.json"
    arguments = ("recalibrate", "--data", str(data), "--prior", str(PRIOR), "--hold-back", "0.25", "--json", str(file))
    done = subprocess.run(command(*arguments), cwd=ROOT, env=environ, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    report = json.loads(file.read_text())
    return Run(root, served, before, load_bundle(Path(report["bundle"])), report, done.stdout)


def settings_of(run: Run, **changes: Any) -> Settings:
    given = {"weights": str(run.root / "our-own.pt"), "imgsz": IMGSZ, "bundle_dir": run.root / "bundles"}
    return load_settings({}, **(given | changes))


def test_the_served_bundle_is_untouched_and_still_the_one_that_is_served(run: Run) -> None:
    assert fingerprints(run.served) == run.served_before
    environ = clean_environ(weights=str(run.root / "our-own.pt"), imgsz=str(IMGSZ), bundle_dir=str(run.served.parent))
    done = subprocess.run(command("bundle"), cwd=ROOT, env=environ, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()) == run.served


def test_the_new_bundle_lies_beside_it_and_nothing_else_does(run: Run) -> None:
    assert run.new.path.parent == run.served.parent
    assert run.new.path.name == f"our_own_recalibrated_{run.new.manifest.model.version}"
    assert sorted(path.name for path in run.served.parent.iterdir()) == bundle_names(run.served.parent)
    assert len(bundle_names(run.served.parent)) == 2


def test_it_differs_in_its_statistics_alone(run: Run) -> None:
    served, new = load_bundle(run.served).manifest, run.new.manifest
    for name in ("architecture", "parameters", "classes", "default_confidence", "input", "head"):
        assert getattr(new.model, name) == getattr(served.model, name)
    codes = {verdict["code"]: verdict["message"] for verdict in run.report["batchnorm"]["verdicts"]}
    assert "That is what recalibration does." in codes["affine-frozen"]
    assert {layer["movement"] for layer in run.report["batchnorm"]["layers"]} == {"affine-frozen"}


def test_its_certificate_is_that_of_the_checkpoint_it_holds(run: Run) -> None:
    weights = run.new.manifest.weights
    checkpoint = run.new.path / "our-own-recalibrated.pt"
    assert weights.file == checkpoint.name
    assert weights.sha256 == run.new.certificate.checkpoint_sha256 == sha256_file(checkpoint)
    network = load_model(checkpoint).network
    for layer in run.new.batchnorm.layers:
        stored = run.new.batchnorm_arrays(layer.name, ("running_mean", "running_var"))
        for name, values in stored.items():
            assert np.array_equal(values, getattr(network.get_submodule(layer.name), name).numpy())


def test_the_manifest_says_where_the_statistics_come_from(run: Run, data: Path) -> None:
    said, served = run.new.manifest.recalibration, load_bundle(run.served)
    assert said is not None and served.manifest.recalibration is None
    assert (said.bundle_version, said.checkpoint_file) == (served.manifest.model.version, "our-own.pt")
    assert said.checkpoint_sha256 == served.manifest.weights.sha256 == sha256_file(run.root / "our-own.pt")
    assert (said.pictures, said.prior) == (18, PRIOR)
    assert 0 <= said.residual <= said.tolerance
    divergences = {layer["name"]: layer["divergence_mean"] for layer in run.report["batchnorm"]["layers"]}
    assert {layer.name: layer.divergence_mean for layer in said.layers} == pytest.approx(divergences)
    assert divergences.keys() == {layer.name for layer in served.batchnorm.layers}
    assert all(layer.halves_divergence_mean > 0 for layer in said.layers)
    assert run.report["recalibration"] == said.model_dump()


def test_the_boxes_counted_are_those_the_two_bundles_serve(run: Run, data: Path) -> None:
    report = run.report["boxes"]
    held_back = open_pictures(data, 0.25, MAX_PIXELS, lambda done, total: None).held_back
    assert report["pictures"] == run.report["data"]["held_back"] == len(held_back) == 6
    for side, path in (("before", run.served), ("after", run.new.path)):
        bundle = load_bundle(path)
        detector = Detector(bundle, OnnxRuntimeEngine(bundle.deployed_graph, "cpu", 1), MAX_PIXELS)
        selection = Selection(report["confidence"], 300)
        found = [detector.detect(one.path.read_bytes(), selection).detections for one in held_back]
        assert report["total"][side] == sum(map(len, found)) > 0
        for class_id, one in enumerate(report["classes"]):
            assert one[side] == sum(int((boxes.class_id == class_id).sum()) for boxes in found)


def test_what_is_printed_says_all_of_that(run: Run) -> None:
    assert "18 fitted and 6 held back" in run.printed and "broken.jpg: " in run.printed
    assert "the old statistics count 18.2%" in run.printed
    assert f"YOLOFOLD_BUNDLE_DIR={run.new.path} python -m service serve" in run.printed
    engine = run.report["engines"][0]
    assert run.report["engines"] == [engine, engine]
    assert f"ran on {engine['runtime']} ({engine['provider']}) in {engine['arithmetic']}." in run.printed
    for one in (*run.report["boxes"]["classes"], run.report["boxes"]["total"]):
        assert one["name"] in run.printed


def test_it_can_be_served_and_says_what_it_is(run: Run, data: Path) -> None:
    with TestClient(create_app(load_settings({}), run.new)) as client:
        assert client.get("/readyz").status_code == 200
        answer = client.get("/model").json()
        assert answer["note"] == "Its BatchNorm was recalibrated on 18 unlabelled pictures with a prior of 4."
        picture = (data / "00.png").read_bytes()
        assert client.post("/detect", content=picture, headers={"Content-Type": "image/png"}).status_code == 200


def test_a_recalibrated_bundle_can_be_recalibrated_and_a_huge_prior_leaves_every_box(
    run: Run, data: Path, tmp_path: Path
) -> None:
    """From the checkpoint it holds, into a folder of one's choice, compared on the fitted pictures with the engine that
    the settings ask for."""
    before, out = fingerprints(run.new.path), tmp_path / "chosen"
    request = Request(data, 1e15, 0.0, out, 1, 1)
    report = recalibrate(run.new, request, settings_of(run, weights="not-there.pt", engine="openvino"), Silent())
    used = Engine(runtime=f"OpenVINO {version('openvino')}", provider="CPU", arithmetic="fp32")
    assert report.engines == (used, used)
    assert (report.data.fitted, report.data.held_back, report.boxes.pictures) == (PICTURES, 0, PICTURES)
    total = report.boxes.total
    assert total.before == total.after == total.kept > 0
    assert report.boxes.pictures_changed == 0 and total.mean_confidence_change == 0
    assert [verdict.code for verdict in report.batchnorm.verdicts] == ["identical"]
    assert fingerprints(run.new.path) == before
    assert load_bundle(out).manifest.recalibration.bundle_version == run.new.manifest.model.version


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.trace,)


def test_serving_it_never_opens_the_checkpoint_in_it(run: Run, data: Path, tmp_path: Path) -> None:
    copy, trace = Path(shutil.copytree(run.new.path, tmp_path / "copy")), tmp_path / "trace"
    checkpoint = copy / run.new.manifest.weights.file
    torch.save(Bomb(trace), checkpoint)
    rehash(copy, checkpoint.name)
    with TestClient(create_app(load_settings({}), load_bundle(copy))) as client:
        picture = (data / "00.png").read_bytes()
        for path in ("/detect", "/model/fold/check"):
            assert client.post(path, content=picture, headers={"Content-Type": "image/png"}).status_code == 200
        for path in ("/readyz", "/model", "/model/layers", "/model/bn-stats?detail=full", "/model/fold"):
            assert client.get(path).status_code == 200
        assert not trace.exists()
    torch.load(checkpoint, weights_only=False)
    assert trace.exists()  # or this test would prove nothing


class Silent:
    """Progress that nobody watches."""

    @contextmanager
    def step(self, title: str) -> Iterator[Callable[[int, int], None]]:
        yield lambda done, total: None


def refused(run: Run, request: Request, **settings: Any) -> None:
    everything = {path: fingerprints(path) for path in run.served.parent.iterdir()}
    try:
        recalibrate(load_bundle(run.served), request, settings_of(run, **settings), Silent())
    finally:
        assert {path: fingerprints(path) for path in run.served.parent.iterdir()} == everything


def test_nothing_that_exists_is_replaced(run: Run, data: Path, tmp_path: Path) -> None:
    request = Request(data, 0.0, 0.2, None, 1, 1)
    with pytest.raises(BundleNameRefused, match="exists already"):
        refused(run, replace(request, out=run.new.path))
    with pytest.raises(BundleNameRefused, match="named like a bundle that serving finds"):
        refused(run, replace(request, out=tmp_path / f"{run.served.name[:-12]}0123456789ab"))
    with pytest.raises(BundleDirUnusable, match="is a bundle itself"):
        refused(run, replace(request, out=run.served / "inside"))
    with pytest.raises(BundleDirUnusable, match="lies in the bundle"):
        refused(run, replace(request, out=run.served / "inside" / "deeper" / "still"))
    assert not (run.served / "inside").exists()


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"precision": "bf16"}, SettingsError),
        ({"engine": "openvino", "precision": "int8"}, SettingsError),
        ({"precision": "fp16"}, SettingsError),
        ({"engine": "openvino", "device": "cuda"}, SettingsError),
        pytest.param(
            {"device": "cuda"},
            EngineError,
            marks=pytest.mark.skipif("CUDAExecutionProvider" in get_available_providers(), reason="it is there"),
        ),
    ],
)
def test_an_engine_that_cannot_be_had_is_refused_before_anything_is_done(
    settings: dict[str, str], error: type[Exception], run: Run, data: Path
) -> None:
    with pytest.raises(error, match="YOLOFOLD_"):
        refused(run, Request(data, 0.0, 0.2, None, 1, 1), **settings)


def test_too_few_pictures_are_refused(run: Run, data: Path) -> None:
    with pytest.raises(RecalibrationError, match="leaves 12 pictures"):
        refused(run, Request(data, 0.0, 0.5, None, 1, 1))


def test_weights_that_are_not_the_served_ones_are_refused(run: Run, data: Path, tmp_path: Path) -> None:
    other = Path(shutil.copy(run.new.path / "our-own-recalibrated.pt", tmp_path / "other.pt"))
    with pytest.raises(
        WeightsHashMismatch, match=r"which is needed: .* It was not opened\. .* called our-own\.pt, by --weights"
    ):
        refused(run, Request(data, 0.0, 0.2, None, 1, 1), weights=str(other))


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--prior", "-1"), 2, "prior"),
        (("--prior", "inf"), 1, "--prior inf is not a number of pictures"),
        (("--prior", "nan"), 2, "greater than or equal to 0"),
        (("--prior", "0", "--json", "/no/where/report.json"), 1, "there is no folder"),
        ((), 2, "--prior"),
    ],
)
def test_faults_in_the_arguments_are_said_at_once(
    arguments: tuple[str, ...], code: int, message: str, run: Run, data: Path
) -> None:
    environ = clean_environ(weights=str(run.root / "our-own.pt"), imgsz=str(IMGSZ), bundle_dir=str(run.served.parent))
    done = subprocess.run(
        command("recalibrate", "--data", str(data), *arguments), cwd=ROOT, env=environ, capture_output=True, text=True
    )
    assert done.returncode == code and message in done.stderr and "Traceback" not in done.stderr

"""The command on generated pictures: its figures against Ultralytics' val, and what it sees between two networks."""

import json
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from faster_coco_eval import COCO, COCOeval_faster
from onnx import TensorProto, helper, numpy_helper
from ultralytics import YOLO

from scripts.embedded_model.dataset import write_dataset
from service.bundle.manifest import BundleManifest
from service.bundle.store import DEPLOYED, MANIFEST, REFERENCE, Bundle, fingerprint_files, write_json
from service.evaluation.layouts import open_data_set
from service.inference.detections import Detections
from service.inference.detector import Detector, Selection
from service.inference.onnxruntime_engine import OnnxRuntimeEngine, UnfoldedEngine
from tests.conftest import IMGSZ, ROOT, SESSION_BUNDLE, clean_environ, command
from tests.evaluation.invented import as_coco

PICTURES = 30
MAX_PIXELS = 50_000_000
#: What makes Ultralytics use the head, the input and the processor that the bundle uses.
ULTRALYTICS: dict[str, Any] = {"imgsz": IMGSZ, "rect": False, "nms": False, "device": "cpu", "verbose": False}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generated pictures, some without objects, as the training command writes them."""
    folder = tmp_path_factory.mktemp("data")
    write_dataset(folder, 77, {"train": 0, "val": 0, "test": PICTURES}, 1)
    return folder


def run(data: Path, bundle_dir: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    environ = clean_environ(**SESSION_BUNDLE, bundle_dir=str(bundle_dir), **settings)
    return subprocess.run(
        command("evaluate", "--data", str(data), *arguments),
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.fixture(scope="module")
def evaluated(data: Path, bundle_root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """The report of the embedded model and its unfolded graph, and what was printed."""
    file = tmp_path_factory.mktemp("report") / "report.json"
    done = run(data, bundle_root, "--against", "unfolded", "--conf", "0.1", "--json", str(file))
    assert done.returncode == 0, done.stderr
    return json.loads(file.read_text()), done.stdout


def test_the_figures_are_near_those_of_ultralytics_val(
    evaluated: tuple, data: Path, embedded_checkpoint: Path, tmp_path: Path
) -> None:
    """Near only: Ultralytics gives an object to the box that overlaps it most, COCO to the most confident one; it
    integrates precision over recall where COCO averages it; and its val resizes in another way than its predict."""
    expected = YOLO(embedded_checkpoint).val(
        data=str(data / "data.yaml"),
        split="test",
        conf=1e-6,
        batch=1,
        workers=0,
        plots=False,
        project=str(tmp_path),
        **ULTRALYTICS,
    )
    whole = evaluated[0]["figures"]["sizes"]["all"]
    assert whole["ap50_95"] == pytest.approx(expected.box.map, abs=0.04)
    assert whole["ap50"] == pytest.approx(expected.box.map50, abs=0.03)
    assert whole["ap50"] > 0.2


def test_the_figures_are_those_of_ultralytics_boxes_by_cocos_rules(
    evaluated: tuple, data: Path, bundle: Bundle, embedded_checkpoint: Path
) -> None:
    """Two implementations of the way from file to boxes, two of COCO's rules; rounding may turn a rank or two."""
    read = open_data_set(data, "test", bundle.manifest.model.classes, MAX_PIXELS)
    model = YOLO(embedded_checkpoint)
    found = [boxes_of(model.predict(p.path, conf=1e-6, max_det=300, **ULTRALYTICS)[0]) for p in read.pictures]
    document, results = as_coco(read.pictures, found, len(bundle.manifest.model.classes))
    coco = COCO(document)
    evaluator = COCOeval_faster(coco, coco.loadRes(results), "bbox")
    evaluator.params.maxDets = [300]
    evaluator.evaluate()
    evaluator.accumulate()
    precision = evaluator.eval["precision"][..., 0]  # (T, 101, classes, sizes)
    figures = evaluated[0]["figures"]
    for number, size in enumerate(("all", "small", "medium", "large")):
        of_size = precision[:, :, :, number]
        known = of_size[of_size > -1]
        expected = pytest.approx(known.mean(), abs=0.002) if len(known) else None  # no code of that size was drawn
        assert figures["sizes"][size]["ap50_95"] == expected
    assert figures["sizes"]["all"]["ap50_95"] is not None
    for class_id, one in enumerate(figures["classes"]):
        assert one["sizes"]["all"]["ap50_95"] == pytest.approx(precision[:, :, class_id, 0].mean(), abs=0.002)


def boxes_of(result: Any) -> Detections:
    """One of Ultralytics' results."""
    boxes = result.boxes
    return Detections(boxes.xyxy.numpy(), boxes.conf.numpy(), boxes.cls.numpy().astype(np.int64))


def test_counts_above_a_confidence_are_those_of_the_service(evaluated: tuple, data: Path, bundle: Bundle) -> None:
    """right + wrong is the number of boxes the service answers at that confidence."""
    report, _ = evaluated
    detector = Detector(bundle, OnnxRuntimeEngine(bundle.deployed_graph, "cpu", 1), MAX_PIXELS)
    points = report["figures"]["points"]
    assert points["default"]["confidence"] == bundle.manifest.model.default_confidence
    assert points["requested"]["confidence"] == 0.1
    for name in ("default", "requested", "best_f1", "lenient"):
        point = points[name]
        found = [
            len(detector.detect(p.read_bytes(), Selection(point["confidence"], 300)).detections)
            for p in sorted((data / "images/test").iterdir())
        ]
        assert point["right"] + point["wrong"] == sum(found)
        assert point["right"] + point["missed"] == report["data"]["objects"]
        empty = [n for n, p in zip(found, sorted((data / "labels/test").iterdir()), strict=True) if not p.read_text()]
        assert report["data"]["pictures_without_objects"] == len(empty) > 0
        assert point["false_boxes_per_empty_picture"] == pytest.approx(sum(empty) / len(empty))
        alarms = report["figures"]["false_alarms"].get(name)
        if alarms:
            assert (alarms["boxes"], alarms["share_of_pictures"]["estimate"]) == (
                sum(empty),
                pytest.approx(sum(n > 0 for n in empty) / len(empty)),
            )
    assert report["figures"]["absent"] is None
    assert points["best_f1"]["f1"] >= max(points["default"]["f1"], points["requested"]["f1"])


def test_folding_changes_nothing(evaluated: tuple) -> None:
    comparison = evaluated[0]["comparison"]
    assert comparison["differences"] == [{"what": "folding", "first": "folded", "second": "unfolded"}]
    assert "the two sides differ in folding alone" in evaluated[1]
    assert comparison["other"]["network"]["graph"] == "unfolded"
    for figure in ("map50_95", "map50"):
        # Rounding turns the order of two boxes at most.
        assert max(abs(comparison[figure][end]) for end in ("estimate", "low", "high")) < 1e-3
    boxes = comparison["boxes"]
    assert boxes["unpaired"] == [0, 0] and boxes["boxes"][0] > 20
    assert 0 < boxes["largest_confidence_difference"] < 1e-3
    assert 0 < boxes["largest_corner_difference_px"] < 0.05


def test_it_runs_the_engine_that_would_serve(evaluated: tuple, data: Path, bundle_root: Path, tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    done = run(data, bundle_root, "--against", "unfolded", "--json", str(file), engine="openvino")
    assert done.returncode == 0, done.stderr
    report = json.loads(file.read_text())
    network, sizes = (report["figures"][part] for part in ("network", "sizes"))
    used = (f"OpenVINO {version('openvino')}", "CPU", "fp32")
    assert (network["runtime"], network["provider"], network["arithmetic"]) == used
    assert f"on {used[0]} (CPU) in fp32" in done.stdout
    default = evaluated[0]["figures"]
    assert default["network"]["runtime"].startswith("ONNX Runtime")
    for figure in ("ap50_95", "ap50"):
        assert sizes["all"][figure] == pytest.approx(default["sizes"]["all"][figure], abs=0.002)
    # Only ONNX Runtime can keep BatchNorm unfolded: the runtimes differ too, and the verdict says so.
    differences = {one["what"]: [one["first"], one["second"]] for one in report["comparison"]["differences"]}
    unfolded = report["comparison"]["other"]["network"]
    assert unfolded["runtime"] == default["network"]["runtime"]
    assert differences == {
        "folding": ["folded", "unfolded"],
        "runtime": [used[0], unfolded["runtime"]],
        "provider": ["CPU", unfolded["provider"]],
    }
    (verdict,) = (line for line in done.stdout.splitlines() if line.startswith("Interval "))
    assert "the two sides differ in more than folding: runtime" in verdict and unfolded["runtime"] in verdict
    refused = run(data, bundle_root, precision="bf16")
    assert refused.returncode == 1 and "SettingsError: YOLOFOLD_PRECISION=bf16" in refused.stderr


def test_the_table_shows_what_the_file_holds(evaluated: tuple, bundle: Bundle) -> None:
    report, printed = evaluated
    whole, points = report["figures"]["sizes"]["all"], report["figures"]["points"]
    for value in (whole["ap50_95"], whole["ap50"], points["default"]["precision"], points["best_f1"]["recall"]):
        assert f"{value:.3f}" in printed
    for name in (*bundle.manifest.model.classes, "small", "medium", "large", "--conf", "BatchNorm not folded"):
        assert name in printed
    assert f"{PICTURES} pictures" in printed
    network = report["comparison"]["other"]["network"]
    assert f"Against    {network['name']} {network['version']}, BatchNorm not folded on {network['runtime']}" in printed


def test_the_unfolded_graph_is_really_run_unfolded(bundle: Bundle) -> None:
    engine = UnfoldedEngine(bundle.reference_graph, "cpu", 1)
    assert engine.batch_normalizations == bundle.manifest.reference.batch_normalization_nodes > 50
    assert UnfoldedEngine(bundle.deployed_graph, "cpu", 1).batch_normalizations == 0


def plant_shift(bundle: Bundle, folder: Path, pixels: float) -> Path:
    """A copy of the bundle whose graph moves every box right and down."""
    copy = Path(shutil.copytree(bundle.path, folder / "shifted"))
    for file in (REFERENCE, DEPLOYED):  # a graph that is no fold of the other would not be evaluated
        model = onnx.load(copy / file)
        (output,) = model.graph.output
        inner = f"{output.name}_before"
        for node in model.graph.node:
            node.output[:] = [inner if name == output.name else name for name in node.output]
        shift = numpy_helper.from_array(np.array([pixels] * 4 + [0, 0], np.float32), "shift")
        assert shift.data_type == TensorProto.FLOAT
        model.graph.initializer.append(shift)
        model.graph.node.append(helper.make_node("Add", [inner, "shift"], [output.name]))
        onnx.save(model, copy / file)
    manifest = BundleManifest.model_validate_json((copy / MANIFEST).read_bytes())
    (copy / MANIFEST).unlink()
    write_json(copy / MANIFEST, manifest.model_copy(update={"files": fingerprint_files(copy)}))
    return copy


def test_a_worse_bundle_is_seen_to_be_worse(data: Path, bundle: Bundle, bundle_root: Path, tmp_path: Path) -> None:
    shifted = plant_shift(bundle, tmp_path, 6)
    file = tmp_path / "report.json"
    done = run(data, bundle_root, "--against", str(shifted), "--json", str(file))
    assert done.returncode == 0, done.stderr
    comparison = json.loads(file.read_text())["comparison"]
    assert comparison["map50_95"]["estimate"] > comparison["map50_95"]["low"] > 0
    assert comparison["boxes"]["largest_corner_difference_px"] > 3
    assert "mAP50-95 differs" in done.stdout
    assert "the two sides differ in nothing that their bundles or runtimes tell" in done.stdout


def test_another_bundle_must_have_the_same_classes_and_be_another(
    data: Path, bundle: Bundle, bundle_root: Path, tmp_path: Path
) -> None:
    done = run(data, bundle_root, "--against", str(bundle.path))
    assert done.returncode == 1 and "is the bundle that is evaluated" in done.stderr
    done = run(data, bundle_root, "--against", "embedded")
    assert done.returncode == 1 and "is the bundle that is evaluated" in done.stderr
    done = run(data, bundle_root, "--against", "yolo26s.pt")
    assert done.returncode == 3 and "neither a bundle's folder nor weights" in done.stderr
    copy = Path(shutil.copytree(bundle.path, tmp_path / "renamed"))
    manifest = BundleManifest.model_validate_json((copy / MANIFEST).read_bytes())
    classes = [*manifest.model.classes[:-1], "other"]
    model = manifest.model.model_copy(update={"classes": classes})
    write_json(copy / MANIFEST, manifest.model_copy(update={"model": model}))
    done = run(data, bundle_root, "--against", str(copy))
    assert done.returncode == 1 and "ClassMismatch" in done.stderr
    assert f"first at id {len(classes) - 1}" in done.stderr and "'other'" in done.stderr


def test_faults_are_one_line_and_found_before_the_network_runs(data: Path, bundle_root: Path, tmp_path: Path) -> None:
    done = run(tmp_path / "nowhere", bundle_root)
    assert done.returncode == 1 and "DataSetError" in done.stderr and "Traceback" not in done.stderr
    done = run(data, bundle_root, "--json", str(tmp_path / "no" / "report.json"))
    assert done.returncode == 1 and "there is no folder" in done.stderr
    done = run(data, bundle_root, "--conf", "1.5")
    assert done.returncode == 2
    done = run(data, tmp_path)
    assert done.returncode == 3 and "BundleMissing" in done.stderr
    copy = Path(shutil.copytree(data, tmp_path / "copy"))
    (copy / "data.yaml").unlink()
    picture = sorted((copy / "images/test").iterdir())[-1]
    picture.write_bytes(picture.read_bytes()[:400])
    done = run(copy, bundle_root)
    assert done.returncode == 1 and picture.name in done.stderr and "Boxes of" not in done.stderr


@pytest.mark.parametrize(("module", "package"), [("pycocotools", "pycocotools"), ("yaml", "PyYAML")])
def test_a_missing_evaluator_is_said_with_the_command_that_installs_it(
    module: str, package: str, data: Path, bundle_root: Path
) -> None:
    program = f"import sys; sys.modules[{module!r}] = None; from service.cli import main; main()"
    environ = clean_environ(**SESSION_BUNDLE, bundle_dir=str(bundle_root))
    arguments = [sys.executable, "-c", program, "evaluate", "--data", str(data)]
    done = subprocess.run(arguments, cwd=ROOT, env=environ, capture_output=True, text=True)
    assert done.returncode == 1 and "EvaluatorMissing" in done.stderr and package in done.stderr
    assert "python -m pip install pycocotools PyYAML" in done.stderr

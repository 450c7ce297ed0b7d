"""Boxes where there is nothing: counts, intervals, and the command on a folder of pictures without codes."""

import json
import math
import shutil
import subprocess
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from scripts.embedded_model.textures.backdrops import lookalike
from service.bundle.store import Bundle
from service.evaluation.false_alarms import EmptyPicture, count_alarms, mean_interval, wilson_interval
from service.inference.detections import Detections
from service.inference.detector import Detector, Selection
from service.inference.onnxruntime_engine import OnnxRuntimeEngine
from tests.conftest import ROOT, SESSION_BUNDLE, clean_environ, command

PICTURES = 12
Z = 1.959963984540054


@pytest.mark.parametrize(("hits", "trials"), [(0, 1), (0, 20), (1, 20), (7, 20), (20, 20), (1, 1), (300, 5000)])
def test_wilsons_ends_lie_within_their_own_standard_errors(hits: int, trials: int) -> None:
    """The definition itself: both ends p solve |share - p| = z sqrt(p (1 - p) / trials)."""
    share, found = hits / trials, wilson_interval(hits, trials)
    assert 0 <= found.low <= share <= found.high <= 1 and found.low < found.high
    for end in (found.low, found.high):
        assert abs(share - end) == pytest.approx(Z * math.sqrt(end * (1 - end) / trials), abs=1e-9)


def test_the_mean_has_the_interval_of_its_standard_error() -> None:
    """Of many pictures the bootstrap's is the normal one."""
    counts = np.random.default_rng(3).poisson(0.7, 2000)
    found = mean_interval(counts)
    error = counts.std() / math.sqrt(len(counts))
    assert found.low == pytest.approx(counts.mean() - Z * error, abs=0.2 * error)
    assert found.high == pytest.approx(counts.mean() + Z * error, abs=0.2 * error)


def empty_picture(name: str, *boxes: tuple[float, int]) -> EmptyPicture:
    confidence, class_id = np.array(boxes, np.float64).reshape(-1, 2).T
    found = Detections(np.zeros((len(boxes), 4), np.float32), confidence.astype(np.float32), class_id.astype(np.int64))
    return EmptyPicture(Path(name), found)


def test_boxes_are_counted_strictly_above_the_confidence_and_by_class() -> None:
    pictures = [empty_picture("a", (0.9, 0), (0.3, 2), (0.2, 2)), empty_picture("b"), empty_picture("c", (0.25, 0))]
    alarms = count_alarms(pictures, {0: "linear", 2: "aztec", 3: "none"}, (0.25, 0.1))
    assert alarms.pictures == 3
    assert (alarms.default.boxes, alarms.default.pictures_with_boxes) == (2, 1)
    assert alarms.default.boxes_per_picture.estimate == pytest.approx(2 / 3)
    assert alarms.default.share_of_pictures.estimate == pytest.approx(1 / 3)
    assert alarms.requested and (alarms.requested.boxes, alarms.requested.pictures_with_boxes) == (4, 2)
    assert [(c.name, c.boxes, c.requested) for c in alarms.classes] == [
        ("linear", 1, 2),
        ("aztec", 1, 2),
        ("none", 0, 0),
    ]
    assert [c.highest_confidence for c in alarms.classes] == [pytest.approx(0.9), pytest.approx(0.3), None]
    assert [(b.picture, b.name) for b in alarms.highest] == [
        ("a", "linear"), ("a", "aztec"), ("c", "linear"), ("a", "aztec")
    ]  # fmt: skip


def test_no_box_at_all_is_not_taken_for_certainty() -> None:
    alarms = count_alarms([empty_picture(str(i)) for i in range(30)], {0: "linear"}, (0.25, None))
    assert (alarms.default.boxes, alarms.requested, alarms.highest) == (0, None, [])
    assert alarms.default.share_of_pictures.low == 0 < alarms.default.share_of_pictures.high < 0.15


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of what resembles codes, and the project's own sample without one."""
    folder = tmp_path_factory.mktemp("negatives")
    for number in range(PICTURES - 1):
        cv2.imwrite(str(folder / f"{number:02d}.jpg"), lookalike(np.random.default_rng(number), 480, 640))
    shutil.copy(ROOT / "samples/negative.jpg", folder / "sample.jpg")
    return folder


def run(data: Path, bundle_dir: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environ = clean_environ(**SESSION_BUNDLE, bundle_dir=str(bundle_dir))
    given = command("evaluate", "--data", str(data), *arguments)
    return subprocess.run(given, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def evaluated(folder: Path, bundle_root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    file = tmp_path_factory.mktemp("report") / "report.json"
    arguments = ("--negatives", "--conf", "0.05", "--against", "unfolded", "--json", str(file))
    done = run(folder, bundle_root, *arguments)
    assert done.returncode == 0, done.stderr
    return json.loads(file.read_text()), done.stdout


def test_the_counts_are_the_boxes_that_the_service_answers(evaluated: tuple, folder: Path, bundle: Bundle) -> None:
    alarms = evaluated[0]["figures"]["false_alarms"]
    detector = Detector(bundle, OnnxRuntimeEngine(bundle.deployed_graph, "cpu", 1), 50_000_000)
    classes = bundle.manifest.model.classes
    assert alarms["pictures"] == PICTURES
    assert alarms["default"]["confidence"] == bundle.manifest.model.default_confidence
    for name, counts in (("default", "boxes"), ("requested", "requested")):
        point = alarms[name]
        selection = Selection(point["confidence"], 300)
        found = [detector.detect(path.read_bytes(), selection).detections for path in sorted(folder.iterdir())]
        numbers = [len(one) for one in found]
        assert (point["boxes"], point["pictures_with_boxes"]) == (sum(numbers), sum(n > 0 for n in numbers))
        assert point["boxes_per_picture"]["estimate"] == pytest.approx(sum(numbers) / PICTURES)
        by_class = np.bincount(np.concatenate([one.class_id for one in found]), minlength=len(classes))
        assert [one[counts] for one in alarms["classes"]] == by_class.tolist()
    assert alarms["requested"]["boxes"] > 0  # or the test would show little
    strongest = max(one["highest_confidence"] for one in alarms["classes"])
    assert alarms["highest"][0]["confidence"] == strongest
    assert Path(alarms["highest"][0]["picture"]).parent == folder


def test_what_needs_objects_is_absent_and_says_why(evaluated: tuple) -> None:
    report, printed = evaluated
    figures = report["figures"]
    assert (figures["sizes"], figures["points"], figures["classes"], report["evaluator"]) == (None,) * 4
    assert f"No object is labelled in the {PICTURES} pictures" in figures["absent"]
    assert report["data"]["layout"] == "pictures"
    assert report["data"]["pictures_without_objects"] == PICTURES and report["data"]["objects"] == 0
    assert figures["absent"] in printed and "mAP" not in printed and "YOLOFOLD_DEFAULT_CONF" not in printed
    share = figures["false_alarms"]["requested"]["share_of_pictures"]
    assert f"{share['low']:.3f} to {share['high']:.3f}" in printed
    assert figures["false_alarms"]["highest"][0]["picture"] in printed


def test_folding_changes_no_false_alarm(evaluated: tuple) -> None:
    comparison = evaluated[0]["comparison"]
    assert (comparison["map50_95"], comparison["map50"]) == (None, None)
    assert comparison["false_boxes_per_picture"] == {"estimate": 0, "low": 0, "high": 0}
    assert comparison["boxes"]["unpaired"] == [0, 0] and comparison["boxes"]["pairs"] > 0


def test_a_folder_that_says_nothing_is_refused_and_the_way_out_named(folder: Path, bundle_root: Path) -> None:
    done = run(folder, bundle_root)
    assert done.returncode == 1 and "DataSetError" in done.stderr and "--negatives" in done.stderr

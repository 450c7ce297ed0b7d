"""Over HTTP against Ultralytics' own predict: same checkpoint, same pictures, same head, same square letterbox."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient
from ultralytics import YOLO

from service.api.app import create_app
from service.bundle.store import find_bundle, load_bundle
from service.comparison import iou
from service.settings import Settings, load_settings
from tests.conftest import IMGSZ, ROOT, clean_environ, command
from tests.networks import ASSETS, calibrated_network, save_checkpoint

IOU, CONFIDENCE, SHARE = 0.95, 0.02, 0.99
#: Input size of the networks made for these tests, pixels.
SMALL = 320
#: Boxes of the reference this close to the threshold may be missing or extra through rounding.
SLACK = 0.002


@dataclass(frozen=True)
class Boxes:
    xyxy: np.ndarray
    confidence: np.ndarray
    class_id: np.ndarray


def predict(checkpoint: Path, picture: Path, arguments: dict[str, bool | int | float]) -> Boxes:
    """What Ultralytics answers when called as ``GET /model`` says."""
    (result,) = YOLO(checkpoint).predict(picture, conf=0.25 - SLACK, verbose=False, device="cpu", **arguments)
    boxes = result.boxes
    return Boxes(boxes.xyxy.numpy(), boxes.conf.numpy(), boxes.cls.numpy().astype(int))


def answered(answer: dict) -> Boxes:
    rows = answer["detections"]
    corners = [[row["box"][key] for key in ("x1", "y1", "x2", "y2")] for row in rows]
    return Boxes(
        np.array(corners, np.float32).reshape(-1, 4),
        np.array([row["confidence"] for row in rows]),
        np.array([row["class"] for row in rows], int),
    )


def compare(expected: Boxes, found: Boxes) -> tuple[int, int, int]:
    """Expected boxes above 0.25, how many of them are repeated, and how many are found besides."""
    free = np.ones(len(found.confidence), bool)
    clear, matched = 0, 0
    for box, confidence, class_id in zip(expected.xyxy, expected.confidence, expected.class_id, strict=True):
        same = (
            free
            & (found.class_id == class_id)
            & (np.abs(found.confidence - confidence) <= CONFIDENCE)
            & (iou(box, found.xyxy) >= IOU)
        )
        if same.any():
            free[np.argmax(same)] = False
        if confidence > 0.25 + SLACK:
            clear += 1
            matched += bool(same.any())
    return clear, matched, int((free & (found.confidence > 0.25 + SLACK)).sum())


def test_the_embedded_model_over_http(server_url: str, embedded_checkpoint: Path, samples: list[Path]) -> None:
    clear = matched = extra = 0
    model = httpx.get(f"{server_url}/model").json()
    assert model["ultralytics_predict"] == {"imgsz": IMGSZ, "rect": False, "max_det": 300, "nms": False}
    for picture in [*samples, *sorted(ASSETS.glob("*.jpg"))]:
        response = httpx.post(f"{server_url}/detect", params={"conf": 0.25}, files={"file": picture.read_bytes()})
        expected = predict(embedded_checkpoint, picture, model["ultralytics_predict"])
        counts = compare(expected, answered(response.raise_for_status().json()))
        clear, matched, extra = clear + counts[0], matched + counts[1], extra + counts[2]
    assert clear >= 5
    assert matched >= SHARE * clear and extra == 0


@pytest.mark.parametrize(
    ("architecture", "head", "classes"),
    [
        ("yolo26s.yaml", "auto", 2),
        ("yolo26n.yaml", "one2many", 80),
        ("yolov8n.yaml", "auto", 3),
        ("yolo11n.yaml", "auto", 7),
        ("yolo12n.yaml", "auto", 3),
        ("yolov10n.yaml", "auto", 3),
    ],
)
def test_any_detection_checkpoint(architecture: str, head: str, classes: int, tmp_path: Path) -> None:
    checkpoint = save_checkpoint(calibrated_network(architecture, classes), tmp_path / "best.pt")
    environ = clean_environ(weights=str(checkpoint), imgsz=str(SMALL), head=head, bundle_dir=str(tmp_path / "bundles"))
    subprocess.run(command("prepare", "--latency-rounds", "12"), cwd=ROOT, env=environ, check=True, timeout=600)
    given = {k: v for k, v in environ.items() if k.startswith("YOLOFOLD_")}
    settings = load_settings(given)
    (path,) = (tmp_path / "bundles").glob("best*")
    assert find_bundle(settings.bundle_dir, path.name.rsplit("-", 1)[0]) == path
    for engine in ("onnxruntime", "openvino"):
        clear, matched, extra = answers_like_predict(load_settings(given, engine=engine), path, checkpoint)
        assert clear >= 5
        assert matched >= SHARE * clear and extra == 0, engine
    model = load_bundle(path).manifest.model
    one2one = model.head.kind == "one2one"
    assert model.head.nms == ("none" if one2one else "graph")
    assert one2one == (architecture in ("yolo26s.yaml", "yolov10n.yaml"))
    assert len(model.classes) == classes


def answers_like_predict(settings: Settings, bundle: Path, checkpoint: Path) -> tuple[int, int, int]:
    """Serve a bundle and compare its answers with Ultralytics': clear boxes, those matched, and extra ones."""
    clear = matched = extra = 0
    with TestClient(create_app(settings, load_bundle(bundle))) as client:
        arguments = client.get("/model").json()["ultralytics_predict"]
        for picture in sorted(ASSETS.glob("*.jpg")):
            answer = client.post("/detect", params={"conf": 0.25}, files={"file": picture.read_bytes()}).json()
            counts = compare(predict(checkpoint, picture, arguments), answered(answer))
            clear, matched, extra = clear + counts[0], matched + counts[1], extra + counts[2]
    return clear, matched, extra

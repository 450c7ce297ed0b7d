"""Over HTTP against Ultralytics' own predict: same checkpoint, same pictures, same head, same square letterbox."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import matplotlib
import numpy as np
import onnx
import pytest
import torch
from PIL import ExifTags, Image

from service.bundle.store import Bundle, find_bundle, load_bundle
from service.machine import usable_cores
from service.measurement.runner import MIN_ROUNDS
from service.measurement.study import Effort
from service.prepare.pipeline import prepare_bundle
from service.settings import Settings, load_settings
from tests.api.serving import serving
from tests.conftest import IMGSZ, ROOT
from tests.networks import ASSETS, calibrated_network, save_checkpoint
from tests.ultralytics_reference import SHARE, Boxes, answered, compare, predict

#: Input size of the networks made for these tests, pixels.
SMALL = 320


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


@dataclass(frozen=True)
class Case:
    """A network made for these tests: as Ultralytics describes it, and the head it is served with."""

    architecture: str
    classes: int
    head: str = "auto"

    @property
    def one2one(self) -> bool:
        return self.architecture.startswith(("yolo26", "yolov10")) and self.head == "auto"


CASES = [
    Case("yolo26s.yaml", 2),
    Case("yolo26m.yaml", 3),
    Case("yolo26n.yaml", 80, "one2many"),
    Case("yolov5n.yaml", 4),
    Case("yolov8n.yaml", 3),
    Case("yolov9t.yaml", 5),
    Case("yolov10n.yaml", 3),
    Case("yolo11n.yaml", 7),
    Case("yolo12n.yaml", 3),
]


@dataclass(frozen=True)
class Prepared:
    case: Case
    checkpoint: Path
    settings: Settings
    bundle: Bundle


class Silent:
    """Progress that nobody watches."""

    @contextmanager
    def step(self, title: str) -> Iterator[Callable[[int, int], None]]:
        yield lambda done, wanted: None


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case.architecture}-{case.head}")
def prepared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """A checkpoint on disk and the bundle prepared from it, its latency measured no longer than it takes to try."""
    case, folder = request.param, tmp_path_factory.mktemp("prepared")
    checkpoint = save_checkpoint(calibrated_network(case.architecture, case.classes), folder / "best.pt")
    settings = load_settings({}, weights=str(checkpoint), imgsz=SMALL, head=case.head, bundle_dir=str(folder / "b"))
    path = prepare_bundle(settings, Silent(), Effort(MIN_ROUNDS, budget_s=0.1), usable_cores()).path
    assert find_bundle(settings.bundle_dir, path.name.rsplit("-", 1)[0]) == path
    return Prepared(case, checkpoint, settings, load_bundle(path))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Photographs as they were taken, and parts of them in shapes that letterboxes and decoders find hard."""
    folder = tmp_path_factory.mktemp("pictures")
    bus, zidane = (Image.open(ASSETS / name) for name in ("bus.jpg", "zidane.jpg"))
    bus.crop((0, 300, 809, 401)).save(folder / "strip.png")
    zidane.crop((800, 0, 903, 719)).save(folder / "column.png")
    zidane.crop((700, 40, 797, 101)).save(folder / "smaller-than-the-input.png")
    bus.convert("L").save(folder / "grey.jpg", quality=95)
    bus.rotate(90, expand=True).save(folder / "turned.jpg", exif=b"Exif\0\0" + turned(6), quality=95)
    hopper = Path(matplotlib.get_data_path()) / "sample_data/grace_hopper.jpg"
    return [*sorted(ASSETS.glob("*.jpg")), hopper, ROOT / "samples/screen.jpg", *sorted(folder.iterdir())]


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif.tobytes()


def test_any_detection_checkpoint_finds_what_predict_finds(prepared: Prepared, pictures: list[Path]) -> None:
    expected: list[Boxes] | None = None
    for engine in ("onnxruntime", "openvino"):
        clear = matched = extra = 0
        with serving(prepared.bundle, engine=engine) as server:
            model = server.client.get("/model").json()
            arguments = model["ultralytics_predict"]
            assert len(model["model"]["classes"]) == prepared.case.classes
            assert model["model"]["head"]["kind"] == ("one2one" if prepared.case.one2one else "one2many")
            assert model["model"]["head"]["nms"] == ("none" if prepared.case.one2one else "graph")
            expected = expected or [predict(prepared.checkpoint, picture, arguments) for picture in pictures]
            for picture, boxes in zip(pictures, expected, strict=True):
                response = server.client.post("/detect", params={"conf": 0.25}, files={"file": picture.read_bytes()})
                counts = compare(boxes, answered(response.raise_for_status().json()))
                clear, matched, extra = clear + counts[0], matched + counts[1], extra + counts[2]
        assert matched >= SHARE * clear and extra == 0, (engine, clear, matched, extra)
        assert clear >= 100
    # A network that answers every picture alike would agree whatever its letterbox, channel order or decoder.
    assert len({len(boxes.confidence) for boxes in expected}) >= 4


def test_any_detection_checkpoint_reports_its_batchnorm(prepared: Prepared) -> None:
    saved = torch.load(prepared.checkpoint, map_location="cpu", weights_only=False)["model"]
    expected = {name: module for name, module in saved.named_modules() if isinstance(module, torch.nn.BatchNorm2d)}
    with serving(prepared.bundle) as server:
        answer = server.client.get("/model/bn-stats", params={"detail": "full"}).raise_for_status().json()
    assert [layer["name"] for layer in answer["layers"]] == list(expected)
    last = len(saved.model) - 1
    unused = ("cv2", "cv3") if prepared.case.one2one else ("one2one_cv2", "one2one_cv3")
    kept = 0
    for layer, (name, module) in zip(answer["layers"], expected.items(), strict=True):
        is_dropped = name.startswith(tuple(f"model.{last}.{branch}." for branch in unused))
        kept += not is_dropped
        assert layer["status"] == ("dropped" if is_dropped else "folded")
        assert layer["conv"] == name.removesuffix("bn") + "conv"
        conv = saved.get_submodule(layer["conv"])
        depthwise = conv.groups == conv.in_channels > 1
        pointwise = conv.kernel_size == (1, 1) and conv.groups == 1
        assert layer["kind"] == ("depthwise" if depthwise else "pointwise" if pointwise else "conv"), name
        assert (layer["channels"], layer["eps"], layer["momentum"], layer["num_batches_tracked"]) == (
            module.num_features,
            module.eps,
            module.momentum,
            int(module.num_batches_tracked),
        )
        gamma, beta, mean, var = (
            tensor.detach().double().numpy()
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var)
        )
        scale = gamma / np.sqrt(var + module.eps)
        figures = {"gamma": gamma, "beta": beta, "running_mean": mean, "running_var": var}
        for key, values in (figures | {"scale": scale, "shift": beta - mean * scale}).items():
            found = np.array(layer["arrays"][key])
            np.testing.assert_allclose(found, values, rtol=2e-7, atol=1e-6, err_msg=f"{name} {key}")
    graph = onnx.load(prepared.bundle.reference_graph).graph
    assert sum(node.op_type == "BatchNormalization" for node in graph.node) == kept
    graph = onnx.load(prepared.bundle.deployed_graph).graph
    assert not any(node.op_type == "BatchNormalization" for node in graph.node)

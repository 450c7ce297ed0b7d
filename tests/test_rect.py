"""Without padding, over HTTP against Ultralytics' own predict as it is called by default: with ``rect``."""

import hashlib
import io
from collections import defaultdict
from pathlib import Path

import httpx
import numpy as np
import onnxruntime as ort
import pytest
import torch
from PIL import Image
from torch import nn
from ultralytics.data.augment import LetterBox

from service.bundle.store import Bundle, load_bundle
from service.commands.served_bundle import load_served
from service.errors import BundleMissing, SettingsError
from service.inference.detector import Detector
from service.inference.images import decode_image
from service.inference.known_pictures import Picture, read_fitted
from service.inference.onnxruntime_engine import OnnxRuntimeEngine
from service.machine import usable_cores
from service.measurement.runner import MIN_ROUNDS
from service.measurement.study import Effort
from service.prepare.checkpoint import load_model
from service.prepare.deployed_network import MAX_DET
from service.prepare.pipeline import prepare_bundle
from service.prepare.population_statistics import TOLERANCE
from service.recalibration.recalibrate import Request, recalibrate
from service.settings import load_settings
from tests.api.serving import serving, wait_until
from tests.networks import ASSETS, calibrated_network, save_checkpoint
from tests.test_parity import Case, Prepared, Silent
from tests.ultralytics_reference import SHARE, answered, compare, predict

NPY = {"Content-Type": "application/octet-stream"}
SIDE = 384
CASES = [
    Case("yolo26n.yaml", 80),
    Case("yolo26n.yaml", 3, "one2many"),
    Case("yolo12n.yaml", 4),
    Case("yolo26-p6.yaml", 5),
]
STRIDES = {"yolo26n.yaml": (8, 16, 32), "yolo12n.yaml": (8, 16, 32), "yolo26-p6.yaml": (8, 16, 32, 64)}


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case.architecture}-{case.head}")
def prepared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    case, folder = request.param, tmp_path_factory.mktemp("prepared")
    checkpoint = save_checkpoint(calibrated_network(case.architecture, case.classes), folder / "best.pt")
    settings = load_settings(
        {}, weights=str(checkpoint), imgsz=SIDE, rect=True, head=case.head, bundle_dir=str(folder / "b")
    )
    path = prepare_bundle(settings, Silent(), Effort(MIN_ROUNDS, budget_s=0.1), usable_cores()).path
    return Prepared(case, checkpoint, settings, load_bundle(path))


@pytest.fixture(scope="module")
def pictures(samples: list[Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Lying, upright and square ones, and one hardly higher than the narrowest input."""
    folder = tmp_path_factory.mktemp("pictures")
    bus = Image.open(ASSETS / "bus.jpg")
    bus.crop((0, 300, 809, 470)).save(folder / "strip.png")
    bus.crop((100, 0, 300, 1079)).save(folder / "column.png")
    bus.crop((0, 200, 809, 1009)).save(folder / "square.png")
    return [*sorted(ASSETS.glob("*.jpg")), samples[0], *sorted(folder.iterdir())]


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_it_finds_what_predict_finds_by_default(prepared: Prepared, pictures: list[Path], engine: str) -> None:
    clear = matched = extra = 0
    with serving(prepared.bundle, engine=engine, drift_cpu=1) as server:
        arguments = server.client.get("/model").json()["ultralytics_predict"]
        # Which is what predict does by itself, except for the head.
        others = {"max_det": 300} | ({"nms": False} if prepared.case.one2one else {"iou": 0.7})
        assert arguments == {"imgsz": SIDE, "rect": True} | others
        arguments = {name: value for name, value in arguments.items() if name in ("imgsz", "nms")}
        for picture in pictures:
            response = server.client.post("/detect", params={"conf": 0.25}, files={"file": picture.read_bytes()})
            counts = compare(predict(prepared.checkpoint, picture, arguments), answered(_json(response)))
            clear, matched, extra = clear + counts[0], matched + counts[1], extra + counts[2]
        wait_until(lambda: server.client.get("/model/drift").json()["sampled"] > 0)
        check = server.client.post("/model/fold/check", files={"file": pictures[0].read_bytes()})
        assert _json(check)["agrees"] is True
    assert matched >= SHARE * clear and extra == 0, (engine, clear, matched, extra)
    assert clear >= 30


def test_the_network_gets_the_pixels_that_ultralytics_gives_it(prepared: Prepared, pictures: list[Path]) -> None:
    bundle = prepared.bundle
    rect = bundle.manifest.model.input.rect
    assert rect is not None
    detector = Detector(bundle, OnnxRuntimeEngine(bundle.deployed_graph, "cpu", 1), 10**7)
    sizes = set()
    for picture in pictures:
        data = picture.read_bytes()
        expected = LetterBox((SIDE, SIDE), auto=True, stride=rect.multiple)(image=decode_image(data, max_pixels=10**7))
        plan, fitted = detector.fit(data)
        np.testing.assert_array_equal(fitted, expected)
        assert plan.input_wh == fitted.shape[1::-1]
        sizes.add(fitted.shape)
    assert len(sizes) >= 4


def test_the_graph_takes_every_rectangle(prepared: Prepared) -> None:
    spec = prepared.bundle.manifest.model.input
    assert spec.rect is not None
    for path in (prepared.bundle.deployed_graph, prepared.bundle.reference_graph):
        session = ort.InferenceSession(path)
        assert session.get_inputs()[0].shape == ["batch", "height", "width", 3]
        for shorter in range(spec.rect.shortest, SIDE + 1, spec.rect.multiple):
            for size in ((shorter, SIDE), (SIDE, shorter)):
                images = np.random.default_rng(shorter).integers(0, 256, (1, *size, 3), np.uint8)
                assert session.run(None, {"images": images})[0].shape == (1, MAX_DET, 6)


def test_slivers_get_as_much_padding_as_the_rows_of_the_answer_need(prepared: Prepared) -> None:
    bundle = prepared.bundle
    rect = bundle.manifest.model.input.rect
    strides = STRIDES[prepared.case.architecture]
    assert rect is not None and rect.multiple == max(strides)
    assert _cells(strides, rect.shortest) >= MAX_DET > _cells(strides, rect.shortest - rect.multiple)
    detector = Detector(bundle, OnnxRuntimeEngine(bundle.deployed_graph, "cpu", 1), 10**7)
    narrow = np.zeros((1, 900, 3), np.uint8)
    assert _fitted(detector, narrow) == (rect.shortest, SIDE, 3)
    assert _fitted(detector, narrow.transpose(1, 0, 2)) == (SIDE, rect.shortest, 3)


def test_quantization_takes_the_pixels_that_are_served(prepared: Prepared, pictures: list[Path]) -> None:
    bundle = prepared.bundle
    detector = Detector(bundle, OnnxRuntimeEngine(bundle.deployed_graph, "cpu", 1), 10**7)
    chosen = [Picture(path, hashlib.sha256(path.read_bytes()).hexdigest()) for path in pictures]
    fitted = read_fitted(chosen, bundle.manifest.model.input, 10**7)
    for path, pixels in zip(pictures, fitted, strict=True):
        np.testing.assert_array_equal(pixels, detector.fit(path.read_bytes())[1])


@pytest.mark.parametrize("prepared", CASES[:1], indirect=True, ids=lambda case: case.architecture)
def test_recalibration_estimates_on_the_rectangles_that_ultralytics_makes(prepared: Prepared, tmp_path: Path) -> None:
    rect, data, out = prepared.bundle.manifest.model.input.rect, tmp_path / "data", tmp_path / "anew"
    assert rect is not None
    data.mkdir()
    whole = Image.open(ASSETS / "bus.jpg")
    for number in range(16):
        width, height = np.random.default_rng(number).integers(160, 640, 2)
        left, top = number * 8, number * 20
        whole.crop((left, top, left + width, top + height)).save(data / f"{number}.png")
    report = recalibrate(prepared.bundle, Request(data, 0.0, 0.0, out, 2, 1), prepared.settings, Silent())
    new = load_bundle(out)
    assert new.manifest.model.input == prepared.bundle.manifest.model.input
    assert report.boxes.pictures == report.data.fitted == 16

    network = load_model(out / new.manifest.weights.file).network
    seen: dict[str, list[np.ndarray]] = defaultdict(list)
    layers = {name: layer for name, layer in network.named_modules() if isinstance(layer, nn.BatchNorm2d)}
    for name, layer in layers.items():
        layer.register_forward_pre_hook(lambda _, x, name=name: seen[name].append(x[0][0].double().flatten(1).numpy()))
    shapes = set()
    for path in data.iterdir():
        fitted = LetterBox((SIDE, SIDE), auto=True, stride=rect.multiple)(image=np.array(Image.open(path))[..., ::-1])
        shapes.add(fitted.shape)
        with torch.no_grad():
            network(torch.from_numpy(fitted[..., ::-1].transpose(2, 0, 1).copy())[None].float() / 255)
    assert len(shapes) >= 4
    for name, layer in layers.items():
        values = np.concatenate(seen[name], axis=1)
        deviation = np.sqrt(values.var(1) + layer.eps)
        assert (np.abs(layer.running_mean.numpy() - values.mean(1)) <= TOLERANCE * deviation).all()
        np.testing.assert_allclose(layer.running_var.numpy() + layer.eps, deviation**2, rtol=TOLERANCE)


def test_it_is_found_by_the_same_settings_alone(prepared: Prepared) -> None:
    assert load_served(prepared.settings).path == prepared.bundle.path
    with pytest.raises(BundleMissing):
        load_served(prepared.settings.model_copy(update={"rect": False}))


def test_a_bundle_for_squares_named_outright_is_refused(bundle: Bundle) -> None:
    with pytest.raises(SettingsError, match=r"YOLOFOLD_RECT is set, but .* was prepared for squares"):
        load_served(load_settings({}, bundle_dir=bundle.path, rect=True))


def test_tensors_of_other_sizes_are_told_from_those_it_takes(prepared: Prepared) -> None:
    rect = prepared.bundle.manifest.model.input.rect
    assert rect is not None
    taken = [(SIDE, SIDE), (SIDE, SIDE - rect.multiple), (rect.shortest, SIDE)]
    others = [(SIDE, SIDE - 16), (rect.shortest - rect.multiple or 32, SIDE), (rect.shortest, rect.shortest)]
    with serving(prepared.bundle) as server:
        for size in taken + others:
            file = io.BytesIO()
            np.save(file, np.random.default_rng(0).random((1, 3, *size), np.float32))
            found = _json(server.client.post("/model/lint", content=file.getvalue(), headers=NPY))["findings"]
            assert ("wrong_size" in {finding["code"] for finding in found}) == (size in others), size


def _cells(strides: tuple[int, ...], shorter: int) -> int:
    return sum((SIDE // stride) * (shorter // stride) for stride in strides)


def _fitted(detector: Detector, pixels: np.ndarray) -> tuple[int, ...]:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return detector.fit(file.getvalue())[1].shape


def _json(response: httpx.Response) -> dict:
    return response.raise_for_status().json()

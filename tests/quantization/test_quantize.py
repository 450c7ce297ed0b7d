"""The command that quantizes: what it writes, what it says, and what it refuses."""

import hashlib
import shutil
from dataclasses import replace
from itertools import count
from pathlib import Path

import cv2
import numpy as np
import onnx
import openvino as ov
import pytest

from service.bundle.int8 import GateVerdict
from service.bundle.store import INT8, INT8_GRAPH, MANIFEST, Bundle
from service.errors import QuantizationError
from service.inference.engine import InferenceEngine
from service.inference.onnxruntime_engine import OnnxRuntimeEngine
from service.inference.openvino_engine import OpenVinoEngine
from service.preprocessing.letterbox import letterbox, plan_letterbox
from service.quantization.layers import choose_convolutions
from service.quantization.pictures import split_pictures
from tests.inference.processors import HAS_BF16
from tests.quantization.conftest import CALIBRATION, PICTURES, run_quantize


def by_content(folder: Path) -> list[Path]:
    """The pictures of a folder by the SHA-256 of their bytes."""
    return sorted(folder.iterdir(), key=lambda path: hashlib.sha256(path.read_bytes()).hexdigest())


def quantized_by_the_graph(path: Path) -> dict[str, bool]:
    """Of each convolution, by its weights' name in the float graph: whether int8 weights and uint8 pixels reach it."""
    model = onnx.load(path)
    producer = {output: node for node in model.graph.node for output in node.output}
    stored = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    found = {}
    for node in (node for node in model.graph.node if node.op_type == "Conv"):
        pixels, weights = (producer.get(name) for name in node.input[:2])
        if weights is None:
            found[node.input[1]] = False
            continue
        assert weights.op_type == pixels.op_type == "DequantizeLinear"
        assert producer[pixels.input[0]].op_type == "QuantizeLinear"
        assert stored[weights.input[0]] == onnx.TensorProto.INT8 and stored[pixels.input[2]] == onnx.TensorProto.UINT8
        found[weights.input[0].removesuffix("_quantized")] = True
    return found


def test_the_list_of_what_stays_in_float_is_what_the_graph_holds(quantized: Bundle) -> None:
    spec, graph = quantized.int8, quantized_by_the_graph(quantized.int8_graph)
    convs = list(quantized_by_the_graph(quantized.deployed_graph))
    assert sorted(graph) == sorted(convs)  # none was lost
    in_float = [name for name in convs if not graph[name]]
    assert [f"network.{layer.conv}.weight" for layer in spec.kept_in_float] == in_float
    assert spec.convolutions == sum(graph.values()) == len(graph) - len(in_float)
    # The head is the last block; all of it and of attention is in float, and nothing else.
    head = [name for name in convs if name.startswith("network.model.23.")]
    attention = [name for name in convs if ".attn." in name]
    assert len(head) > 20 and len(attention) == 6 and set(in_float) == {*head, *attention}


def test_a_layer_whose_folded_weights_int8_does_not_hold_stays_in_float(bundle: Bundle) -> None:
    graph = onnx.load(bundle.deployed_graph).graph
    layers = list(bundle.health.layers)
    place = {layer.name: number for number, layer in enumerate(layers)}
    lossy, unknown = place["model.3.bn"], place["model.5.bn"]
    weights = layers[lossy].weights.model_copy(update={"int8_scheme": "float", "sqnr_per_channel_db": 21.4})
    layers[lossy] = layers[lossy].model_copy(update={"weights": weights})
    layers[unknown] = layers[unknown].model_copy(update={"weights": None})
    spoilt = replace(bundle, health=bundle.health.model_copy(update={"layers": layers}))
    before, after = choose_convolutions(bundle, graph, 8), choose_convolutions(spoilt, graph, 8)
    reasons = {layer.conv: layer.reason for layer in after.kept if layer not in before.kept}
    assert list(reasons) == ["model.3.conv", "model.5.conv"]
    assert "21.4 dB" in reasons["model.3.conv"] and "no BatchNorm" in reasons["model.5.conv"]
    moved = {"/network/model.3/conv/Conv", "/network/model.5/conv/Conv"}
    assert set(before.quantized) - set(after.quantized) == set(after.kept_nodes) - set(before.kept_nodes) == moved


def test_weights_of_seven_bits_are_asked_the_same_of_what_they_keep(bundle: Bundle) -> None:
    graph = onnx.load(bundle.deployed_graph).graph
    layers = list(bundle.health.layers)
    place = next(number for number, layer in enumerate(layers) if layer.name == "model.3.bn")
    chosen = {}
    for kept_db in (35.9, 36.1):  # a bit less is a noise of twice the amplitude, 6.02 dB
        weights = layers[place].weights.model_copy(update={"sqnr_per_channel_db": kept_db})
        layers[place] = layers[place].model_copy(update={"weights": weights})
        spoilt = replace(bundle, health=bundle.health.model_copy(update={"layers": layers}))
        for bits in (7, 8):
            chosen[kept_db, bits] = "/network/model.3/conv/Conv" in choose_convolutions(spoilt, graph, bits).quantized
    assert chosen == {(35.9, 7): False, (35.9, 8): True, (36.1, 7): True, (36.1, 8): True}


def test_openvino_runs_as_many_convolutions_in_int8_as_the_record_says(quantized: Bundle) -> None:
    compiled = ov.Core().compile_model(str(quantized.int8_graph), "CPU", {"INFERENCE_PRECISION_HINT": ov.Type.f32})
    kinds = [
        node.get_rt_info()["runtimePrecision"].astype(str)
        for node in compiled.get_runtime_model().get_ops()
        if node.get_rt_info()["layerType"].astype(str) == "Convolution"
    ]
    assert sum(kind in ("u8", "i8") for kind in kinds) == quantized.int8.convolutions


def test_the_verdict_is_what_the_engines_find(quantized: Bundle, drawn: Path) -> None:
    """Counted anew, on the pictures that were not calibrated on, without the code that judged."""
    spec, model = quantized.int8, quantized.manifest.model
    squares = []
    for path in by_content(drawn)[CALIBRATION:]:
        image = cv2.imread(str(path))
        squares.append(letterbox(image, plan_letterbox(image.shape[1], image.shape[0], model.input.height)))
    expected = boxes_of(OnnxRuntimeEngine(quantized.deployed_graph, "cpu", 2), squares, model.default_confidence)
    assert [way.precision for way in spec.gate.ways] == (["int8+bf16"] if HAS_BF16 else []) + ["int8+fp32"]
    for way in spec.gate.ways:
        engine = OpenVinoEngine(quantized.int8_graph, way.precision, 2, 1)
        repeated = count_repeated(expected, boxes_of(engine, squares, 0.0))
        assert way.boxes == sum(map(len, expected)) >= 100
        # The same runtime on the same machine, but another number of threads may add in another order.
        assert abs(way.repeated - repeated) <= 1
        if way.passed:
            assert way.repeated >= 0.95 * way.boxes and way.new <= 0.05 * way.boxes
            assert 0.9 < way.repeated_at_least < way.repeated / way.boxes


def boxes_of(engine: InferenceEngine, squares: list[np.ndarray], threshold: float) -> list[np.ndarray]:
    found = [engine.run(square[None])[0] for square in squares]
    return [rows[rows[:, 4] > threshold] for rows in found]


def count_repeated(expected: list[np.ndarray], found: list[np.ndarray]) -> int:
    """Boxes that have one of the same class, IoU 0.9 and a confidence within 0.05."""
    return sum(any(same(a, b) for b in theirs) for ours, theirs in zip(expected, found, strict=True) for a in ours)


def same(a: np.ndarray, b: np.ndarray) -> bool:
    width, height = np.minimum(a[2:4], b[2:4]) - np.maximum(a[:2], b[:2])
    if a[5] != b[5] or min(width, height) <= 0 or abs(a[4] - b[4]) > 0.05:
        return False
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return bool(width * height / (sum(areas) - width * height) >= 0.9)


def test_the_new_bundle_is_the_old_one_and_the_quantized_graph(bundle: Bundle, quantized: Bundle) -> None:
    assert bundle.int8 is None and quantized.int8.source_version == bundle.manifest.model.version
    assert quantized.manifest.model.version != bundle.manifest.model.version
    for name, record in bundle.manifest.files.items():
        assert quantized.manifest.files[name] == record
    assert set(quantized.manifest.files) - set(bundle.manifest.files) == {INT8, INT8_GRAPH}
    assert (bundle.path / MANIFEST).read_text() != (quantized.path / MANIFEST).read_text()


def test_the_pictures_are_on_record_and_none_of_them_is_in_both_lists(quantized: Bundle, drawn: Path) -> None:
    split = split_pictures(drawn, CALIBRATION, None)
    names = [[picture.path.name for picture in part] for part in (split.calibration, split.gate)]
    assert names[0] + names[1] == [path.name for path in by_content(drawn)]
    for part, record in ((0, quantized.int8.calibration), (1, quantized.int8.gate.pictures)):
        sums = sorted(hashlib.sha256((drawn / name).read_bytes()).hexdigest() for name in names[part])
        assert record.pictures == len(names[part]) == (CALIBRATION, PICTURES - CALIBRATION)[part]
        assert record.sha256 == hashlib.sha256(("\n".join(sums) + "\n").encode()).hexdigest()


def test_the_same_bytes_under_two_names_are_one_picture(drawn: Path, tmp_path: Path) -> None:
    for number, path in enumerate(sorted(drawn.iterdir())[:8]):
        shutil.copy(path, tmp_path / f"{number}.jpg")
        shutil.copy(path, tmp_path / f"again{number}.jpg")
    split = split_pictures(tmp_path, 5, 2)
    assert len(split.calibration) == 5 and len(split.gate) == 2
    assert not {one.sha256 for one in split.calibration} & {one.sha256 for one in split.gate}
    with pytest.raises(QuantizationError, match="holds 8 different pictures; 8 are calibrated on"):
        split_pictures(tmp_path, 8, None)


def test_the_command_says_what_it_found_and_how_to_serve_it(quantized_root: Path, quantized: Bundle) -> None:
    printed = (quantized_root / "printed.txt").read_text()
    assert printed.splitlines()[-1] == str(quantized_root / "int8")
    assert f"{quantized.int8.convolutions} convolutions in int8" in printed
    assert "YOLOFOLD_ENGINE=openvino YOLOFOLD_PRECISION=int8" in printed
    best: GateVerdict = quantized.int8.gate.ways[0]
    assert f"{best.precision} in {best.runtime}: {best.repeated} of {best.boxes} boxes repeated" in printed


def write_black_picture_that_comes_first(folder: Path) -> None:
    """Which pictures are calibrated on follows from their bytes alone, so one is sought with the least sum."""
    least = hashlib.sha256(by_content(folder)[0].read_bytes()).hexdigest()
    for side in count(1):
        data = cv2.imencode(".png", np.zeros((side, 8, 3), np.uint8))[1].tobytes()
        if hashlib.sha256(data).hexdigest() < least:
            (folder / "black.png").write_bytes(data)
            return


def test_a_graph_calibrated_on_black_is_refused_and_nothing_is_written(
    bundle_root: Path, drawn: Path, tmp_path: Path
) -> None:
    pictures, bundles = tmp_path / "pictures", tmp_path / "bundles"
    shutil.copytree(drawn, pictures)
    write_black_picture_that_comes_first(pictures)
    bundles.mkdir()
    done = run_quantize(bundle_root, "--data", str(pictures), "--calibration", "1", "--out", str(bundles / "int8"))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("QuantizationRefused: int8 does not find the boxes that fp32 finds")
    assert "No bundle was written" in done.stderr and "Traceback" not in done.stderr
    assert list(bundles.iterdir()) == []


def test_too_few_boxes_decide_nothing(bundle_root: Path, drawn: Path, tmp_path: Path) -> None:
    done = run_quantize(bundle_root, "--data", str(drawn), "--pictures", "8", "--out", str(tmp_path / "int8"))
    assert done.returncode == 1 and "holds 48 different pictures; 48 are calibrated on" in done.stderr
    arguments = ("--data", str(drawn), "--calibration", "40", "--pictures", "8", "--out", str(tmp_path / "int8"))
    done = run_quantize(bundle_root, *arguments)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("QuantizationRefused: The network finds ")
    assert "in the 8 pictures to judge by, and 100 are needed" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "words"),
    [("embedded-640-auto-x", "named like a bundle that serving finds"), ("there", "exists already")],
)
def test_no_bundle_is_replaced(bundle_root: Path, drawn: Path, tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "there").mkdir()
    done = run_quantize(bundle_root, "--data", str(drawn), "--out", str(tmp_path / name))
    assert done.returncode == 1 and words in done.stderr

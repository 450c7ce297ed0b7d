"""The command that converts to fp16: what it writes, that rounding is what it changes, and what it refuses."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from ultralytics.utils import ASSETS

from service.bundle.store import FP16, FP16_GRAPH, MANIFEST, Bundle, load_bundle
from service.comparison import measure_difference, pair_rows
from service.errors import BundleCorrupt, BundleIncomplete, BundleSchemaError, QuantizationRefused
from service.inference.onnxruntime_engine import OnnxRuntimeEngine
from service.inference.self_check import check_engine
from service.preprocessing.letterbox import letterbox, plan_letterbox
from service.quantization.half_graph import halve_graph, widen_graph
from service.quantization.half_layers import choose_half_layers
from service.quantization.halve import halve
from service.tuning.measure import find_installed
from tests.api.serving import serving
from tests.bundles import rehash, rewrite

#: Corners, pixels, and scores of the fifty surest boxes of each picture, rounded as in fp16, against fp32. The worst of
#: these seven pictures is 0.56 px and 0.03; other machines add in another order.
MOST_PX, MOST_SCORE = 1.0, 0.1
HALF, FLOAT = TensorProto.FLOAT16, TensorProto.FLOAT


def types(model: onnx.ModelProto) -> dict[str, int]:
    """Element type of each tensor."""
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    values = (*graph.value_info, *graph.input, *graph.output)
    return {value.name: value.type.tensor_type.elem_type for value in values} | {
        tensor.name: tensor.data_type for tensor in graph.initializer
    }


def photographs(bundle: Bundle, samples: list[Path]) -> Iterator[np.ndarray]:
    for path in (*samples, ASSETS / "bus.jpg", ASSETS / "zidane.jpg"):
        image = cv2.imread(str(path))
        yield letterbox(image, plan_letterbox(image.shape[1], image.shape[0], bundle.manifest.model.input.height))


def test_convolutions_are_in_fp16_but_for_those_the_record_names(halved: Bundle) -> None:
    model, spec = onnx.load(halved.fp16_graph), halved.fp16
    kinds = types(model)
    kept = {f"network.{layer.conv}.weight": layer.reason for layer in spec.kept_in_float}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    in_float = [node.input[1] for node in convolutions if {kinds[name] for name in node.input} == {FLOAT}]
    in_half = [node for node in convolutions if {kinds[name] for name in node.input} == {HALF}]
    assert in_float == list(kept) and len(in_half) == spec.convolutions == len(convolutions) - len(kept)
    # The last convolutions of the head: two branches of three scales.
    assert len(kept) == 6 and set(kept.values()) == {"it gives boxes or scores"}
    assert all(name.startswith("network.model.23.one2one_cv") for name in kept)


def test_what_the_graph_takes_and_gives_is_as_it_was(halved: Bundle) -> None:
    before, after = (onnx.load(path).graph for path in (halved.deployed_graph, halved.fp16_graph))
    assert list(after.input) == list(before.input) and list(after.output) == list(before.output)
    assert halved.fp16.graph.bytes < 0.6 * halved.manifest.deployed.bytes


def test_no_corner_and_no_score_goes_through_fp16(halved: Bundle) -> None:
    """Nothing that the last convolutions give is rounded any more, nor is a pixel before the first one."""
    model = onnx.load(halved.fp16_graph)
    kinds = types(model)
    last = {f"network.{layer.conv}.weight" for layer in halved.fp16.kept_in_float}
    reached: set[str] = set()
    for node in model.graph.node:
        if not reached.isdisjoint(node.input) or last.intersection(node.input):
            reached.update(node.output)
    assert "detections" in reached and len(reached) > 30
    assert not [name for name in reached if kinds[name] == HALF]
    first = next(number for number, node in enumerate(model.graph.node) if node.op_type == "Conv")
    pixels = {name for node in model.graph.node[:first] for name in node.output if kinds[name] == HALF}
    assert len(pixels) == 1  # what the first convolution reads


def test_photographs_are_seen_as_in_fp32(halved: Bundle, samples: list[Path], tmp_path: Path) -> None:
    twin = tmp_path / "twin.onnx"
    onnx.save(widen_graph(onnx.load(halved.fp16_graph)), twin)
    exact = OnnxRuntimeEngine(halved.deployed_graph, "cpu", 2)
    rounded = [OnnxRuntimeEngine(graph, "cpu", 2, half=True) for graph in (twin, halved.fp16_graph)]
    apart = 0.0
    for picture in photographs(halved, samples):
        expected = exact.run(picture[None])[0]
        expected = expected[np.argsort(-expected[:, 4])][:50]
        for engine in rounded:
            found = engine.run(picture[None])[0]
            pairing = pair_rows(expected, found)
            assert len(pairing) == len(expected)
            difference = measure_difference(expected[pairing.expected], found[pairing.found])
            assert difference.box_px <= MOST_PX and difference.score <= MOST_SCORE
            apart = max(apart, difference.box_px)
    assert apart > 0.05  # or nothing was rounded
    assert check_engine(halved, rounded[0]).matched == halved.self_check.rows


def test_the_record_is_what_the_command_says_and_the_model_answers(halved: Bundle, halved_root: Path) -> None:
    spec, printed = halved.fp16, (halved_root / "printed.txt").read_text()
    assert f"{spec.convolutions} convolutions in fp16, 6 in float32; rounded so, {spec.repeated} of" in printed
    assert f"YOLOFOLD_BUNDLE_DIR={halved.path.resolve()} YOLOFOLD_PRECISION=fp16 on a GPU" in printed
    assert spec.boxes >= 20 and spec.repeated >= 0.98 * spec.boxes and spec.new <= 0.02 * spec.boxes
    assert find_installed(halved).fp16
    with serving(halved) as running:
        model = running.client.get("/model").json()
        assert model["fp16"] == spec.model_dump(mode="json")
        assert model["engine"]["precision"] in ("fp32", "tf32")  # unless it is asked for


# --- what fp16 does not hold --------------------------------------------------------------------------------


def three_convolutions(factors: tuple[float, float, float], bias: float = 0.0) -> onnx.ModelProto:
    """From uint8 (B, 4, 4, 1) to float (B, 1, 4, 4): pixels times three factors, one after the other."""
    names = [f"w{number}" for number in range(3)]
    tensors = [
        numpy_helper.from_array(np.full((1, 1, 1, 1), factor, np.float32), name)
        for name, factor in zip(names, factors, strict=True)
    ]
    tensors.append(numpy_helper.from_array(np.full(1, bias, np.float32), "b0"))
    nodes = [
        helper.make_node("Transpose", ["images"], ["planes"], "turn", perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["planes"], ["x0"], "cast", to=FLOAT),
        helper.make_node("Conv", ["x0", "w0", "b0"], ["x1"], "first"),
        helper.make_node("Conv", ["x1", "w1"], ["x2"], "second"),
        helper.make_node("Conv", ["x2", "w2"], ["x3"], "third"),
    ]
    pixels = helper.make_tensor_value_info("images", TensorProto.UINT8, ["b", 4, 4, 1])
    graph = helper.make_graph(
        nodes, "g", [pixels], [helper.make_tensor_value_info("x3", FLOAT, ["b", 1, 4, 4])], tensors
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def answer(model: onnx.ModelProto, pixel: int) -> float:
    import onnxruntime as ort

    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return float(session.run(None, {"images": np.full((1, 4, 4, 1), pixel, np.uint8)})[0][0, 0, 0, 0])


@pytest.mark.parametrize(("factors", "exact"), [((3.0, 1.0, 1.0), 33.0), ((1.0, 1 / 3, 3.0), 11.0)])
def test_the_twin_rounds_weights_and_what_nodes_give(factors: tuple[float, float, float], exact: float) -> None:
    model = three_convolutions(factors, bias=0.0)
    half = halve_graph(model, {"first", "second"})
    # Each convolution's output by hand, the third in float32.
    first = np.float16(np.float32(np.float16(11)) * np.float32(np.float16(factors[0])))
    second = np.float16(np.float32(first) * np.float32(np.float16(factors[1])))
    assert answer(widen_graph(half), 11) == np.float32(second) * np.float32(factors[2])
    assert answer(model, 11) == pytest.approx(exact)


def test_an_overflow_between_layers_shows_in_the_twin() -> None:
    model = three_convolutions((300.0, 300.0, 1e-3))
    assert answer(model, 2) == pytest.approx(180.0)
    half = halve_graph(model, {"first", "second"})
    assert answer(widen_graph(half), 2) == np.inf
    # On a processor the graph itself would hide it: that is what the twin is for.
    assert answer(half, 2) == pytest.approx(180.0, rel=1e-2)


def with_initializer(bundle: Bundle, name: str, value: np.ndarray) -> onnx.GraphProto:
    graph = onnx.load(bundle.deployed_graph).graph
    (tensor,) = (tensor for tensor in graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(value.astype(np.float32), name))
    return graph


def test_layers_whose_weights_overflow_stay_in_float(bundle: Bundle) -> None:
    """Those that the bundle's warning fp16-weight-overflow is about, and those that the graph shows."""
    layers = list(bundle.health.layers)
    place = next(number for number, layer in enumerate(layers) if layer.name == "model.3.bn")
    weights = layers[place].weights.model_copy(update={"fp16_infinite": 2})
    layers[place] = layers[place].model_copy(update={"weights": weights})
    warned = replace(bundle, health=bundle.health.model_copy(update={"layers": layers}))
    name = "network.model.5.conv.bias"
    graph = onnx.load(bundle.deployed_graph).graph
    (bias,) = (numpy_helper.to_array(tensor) for tensor in graph.initializer if tensor.name == name)
    huge = bias.copy()
    huge[:3] = 70_000, -1e6, 65_504  # the last is the largest that fp16 holds
    before, after = choose_half_layers(bundle, graph), choose_half_layers(warned, with_initializer(bundle, name, huge))
    reasons = {layer.conv: layer.reason for layer in after.kept if layer not in before.kept}
    words = "2 of its weights and biases are infinite in fp16"
    assert reasons == {"model.3.conv": words, "model.5.conv": words}
    assert before.nodes - after.nodes == {"/network/model.3/conv/Conv", "/network/model.5/conv/Conv"}
    assert after.convolutions == before.convolutions - 2


@pytest.fixture
def overflowing(bundle_path: Path, tmp_path: Path) -> Bundle:
    """The bundle with queries 2^16 times and keys 2^-16 times as large in attention: in fp32 bit for bit the same
    answers, in fp16 queries that are infinite. No weight is."""
    folder = Path(shutil.copytree(bundle_path, tmp_path / "root" / "bundle"))
    model = onnx.load(folder / "model.onnx")
    for tensor in model.graph.initializer:
        if tensor.name.startswith("network.model.10.m.0.attn.qkv.conv."):
            values = numpy_helper.to_array(tensor).copy()
            heads = values.reshape(-1, 128, *values.shape[1:])  # of each head 32 queries, 32 keys and 64 values
            heads[:, :32] *= 2.0**16
            heads[:, 32:64] *= 2.0**-16
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
            assert np.isfinite(values.astype(np.float16)).all()
    onnx.save(model, folder / "model.onnx")
    rehash(folder, "model.onnx")
    return load_bundle(folder)


class NoProgress:
    @contextmanager
    def step(self, _: str):
        yield lambda done, total: None


def test_a_network_that_overflows_on_the_way_is_refused(overflowing: Bundle) -> None:
    assert check_engine(overflowing, OnnxRuntimeEngine(overflowing.deployed_graph, "cpu", 2)).extra == 0
    with pytest.raises(QuantizationRefused, match="Rounded as in fp16, the network would not be served"):
        halve(overflowing, None, 2, NoProgress())
    assert [path.name for path in overflowing.path.parent.iterdir()] == ["bundle"]


# --- the bundle ---------------------------------------------------------------------------------------------


@pytest.fixture
def spoilable(halved: Bundle, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(halved.path, tmp_path / "bundle"))


@pytest.mark.parametrize("file", [FP16, FP16_GRAPH])
def test_one_changed_byte(spoilable: Path, file: str) -> None:
    data = bytearray((spoilable / file).read_bytes())
    data[len(data) // 2] ^= 1
    (spoilable / file).write_bytes(data)
    with pytest.raises(BundleCorrupt, match=file):
        load_bundle(spoilable)


@pytest.mark.parametrize(("left", "gone"), [(FP16, FP16_GRAPH), (FP16_GRAPH, FP16)])
@pytest.mark.parametrize("listed", [True, False])
def test_neither_of_the_two_files_is_there_alone(spoilable: Path, left: str, gone: str, listed: bool) -> None:
    (spoilable / gone).unlink()
    if not listed:
        rewrite(spoilable, MANIFEST, lambda manifest: manifest["files"].pop(gone))
    with pytest.raises(BundleIncomplete, match=f"lacks {gone}"):
        load_bundle(spoilable)


def test_a_record_of_another_graph(spoilable: Path) -> None:
    rewrite(spoilable, FP16, lambda spec: spec["graph"].update(file="model.onnx"))
    with pytest.raises(BundleSchemaError, match=r"about model\.onnx, not model\.fp16\.onnx"):
        load_bundle(spoilable)

"""The probe: the deployed graph's first layers with per-channel statistics as output, for drift and linting.

Which layers it measures is itself measured: pictures are corrupted in the ways that cameras and pipelines do, and the
layers whose statistics move furthest under the corruption they show least are taken.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx.utils
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from service.bundle.batchnorm import BatchNormReport
from service.bundle.probe import (
    FIGURES,
    KINDS,
    PROBE_FIGURES,
    PROBE_INPUT,
    PROBE_MEANS,
    PROBE_STRIDE,
    PROBE_VARIANCES,
    ProbedLayer,
    ProbeSpec,
)
from service.errors import ExportFailed
from service.prepare.proof_inputs import proof_pictures
from service.preprocessing.corruptions import CORRUPTIONS
from service.preprocessing.letterbox import content_tensor, letterbox, plan_letterbox

Floats = NDArray[np.float64]

_FIRST, _SENSITIVE = 2, 3
#: A candidate may need at most this share of the network's multiply-accumulates, or probing would cost too much.
_LARGEST_MACS_SHARE = 0.3
#: More channels of one layer say little more, and the baseline's covariance grows with their square.
_MOST_FEATURES = 64
#: Operators that work at any picture size. Others, such as attention's Reshape, hold the size they were traced with.
_SIZE_FREE = frozenset(
    (
        *("Conv", "Sigmoid", "Mul", "Add", "Sub", "Div", "Concat", "Split", "Slice", "Shape", "Gather", "Constant"),
        *("Cast", "MaxPool", "AveragePool", "Relu", "LeakyRelu", "HardSwish", "HardSigmoid", "Clip", "Identity"),
    )
)
#: Luminance and colour differences from red, green and blue; see ``bundle.probe.PLANES``.
_TO_PLANES = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
_LAPLACIAN = ((0, 1, 0), (1, -4, 1), (0, 1, 0))


@dataclass(frozen=True)
class _Candidate:
    node: onnx.NodeProto
    conv: str
    batch_norm: str | None
    channels: int
    macs_share: float


def write_probe(
    deployed: Path, target: Path, batchnorm: BatchNormReport, macs: Mapping[str, int], imgsz: int
) -> ProbeSpec:
    """Choose the layers, and write ``probe.onnx``.

    Args:
        deployed: ``model.onnx``.
        batchnorm: says which BatchNorm stood behind which convolution.
        macs: multiply-accumulates of each convolution by module path.
        imgsz: side of the deployed graph's input, pixels.

    Raises:
        ExportFailed: the deployed graph has no convolution that can be measured.
    """
    model = onnx.load(deployed)
    candidates = _candidates(model, batchnorm, macs)
    if not candidates:
        raise ExportFailed(f"{deployed.name} holds no convolution whose output could be measured.")
    sensitivity = _measure_sensitivity(model, candidates, imgsz)
    chosen = _choose(candidates, sensitivity)
    onnx.save(_probe_graph(model, chosen), target)
    dead = {layer.name: set(layer.dead_channels) for layer in batchnorm.layers}
    layers = [
        ProbedLayer(
            conv=candidate.conv,
            batch_norm=candidate.batch_norm,
            channels=candidate.channels,
            feature_channels=_spread([c for c in range(candidate.channels) if c not in _dead(dead, candidate)]),
            chosen="first" if candidate in candidates[:_FIRST] else "sensitive",
            sensitivity={name: round(value, 4) for name, value in sensitivity[candidate.conv].items()},
        )
        for candidate in chosen
    ]
    return ProbeSpec(layers=layers, macs_share=max(candidate.macs_share for candidate in chosen))


def _dead(dead: Mapping[str, set[int]], candidate: _Candidate) -> set[int]:
    return set() if candidate.batch_norm is None else dead[candidate.batch_norm]


def _spread(channels: list[int]) -> list[int]:
    """At most ``_MOST_FEATURES`` of them, evenly spread."""
    if len(channels) <= _MOST_FEATURES:
        return channels
    return [channels[i] for i in np.linspace(0, len(channels) - 1, _MOST_FEATURES).round().astype(int)]


def _candidates(model: onnx.ModelProto, batchnorm: BatchNormReport, macs: Mapping[str, int]) -> list[_Candidate]:
    """Convolutions as they run, the first two whatever they cost; only folded ones where there are any."""
    folded = {layer.conv: layer.name for layer in batchnorm.layers if layer.status == "folded"}
    sizes = {initializer.name: initializer.dims[0] for initializer in model.graph.initializer}
    producers = {output: node for node in model.graph.node for output in node.output}
    total, so_far, found = sum(macs.values()), 0, []
    for node in model.graph.node:
        conv = node.input[1].removeprefix("network.").removesuffix(".weight") if node.op_type == "Conv" else None
        if conv is None or conv not in macs:
            continue
        so_far += macs[conv]
        if (conv in folded or not folded) and _runs_at_any_size(node, producers):
            found.append(_Candidate(node, conv, folded.get(conv), sizes[node.input[1]], so_far / total))
    return [c for i, c in enumerate(found) if i < _FIRST or c.macs_share <= _LARGEST_MACS_SHARE]


def _runs_at_any_size(node: onnx.NodeProto, producers: Mapping[str, onnx.NodeProto]) -> bool:
    """Whether nothing between the picture and this convolution holds a size."""
    start = next(other for other in producers.values() if other.op_type == "Conv").input[0]
    seen, pending = set(), [node]
    while pending:
        current = pending.pop()
        if current.output[0] in seen:
            continue
        if current.op_type not in _SIZE_FREE:
            return False
        seen.add(current.output[0])
        pending += [producers[name] for name in current.input if name in producers and name != start]
    return True


def _choose(candidates: list[_Candidate], sensitivity: Mapping[str, Mapping[str, float]]) -> list[_Candidate]:
    ranked = sorted(candidates[_FIRST:], key=lambda c: -min(sensitivity[c.conv].values()))
    taken = [*candidates[:_FIRST], *ranked[:_SENSITIVE]]
    return [candidate for candidate in candidates if candidate in taken]


def _probe_graph(model: onnx.ModelProto, layers: Sequence[_Candidate]) -> onnx.ModelProto:
    """The nodes that ``layers`` need, with statistics: float32 tensor (1, 3, H, W) in, two (1, C) and (1, 12) out."""
    start = next(node for node in model.graph.node if node.op_type == "Conv").input[0]
    extended = onnx.ModelProto()
    extended.CopyFrom(model)
    graph = extended.graph
    # Of a node's inputs ONNX Runtime first computes the one whose node comes last in the file. In this order it
    # measures each layer before it computes the next one, and need not keep the maps of all of them meanwhile.
    for number, layer in reversed(list(enumerate(layers))):
        graph.node.extend(_moments(layer.node.output[0], f"probe_mean_{number}", f"probe_variance_{number}"))
        moments = [f"probe_mean_{number}", f"probe_variance_{number}"]
        graph.node.append(helper.make_node("Concat", moments, [f"probe_moments_{number}"], axis=2))
    graph.node.extend(_figure_nodes(start))
    graph.initializer.append(numpy_helper.from_array(_weights(_TO_PLANES)[..., None, None], "probe_to_planes"))
    graph.initializer.append(numpy_helper.from_array(_weights([[_LAPLACIAN]] * len(_TO_PLANES)), "probe_laplacian"))
    parts = [f"probe_moments_{number}" for number in range(len(layers))]
    joined = {result: f"probe_{result}_joined" for result in (PROBE_MEANS, PROBE_VARIANCES, PROBE_FIGURES)}
    graph.node.append(helper.make_node("Concat", parts, ["probe_moments"], axis=1))
    graph.node.append(
        helper.make_node("Split", ["probe_moments"], [joined[PROBE_MEANS], joined[PROBE_VARIANCES]], axis=2)
    )
    graph.node.append(helper.make_node("Concat", [f"probe_{kind}" for kind in KINDS], [joined[PROBE_FIGURES]], axis=1))
    channels = sum(layer.channels for layer in layers)
    for result, width in ((PROBE_MEANS, channels), (PROBE_VARIANCES, channels), (PROBE_FIGURES, len(FIGURES))):
        graph.node.append(helper.make_node("Flatten", [joined[result]], [result], axis=1))
        graph.output.append(helper.make_tensor_value_info(result, TensorProto.FLOAT, [1, width]))
    del graph.value_info[:]
    graph.value_info.append(helper.make_tensor_value_info(start, TensorProto.FLOAT, [1, 3, "height", "width"]))
    probe = onnx.utils.Extractor(extended).extract_model([start], [PROBE_MEANS, PROBE_VARIANCES, PROBE_FIGURES])
    for node in probe.graph.node:
        node.input[:] = [PROBE_INPUT if name == start else name for name in node.input]
    probe.graph.input[0].name = PROBE_INPUT
    del probe.graph.value_info[:]
    onnx.checker.check_model(probe)
    return probe


def _weights(values: Sequence[object]) -> NDArray[np.float32]:
    return np.array(values, np.float32)


def _moments(source: str, mean: str, variance: str) -> list[onnx.NodeProto]:
    """Mean and variance over positions, the latter about the mean: a mean of squares would cancel in float32."""
    offset = f"{variance}_offset"
    return [
        *_average(source, mean),
        helper.make_node("Sub", [source, mean], [offset]),
        *_mean_square(offset, variance),
    ]


def _mean_square(source: str, result: str) -> list[onnx.NodeProto]:
    """As ``_average``, and without keeping the squares."""
    sums, width, count, rows = (f"{result}_{part}" for part in ("row_sums", "width", "count", "rows"))
    return [
        helper.make_node("ReduceSumSquare", [source], [sums], axes=[3], keepdims=1),
        helper.make_node("Shape", [source], [width], start=3, end=4),
        helper.make_node("Cast", [width], [count], to=TensorProto.FLOAT),
        helper.make_node("Div", [sums, count], [rows]),
        helper.make_node("ReduceMean", [rows], [result], axes=[2], keepdims=1),
    ]


def _average(source: str, result: str) -> list[onnx.NodeProto]:
    """Over the columns, then over the rows: two short sums round less than one over a whole map. Of the embedded
    network at 320 px the means were off by 7e-7 of a standard deviation at worst, not by 6e-5."""
    rows = f"{result}_rows"
    return [
        helper.make_node("ReduceMean", [source], [rows], axes=[3], keepdims=1),
        helper.make_node("ReduceMean", [rows], [result], axes=[2], keepdims=1),
    ]


def _figure_nodes(tensor: str) -> list[onnx.NodeProto]:
    mean, variance, square, magnitude = (f"probe_{kind}" for kind in KINDS)
    return [
        helper.make_node("Conv", [tensor, "probe_to_planes"], ["probe_planes"]),
        *_moments("probe_planes", mean, variance),
        helper.make_node("Conv", ["probe_planes", "probe_laplacian"], ["probe_edges"], group=len(_TO_PLANES)),
        *_mean_square("probe_edges", square),
        helper.make_node("Abs", ["probe_edges"], ["probe_edges_magnitude"]),
        *_average("probe_edges_magnitude", magnitude),
    ]


def _measure_sensitivity(
    model: onnx.ModelProto, candidates: Sequence[_Candidate], imgsz: int
) -> dict[str, dict[str, float]]:
    """By convolution and corruption: shift of its channels, root mean square, in deviations between pictures."""
    options = ort.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    graph = _probe_graph(model, candidates).SerializeToString()
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def features(pictures: list[NDArray[np.uint8]]) -> Floats:
        rows = []
        for picture in pictures:
            means, variances = session.run([PROBE_MEANS, PROBE_VARIANCES], {PROBE_INPUT: _tensor(picture)})
            rows.append(np.stack([means[0], np.log(variances[0] + 1e-6)]).astype(np.float64))
        return np.stack(rows)

    clean = _clean_crops(imgsz)
    right = features(clean)
    spread = right.std(0)
    varied = spread > 0
    bounds = np.cumsum([0, *(candidate.channels for candidate in candidates)])
    found: dict[str, dict[str, float]] = {candidate.conv: {} for candidate in candidates}
    for name, corrupt in CORRUPTIONS.items():
        moved = (features([corrupt(picture) for picture in clean]) - right).mean(0)
        shift = np.divide(moved, spread, out=np.zeros_like(moved), where=varied)
        for candidate, low, high in zip(candidates, bounds[:-1], bounds[1:], strict=True):
            found[candidate.conv][name] = float(np.sqrt((shift[:, low:high] ** 2).mean()))
    return found


def _clean_crops(imgsz: int) -> list[NDArray[np.uint8]]:
    """Each proof picture at the size the network sees it, whole and in quarters, without padding."""
    crops: list[NDArray[np.uint8]] = []
    for picture in proof_pictures():
        height, width = picture.image.shape[:2]
        plan = plan_letterbox(width, height, imgsz)
        (left, top), (wide, high) = plan.offset_xy, plan.resized_wh
        content = letterbox(picture.image, plan)[top : top + high, left : left + wide]
        crops.append(content)
        if min(high, wide) >= 2 * PROBE_STRIDE:
            rows, columns = (slice(0, high // 2), slice(high // 2, high)), (slice(0, wide // 2), slice(wide // 2, wide))
            crops += [np.ascontiguousarray(content[r, c]) for r in rows for c in columns]
    return crops


def _tensor(picture: NDArray[np.uint8]) -> NDArray[np.float32]:
    height, width = picture.shape[:2]
    plan = plan_letterbox(width, height, max(height, width))
    return content_tensor(letterbox(picture, plan), plan)[None]

"""Cuts the head off the deployed graph and lets it report statistics: graph surgery, no choices."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.utils import Extractor

from service.bundle.probe import FIGURES_OUTPUT, KINDS, MEAN, OUTPUTS, PICTURE, VARIANCE
from service.errors import ExportFailed
from service.prepare.dataflow import BatchNormSite

#: Operators through which a graph traced at one size still runs at any other. Reshape, Resize and the like keep sizes.
_SIZE_FREE = frozenset(
    (
        *("Conv", "Sigmoid", "Mul", "Add", "Sub", "Div", "Concat", "Split", "Slice", "Shape", "Gather", "Constant"),
        *("Cast", "MaxPool", "AveragePool", "Relu", "LeakyRelu", "HardSwish", "HardSigmoid", "Clip", "Identity"),
        *("Tanh", "Softplus", "Mish"),
    )
)
#: Luminance and colour differences of red, green and blue: ITU-R BT.601 without offsets, as in JFIF.
_PLANES = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
_LAPLACIAN = ((0, 1, 0), (1, -4, 1), (0, 1, 0))


@dataclass(frozen=True)
class ProbePoint:
    """A folded convolution in the deployed graph.

    Attributes:
        site: its BatchNorm and module path.
        output: the name its output has in the graph.
        convs: initializer names of the weights of every convolution up to it, itself included.
    """

    site: BatchNormSite
    output: str
    convs: frozenset[str]


def probe_points(model: onnx.ModelProto, sites: Sequence[BatchNormSite]) -> list[ProbePoint]:
    """The folded convolutions that can be probed at any picture size, in the graph's order.

    A convolution whose weights the exporter gave another name cannot be found, and is left out.
    """
    by_weight = {f"network.{site.conv}.weight": site for site in sites}
    producers = {output: node for node in model.graph.node for output in node.output}
    picture = _picture_tensor(model)
    points = []
    for node in model.graph.node:
        site = by_weight.get(node.input[1]) if node.op_type == "Conv" else None
        if site is None:
            continue
        upstream = _upstream(node, producers, picture)
        if all(before.op_type in _SIZE_FREE for before in upstream):
            convs = frozenset(before.input[1] for before in upstream if before.op_type == "Conv")
            points.append(ProbePoint(site, node.output[0], convs))
    return points


def _picture_tensor(model: onnx.ModelProto) -> str:
    """The tensor that the first convolution reads: (B, 3, H, W) float32 RGB in 0..1."""
    for node in model.graph.node:
        if node.op_type == "Conv":
            return str(node.input[0])
    raise ExportFailed("The deployed graph has no convolution to probe.")


def _upstream(node: onnx.NodeProto, producers: dict[str, onnx.NodeProto], stop: str) -> list[onnx.NodeProto]:
    """The node and all before it, as far as the tensor ``stop``."""
    seen: dict[str, onnx.NodeProto] = {}
    pending = [node]
    while pending:
        current = pending.pop()
        if current.output[0] in seen:
            continue
        seen[current.output[0]] = current
        pending += [producers[name] for name in current.input if name in producers and name != stop]
    return list(seen.values())


def write_probe_graph(model: onnx.ModelProto, points: Sequence[ProbePoint], path: Path) -> None:
    """Write the graph from the picture to the points, with their statistics as its outputs; see ``bundle.probe``.

    Raises:
        ExportFailed: it does not validate.
    """
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    graph, picture = probed.graph, _picture_tensor(model)
    graph.node.extend(_layer_statistics([point.output for point in points]))
    graph.node.extend(_picture_statistics(picture))
    graph.initializer.extend(
        [
            numpy_helper.from_array(np.array(_PLANES, np.float32)[..., None, None], "probe.to_planes"),
            numpy_helper.from_array(np.array([[_LAPLACIAN]] * 3, np.float32), "probe.laplacian"),
            numpy_helper.from_array(np.array([-1], np.int64), "probe.flat"),
        ]
    )
    graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, [None]) for name in OUTPUTS)
    shape = [1, 3, "height", "width"]
    graph.value_info.append(helper.make_tensor_value_info(picture, TensorProto.FLOAT, shape))
    try:
        cut = Extractor(probed).extract_model([picture], list(OUTPUTS))
        del cut.graph.value_info[:]  # sizes of the square it was traced with
        _rename_input(cut.graph, picture)
        onnx.checker.check_model(cut, full_check=True)
        onnx.save(cut, path)
    except Exception as error:  # protobuf, extraction and checker errors alike
        raise ExportFailed(f"{path.name} could not be cut out of the deployed graph: {error}") from error


def _rename_input(graph: onnx.GraphProto, old: str) -> None:
    graph.input[0].name = PICTURE
    for node in graph.node:
        for position, name in enumerate(node.input):
            if name == old:
                node.input[position] = PICTURE


def _layer_statistics(outputs: Sequence[str]) -> list[onnx.NodeProto]:
    """Mean, and variance about that mean: the difference of squares would cancel in float32."""
    nodes, means, variances = [], [], []
    for number, output in enumerate(outputs):
        mean, variance = f"probe.{number}.mean", f"probe.{number}.variance"
        nodes += _moments(output, mean, variance)
        means.append(mean)
        variances.append(variance)
    return nodes + _flat(means, MEAN) + _flat(variances, VARIANCE)


def _moments(source: str, mean: str, variance: str) -> list[onnx.NodeProto]:
    return [
        *_average(source, mean),
        helper.make_node("Sub", [source, mean], [f"{variance}.centred"]),
        *_mean_square(f"{variance}.centred", variance),
    ]


def _mean_square(source: str, target: str) -> list[onnx.NodeProto]:
    return [helper.make_node("Mul", [source, source], [f"{target}.square"]), *_average(f"{target}.square", target)]


def _average(source: str, target: str) -> list[onnx.NodeProto]:
    """Over the columns, then over the rows: two short sums round less than one long one. Keeps (1, C, 1, 1)."""
    rows = f"{target}.rows"
    return [
        helper.make_node("ReduceMean", [source], [rows], axes=[3], keepdims=1),
        helper.make_node("ReduceMean", [rows], [target], axes=[2], keepdims=1),
    ]


def _flat(sources: Sequence[str], target: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("Concat", sources, [f"{target}.joined"], axis=1),
        helper.make_node("Reshape", [f"{target}.joined", "probe.flat"], [target]),
    ]


def _picture_statistics(picture: str) -> list[onnx.NodeProto]:
    figures = [f"probe.picture.{kind}" for kind in KINDS]
    mean, variance, square, magnitude = figures
    return [
        helper.make_node("Conv", [picture, "probe.to_planes"], ["probe.planes"]),
        *_moments("probe.planes", mean, variance),
        helper.make_node("Conv", ["probe.planes", "probe.laplacian"], ["probe.edges"], group=3),
        *_mean_square("probe.edges", square),
        helper.make_node("Abs", ["probe.edges"], ["probe.edges.magnitude"]),
        *_average("probe.edges.magnitude", magnitude),
        *_flat(figures, FIGURES_OUTPUT),
    ]

"""The deployed graph is held to the fold of the reference graph: right folds pass, one wrong number does not."""

import copy
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

from service.bundle.graph_fold import find_graph_flaw, require_folded_graph
from service.bundle.store import Bundle, load_bundle
from service.errors import BundleUncertified
from tests.bundles import change_constant, fold_anew, rehash

#: The first convolution, two in the middle, one in attention, and one for each scale of the head, which is depthwise.
CONVS = [
    "model.0",
    "model.4.cv1",
    "model.10.m.0.attn.pe",
    "model.16.m.0.m.0.cv2",
    *(f"model.23.one2one_cv3.{scale}.0.0" for scale in range(3)),
]


def node_of(graph: Path, conv: str) -> str:
    """The node that reads the weights of a convolution."""
    return next(node.name for node in onnx.load(graph).graph.node if f"network.{conv}.conv.weight" in node.input)


def flaw(bundle: Bundle, deployed: Path | None = None, reference: Path | None = None) -> str | None:
    folded = len(bundle.certificate.layers)
    return find_graph_flaw(reference or bundle.reference_graph, deployed or bundle.deployed_graph, folded)


def test_the_graphs_of_a_bundle_belong_together(bundle: Bundle) -> None:
    assert flaw(bundle) is None
    require_folded_graph(bundle)


@pytest.mark.parametrize("conv", CONVS)
@pytest.mark.parametrize(("part", "by"), [("weight", 1 + 4e-7), ("bias", 1 + 1e-5), ("weight", 0.0)])
def test_one_wrong_channel_of_one_layer_is_named(
    bundle: Bundle, tmp_path: Path, conv: str, part: str, by: float
) -> None:
    """By as little as a few units in the last place, and in the channel whose weights are the least."""
    graph = Path(shutil.copy(bundle.deployed_graph, tmp_path))
    changed = []

    def scale(values: np.ndarray) -> np.ndarray:
        size = np.abs(values.reshape(len(values), -1)).max(1)
        changed.append(int(size.argmin() if part == "weight" else size.argmax()))
        values[changed[0]] *= np.float32(by)
        return values

    change_constant(graph, f"network.{conv}.conv.{part}", scale)
    found = str(flaw(bundle, graph))
    assert f"the weights of {node_of(graph, conv)} are not those of the fold of" in found
    assert f"in 1 of its channels, channel {changed[0]} first" in found


def test_a_fold_with_another_eps_is_seen(bundle: Bundle, tmp_path: Path) -> None:
    """1e-5 for 1e-3, in one layer: right in every other respect."""
    graph = Path(shutil.copy(bundle.deployed_graph, tmp_path))
    fold_anew(bundle.reference_graph, graph, "model.4.cv1", eps=1e-5)
    assert "/model.4/cv1/conv/Conv" in str(flaw(bundle, graph))
    fold_anew(bundle.reference_graph, graph, "model.4.cv1")
    assert flaw(bundle, graph) is None, "what the test reckons is what is asked for"


@pytest.mark.parametrize("part", ["weight", "bias", "running_mean", "running_var"])
def test_a_changed_batchnorm_of_the_reference_is_seen(bundle: Bundle, tmp_path: Path, part: str) -> None:
    graph = Path(shutil.copy(bundle.reference_graph, tmp_path))
    change_constant(graph, f"network.model.4.cv1.bn.{part}", lambda values: values * np.float32(1.001))
    assert "/model.4/cv1" in str(flaw(bundle, reference=graph))


def change_attribute(model: onnx.ModelProto) -> None:
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    (pads,) = (attribute for attribute in conv.attribute if attribute.name == "pads")
    pads.ints[0] = 0


def leave_out(model: onnx.ModelProto) -> None:
    sigmoid = next(node for node in model.graph.node if node.op_type == "Sigmoid")
    for node in model.graph.node:
        node.input[:] = [sigmoid.input[0] if name == sigmoid.output[0] else name for name in node.input]
    model.graph.node.remove(sigmoid)


def put_in(model: onnx.ModelProto) -> None:
    last = model.graph.node[-1]
    model.graph.node.append(helper.make_node("Relu", ["before"], [last.output[0]]))
    last.output[0] = "before"


def swap_inputs(model: onnx.ModelProto) -> None:
    joint = next(node for node in model.graph.node if node.op_type == "Concat")
    joint.input[0], joint.input[1] = joint.input[1], joint.input[0]


def change_divisor(model: onnx.ModelProto) -> None:
    """What pixels are divided by."""
    division = next(node for node in model.graph.node if node.op_type == "Div")
    constant = next(node for node in model.graph.node if node.output[0] == division.input[1])
    constant.attribute[0].t.CopyFrom(numpy_helper.from_array(np.array(254, np.float32)))


def change_head(model: onnx.ModelProto) -> None:
    """A convolution that no BatchNorm was folded into."""
    (bias,) = (t for t in model.graph.initializer if t.name == "network.model.23.one2one_cv3.0.2.bias")
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(1e-3), bias.name))


def change_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 18


def compute_in_an_identity(model: onnx.ModelProto) -> None:
    """A function of that name, which computes something."""
    model.graph.node.append(helper.make_node("Identity", ["before"], [model.graph.node[-1].output[0]], domain="own"))
    model.graph.node[-2].output[0] = "before"


def change_output(model: onnx.ModelProto) -> None:
    model.graph.output[0].name = model.graph.node[-2].output[0]


@pytest.mark.parametrize(
    "change",
    [
        change_attribute,
        leave_out,
        put_in,
        swap_inputs,
        change_divisor,
        change_head,
        change_opset,
        compute_in_an_identity,
        change_output,
    ],
)
def test_nothing_but_batchnorm_may_differ(
    bundle: Bundle, tmp_path: Path, change: Callable[[onnx.ModelProto], None]
) -> None:
    model = onnx.load(bundle.deployed_graph)
    change(model)
    onnx.save(model, tmp_path / "model.onnx")
    assert "is not reference.onnx with its BatchNorm folded: " in str(flaw(bundle, tmp_path / "model.onnx"))


def test_a_graph_in_which_fewer_are_folded_than_the_certificate_says(bundle: Bundle) -> None:
    assert flaw(bundle, bundle.reference_graph) == "0 BatchNorm of reference.onnx are folded in reference.onnx, not 96"


@pytest.mark.parametrize("content", [b"", b"no graph", b"\x3a\x02\x0a"])
def test_what_is_no_graph_is_named(bundle: Bundle, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    assert flaw(bundle, tmp_path / "model.onnx") == "model.onnx is not an ONNX file"


@pytest.mark.parametrize("part", ["input", "output"])
def test_a_node_that_lacks_a_part_is_named(bundle: Bundle, tmp_path: Path, part: str) -> None:
    for file in (bundle.reference_graph, bundle.deployed_graph):
        model = onnx.load(file)
        next(node for node in model.graph.node if node.op_type == "Conv").ClearField(part)
        onnx.save(model, tmp_path / file.name)
    found = flaw(bundle, tmp_path / "model.onnx", tmp_path / "reference.onnx")
    assert found == "model.onnx or reference.onnx holds a node that lacks a part, or a damaged one"


def test_a_name_that_stands_twice_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    """Protobuf merges what stands twice: it takes the last name, whatever stood first."""
    model = onnx.load(bundle.deployed_graph)
    tensor = model.graph.initializer.pop()
    first, graph = tensor.name.encode(), model.graph.SerializeToString()
    tensor.name = "another"
    forged = graph + message(0x2A, message(0x42, first) + tensor.SerializeToString())
    model.ClearField("graph")
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString() + message(0x3A, forged))
    assert onnx.load(tmp_path / "model.onnx").graph.initializer[-1].name == "another"
    assert flaw(bundle, tmp_path / "model.onnx") == "model.onnx is not an ONNX file"


def give_weights_twice(model: onnx.ModelProto) -> str:
    """What is loaded is the last, or the first, of the two."""
    weights = model.graph.initializer[0]
    model.graph.initializer.append(numpy_helper.from_array(numpy_helper.to_array(weights) * 2, weights.name))
    return f"gives the name '{weights.name}' twice"


def give_weights_as_a_node(model: onnx.ModelProto) -> str:
    weights = model.graph.initializer[0]
    other = numpy_helper.from_array(numpy_helper.to_array(weights) * 2)
    model.graph.node.insert(0, helper.make_node("Constant", [], [weights.name], value=other))
    return f"gives the name '{weights.name}' twice"


def reckon_weights(model: onnx.ModelProto) -> str:
    weights = model.graph.initializer[0]
    model.graph.node.insert(0, helper.make_node("Relu", [model.graph.initializer[1].name], [weights.name]))
    return f"gives the name '{weights.name}' twice"


def let_weights_be_sent(model: onnx.ModelProto) -> str:
    """Who asks may send others: what stands in the file is only the default."""
    weights = model.graph.initializer[0]
    model.graph.input.append(helper.make_tensor_value_info(weights.name, onnx.TensorProto.FLOAT, weights.dims))
    return f"gives the name '{weights.name}' twice"


def give_a_value_twice(model: onnx.ModelProto) -> str:
    last = model.graph.node[-1]
    model.graph.node.append(helper.make_node("Relu", [last.input[0]], [last.output[0]]))
    return f"gives the name '{last.output[0]}' twice"


def give_weights_sparsely(model: onnx.ModelProto) -> str:
    weights = model.graph.initializer[0]
    values = numpy_helper.from_array(np.ones(1, np.float32), weights.name)
    places = numpy_helper.from_array(np.zeros(1, np.int64), "places")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, list(weights.dims)))
    return "holds sparse constants"


def leave_weights_to_another_file(model: onnx.ModelProto) -> str:
    """With what is right beside it in the file, which nobody reads."""
    weights = model.graph.initializer[0]
    weights.data_location = onnx.TensorProto.EXTERNAL
    weights.external_data.add(key="location", value="weights.bin")
    return f"leaves '{weights.name}' to another file"


def bring_a_function(model: onnx.ModelProto) -> str:
    """Of the name of a standard operation, which only the deployed graph gives a bias."""
    body = [helper.make_node("Relu", ["x"], ["y"])]
    model.functions.append(helper.make_function("", "Conv", ["x", "w", "b"], ["y"], body, model.opset_import))
    return "brings functions of its own"


def read_in_a_branch(model: onnx.ModelProto) -> str:
    """A value that folding changes, read from inside an attribute, where no input shows it."""
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    value = helper.make_tensor_value_info("inside", onnx.TensorProto.FLOAT, None)
    branch = helper.make_graph([helper.make_node("Relu", [conv.output[0]], ["inside"])], "branch", [], [value])
    always = numpy_helper.from_array(np.array(True), "always")
    model.graph.initializer.append(always)
    model.graph.node.append(
        helper.make_node("If", ["always"], ["of the branch"], name="fork", then_branch=branch, else_branch=branch)
    )
    return "has a graph in fork"


def give_an_attribute_twice(model: onnx.ModelProto) -> str:
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    conv.attribute.append(helper.make_attribute("group", 1))
    return f"gives {conv.name} the attribute 'group' twice"


@pytest.mark.parametrize(
    "forge",
    [
        give_weights_twice,
        give_weights_as_a_node,
        reckon_weights,
        let_weights_be_sent,
        give_a_value_twice,
        give_weights_sparsely,
        leave_weights_to_another_file,
        bring_a_function,
        read_in_a_branch,
        give_an_attribute_twice,
    ],
)
def test_what_leaves_open_what_is_run_is_refused(
    bundle: Bundle, tmp_path: Path, forge: Callable[[onnx.ModelProto], str]
) -> None:
    for file, given in ((bundle.deployed_graph, "deployed"), (bundle.reference_graph, "reference")):
        model = onnx.load(file)
        expected = forge(model)
        (tmp_path / file.name).write_bytes(model.SerializeToString())
        assert flaw(bundle, **{given: tmp_path / file.name}) == f"{file.name} {expected}"


def test_weights_that_stand_in_another_field_too_are_refused(bundle: Bundle, tmp_path: Path) -> None:
    """Of two fields with values a runtime takes the one it looks for first."""
    model = onnx.load(bundle.deployed_graph)
    (weights,) = (t for t in model.graph.initializer if t.name == "network.model.4.cv1.conv.weight")
    weights.float_data.extend([0.0] * int(np.prod(weights.dims)))
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    assert "does not hold weights and a bias that fit" in str(flaw(bundle, tmp_path / "model.onnx"))


def test_a_convolution_of_another_domain_is_none(tmp_path: Path) -> None:
    """ONNX Runtime's own ones take an activation into themselves, before the BatchNorm."""
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(4, 6, 3), batchnorm(6)
    files = [
        export(nn.Sequential(conv, norm), tmp_path / "reference.onnx"),
        export(folded_by_hand(conv, norm), tmp_path / "model.onnx"),
    ]
    assert find_graph_flaw(*files, 1) is None
    for file in files:
        model = onnx.load(file)
        next(node for node in model.graph.node if node.op_type == "Conv").domain = "com.microsoft.nchwc"
        file.write_bytes(model.SerializeToString())
    assert "Conv has other weights, constants or inputs" in str(find_graph_flaw(*files, 1))


def message(key: int, content: bytes) -> bytes:
    size, length = len(content), bytearray()
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([key, *length, size]) + content


def test_a_bundle_is_refused_with_its_folder_and_the_reason(bundle_path: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundle_path, tmp_path / "bundle"))
    change_constant(folder / "model.onnx", "network.model.4.cv1.conv.bias", lambda values: values * np.float32(1.01))
    rehash(folder, "model.onnx")
    with pytest.raises(BundleUncertified, match=r"tmp.*bundle does not hold: model\.onnx is not .*Prepare it again"):
        require_folded_graph(load_bundle(folder))


def export(network: nn.Module, path: Path) -> Path:
    with torch.inference_mode():
        torch.onnx.export(
            network.eval(),
            (torch.zeros(1, 4, 8, 8),),
            str(path),
            dynamo=False,
            opset_version=17,
            training=torch.onnx.TrainingMode.PRESERVE,
            input_names=["pictures"],
            output_names=["answers"],
        )
    return path


def batchnorm(channels: int, *, affine: bool = True) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels, affine=affine)
    for values in (norm.running_mean, *norm.parameters()):
        values.data.uniform_(-1, 1)
    norm.running_var.uniform_(0.1, 2)
    return norm


def folded_by_hand(conv: nn.Conv2d | nn.ConvTranspose2d, norm: nn.BatchNorm2d) -> nn.Module:
    """A convolution whose weights and bias are what its answers to single pixels show: linear, so nothing else fits."""
    found = copy.deepcopy(conv)
    gain = norm.running_var.double().add(norm.eps).rsqrt() * (1 if norm.weight is None else norm.weight.double())
    channel = torch.arange(len(gain))
    groups = conv.groups
    for index in channel.tolist():
        if isinstance(conv, nn.ConvTranspose2d):
            of_group, inputs = len(gain) // groups, conv.in_channels // groups
            rows = slice(index // of_group * inputs, (index // of_group + 1) * inputs)
            found.weight.data[rows, index % of_group] = (
                conv.weight.data[rows, index % of_group].double() * gain[index]
            ).float()
        else:
            found.weight.data[index] = (conv.weight.data[index].double() * gain[index]).float()
    bias = torch.zeros(len(gain)).double() if conv.bias is None else conv.bias.data.double()
    beta = 0 if norm.bias is None else norm.bias.data.double()
    found.bias = nn.Parameter(((bias - norm.running_mean.double()) * gain + beta).float())
    return found


@pytest.mark.parametrize(
    "conv",
    [
        lambda: nn.Conv2d(4, 6, 3, bias=True),
        lambda: nn.Conv2d(4, 8, 3, groups=4, bias=False),
        lambda: nn.ConvTranspose2d(4, 6, 3, bias=False),
        lambda: nn.ConvTranspose2d(4, 6, 3, groups=2, bias=True),
    ],
)
@pytest.mark.parametrize("affine", [True, False])
def test_every_kind_of_convolution_is_folded_as_its_answers_say(
    conv: Callable[[], nn.Conv2d | nn.ConvTranspose2d], affine: bool, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    before = conv()
    norm = batchnorm(before.out_channels, affine=affine)
    reference = nn.Sequential(before, norm, nn.SiLU()).eval()
    deployed = nn.Sequential(folded_by_hand(before, norm), nn.Identity(), nn.SiLU()).eval()
    picture = torch.rand(1, 4, 8, 8)
    torch.testing.assert_close(deployed(picture), reference(picture), atol=1e-5, rtol=1e-5)
    files = export(reference, tmp_path / "reference.onnx"), export(deployed, tmp_path / "model.onnx")
    assert find_graph_flaw(*files, 1) is None
    weight = deployed[0].weight.data
    channels = weight.shape[1] if isinstance(before, nn.ConvTranspose2d) else weight.shape[0]
    (weight[:, channels - 1] if isinstance(before, nn.ConvTranspose2d) else weight[channels - 1]).mul_(1.001)
    assert "channels" in str(find_graph_flaw(files[0], export(deployed, tmp_path / "model.onnx"), 1))


class _TwoNorms(nn.Module):
    """A convolution that two BatchNorm read."""

    def __init__(self, *, one_folded: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.first, self.second = nn.Conv2d(4, 6, 3), batchnorm(6), batchnorm(6)
        if one_folded:
            self.conv, self.first = folded_by_hand(self.conv, self.first), nn.Identity()

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        read = self.conv(picture)
        return torch.sigmoid(self.first(read)) + self.second(read)


def test_a_convolution_that_two_read_may_not_be_folded_into(tmp_path: Path) -> None:
    whole = export(_TwoNorms(one_folded=False), tmp_path / "reference.onnx")
    assert find_graph_flaw(whole, whole, 0) is None
    wrong = export(_TwoNorms(one_folded=True), tmp_path / "model.onnx")
    assert "is gone, and no convolution can stand for it" in str(find_graph_flaw(whole, wrong, 1))


def test_batchnorm_whose_numbers_are_equal_is_told_apart(tmp_path: Path) -> None:
    """The exporter stores equal constants once: frozen layers share them."""
    torch.manual_seed(0)
    norms = [nn.BatchNorm2d(4).eval() for _ in range(2)]
    convs = [nn.Conv2d(4, 4, 1, bias=False) for _ in range(2)]
    reference = nn.Sequential(convs[0], norms[0], convs[1], norms[1])
    deployed = nn.Sequential(*(folded_by_hand(*pair) for pair in zip(convs, norms, strict=True)))
    files = export(reference, tmp_path / "reference.onnx"), export(deployed, tmp_path / "model.onnx")
    assert find_graph_flaw(*files, 2) is None
    only_one = export(nn.Sequential(deployed[0], convs[1], norms[1]), tmp_path / "one.onnx")
    assert find_graph_flaw(files[0], only_one, 1) is None
    assert find_graph_flaw(files[0], only_one, 2) == "1 BatchNorm of reference.onnx are folded in one.onnx, not 2"

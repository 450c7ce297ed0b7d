"""New statistics against torch's own batch statistics, numpy in float64 and the formula of the prior."""

import copy
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from service.bundle.store import sha256_file
from service.errors import RecalibrationError
from service.prepare.population_statistics import (
    TOLERANCE,
    Recalibrated,
    Statistics,
    blend,
    distance,
    recalibrate_network,
    stored,
)
from service.prepare.recalibrated_checkpoint import recalibrate_checkpoint
from service.prepare.verify import network_input
from service.prepare.weights import Checkpoint
from tests.networks import calibrated_network, photograph, save_checkpoint

SIZE = 64
#: Not a multiple of the batches that pictures are run in, so that the last one is short.
PICTURES = 18
ARCHITECTURES = ["yolo26n.yaml", "yolov10n.yaml"]


@pytest.fixture(scope="module")
def squares() -> list[np.ndarray]:
    """Parts of two photographs, some of them dimmed: uint8 (64, 64, 3)."""
    rng = np.random.default_rng(0)
    whole = [photograph(name, 320) for name in ("bus.jpg", "zidane.jpg")]
    found = []
    for number in range(PICTURES):
        y, x = rng.integers(0, 320 - SIZE, 2)
        part = whole[number % 2][y : y + SIZE, x : x + SIZE]
        found.append((part * rng.uniform(0.3, 1.0)).astype(np.uint8))
    return found


@pytest.fixture(scope="module", params=ARCHITECTURES)
def network(request: pytest.FixtureRequest) -> nn.Module:
    return calibrated_network(request.param).requires_grad_(False)


def recalibrate(network: nn.Module, squares: list[np.ndarray], prior: float, scratch: Path) -> Recalibrated:
    return recalibrate_network(
        network, lambda: squares, pictures=len(squares), prior=prior, scratch=scratch, advance=lambda done, total: None
    )


@pytest.fixture(scope="module")
def recalibrated(network: nn.Module, squares: list, tmp_path_factory: pytest.TempPathFactory) -> Recalibrated:
    return recalibrate(network, squares, 0.0, tmp_path_factory.mktemp("scratch"))


def layers(network: nn.Module) -> dict[str, nn.BatchNorm2d]:
    return {name: module for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)}


def everything(squares: list[np.ndarray]) -> torch.Tensor:
    return network_input(torch.from_numpy(np.stack(squares)))


def furthest(network: nn.Module, expected: dict[str, Statistics]) -> float:
    own = layers(network)
    assert expected.keys() == own.keys()
    return max(distance(stored(layer), expected[name], layer.eps) for name, layer in own.items())


def test_without_a_prior_they_are_torchs_own_of_one_batch_of_all_pictures(
    network: nn.Module, recalibrated: Recalibrated, squares: list
) -> None:
    """Where one batch holds every picture, training normalises each layer by what is stored in the end.

    Other batches round otherwise, and a network of random weights makes that grow from layer to layer.
    """
    reference, positions = copy.deepcopy(network).train(), {}
    for name, layer in layers(reference).items():
        layer.momentum = 1.0
        layer.register_forward_pre_hook(lambda _, x, name=name: positions.update({name: x[0][:, 0].numel()}))
    with torch.no_grad():
        reference(everything(squares))
    # torch keeps n / (n - 1) times the variance that it normalises by.
    biased = {
        name: Statistics(layer.running_mean.double(), layer.running_var.double() * (1 - 1 / positions[name]))
        for name, layer in layers(reference).items()
    }
    assert furthest(recalibrated.network, biased) < TOLERANCE
    assert furthest(network, biased) > 0.1  # they did move


def test_each_layer_holds_what_its_convolution_gives_in_the_finished_network(
    recalibrated: Recalibrated, squares: list
) -> None:
    inputs: dict[str, list[np.ndarray]] = defaultdict(list)
    watched = copy.deepcopy(recalibrated.network)
    for name, layer in layers(watched).items():
        layer.register_forward_pre_hook(lambda _, x, name=name: inputs[name].append(x[0].numpy().astype(np.float64)))
    with torch.no_grad():
        # In batches of other sizes torch rounds otherwise, which random weights make grow from layer to layer.
        for batch in everything(squares).split(4):
            watched(batch)

    def of(values: list[np.ndarray], part: slice = slice(None)) -> Statistics:
        each = np.concatenate(values)[part].transpose(1, 0, 2, 3).reshape(values[0].shape[1], -1)
        return Statistics(torch.from_numpy(each.mean(1)), torch.from_numpy(each.var(1)))

    assert furthest(watched, {name: of(values) for name, values in inputs.items()}) < TOLERANCE
    assert recalibrated.residual < TOLERANCE
    assert recalibrated.halves.keys() == inputs.keys()
    for name, halves in recalibrated.halves.items():
        for start, half in enumerate(halves):
            assert distance(half, of(inputs[name], slice(start, None, 2)), 1e-3) < TOLERANCE


def test_pictures_of_different_sizes_weigh_by_their_positions(
    network: nn.Module, squares: list, tmp_path: Path
) -> None:
    """Batches hold pictures of one size, and those left over come last; every second one is of the other half."""
    tall, wide, small = (
        [square[:height, :width] for square in squares] for height, width in ((64, 32), (32, 64), (32, 32))
    )
    given = [*tall[:6], *wide[6:11], small[11]]
    batches = [tall[:4], wide[6:10], tall[4:6], wide[10:11], [small[11]]]
    result, inputs = recalibrate(network, given, 0.0, tmp_path), defaultdict(list)
    watched = copy.deepcopy(result.network)
    for name, layer in layers(watched).items():
        layer.register_forward_pre_hook(lambda _, x, name=name: inputs[name].extend(x[0].numpy().astype(np.float64)))
    with torch.no_grad():
        for batch in batches:
            watched(everything(batch))

    def of(values: list[np.ndarray]) -> Statistics:
        each = np.concatenate([one.reshape(len(one), -1) for one in values], axis=1)
        return Statistics(torch.from_numpy(each.mean(1)), torch.from_numpy(each.var(1)))

    assert furthest(result.network, {name: of(values) for name, values in inputs.items()}) < TOLERANCE
    for name, halves in result.halves.items():
        assert len(inputs[name]) == len(given)
        for start, half in enumerate(halves):
            assert distance(half, of(inputs[name][start::2]), 1e-3) < TOLERANCE


class Blended(nn.Module):
    """BatchNorm by the formula of Schneider et al., with the picture set as the batch, in numpy."""

    def __init__(self, layer: nn.BatchNorm2d, prior: float, pictures: int) -> None:
        super().__init__()
        self.layer, self.prior, self.pictures = layer, prior, pictures
        self.used: Statistics | None = None

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        x, total = features.double().numpy(), self.prior + self.pictures
        old_mean, old_var, gamma, beta = (
            tensor.double().numpy()
            for tensor in (self.layer.running_mean, self.layer.running_var, self.layer.weight, self.layer.bias)
        )
        mean = self.prior / total * old_mean + self.pictures / total * x.mean((0, 2, 3))
        var = self.prior / total * old_var + self.pictures / total * x.var((0, 2, 3))
        self.used = Statistics(torch.from_numpy(mean), torch.from_numpy(var))
        column = (None, slice(None), None, None)
        y = (x - mean[column]) / np.sqrt(var[column] + self.layer.eps) * gamma[column] + beta[column]
        return torch.from_numpy(y.astype(np.float32))


def test_a_prior_weighs_by_the_formula(network: nn.Module, squares: list, tmp_path: Path) -> None:
    reference, prior = copy.deepcopy(network), 7.0
    for name, layer in layers(reference).items():
        reference.set_submodule(name, Blended(layer, prior, PICTURES))
    with torch.no_grad():
        reference(everything(squares))
    expected = {name: module.used for name, module in reference.named_modules() if isinstance(module, Blended)}
    assert furthest(recalibrate(network, squares, prior, tmp_path).network, expected) < TOLERANCE


def scores(network: nn.Module, squares: list[np.ndarray]) -> torch.Tensor:
    """What the one2one head gives every anchor and class, before the sigmoid."""
    with torch.no_grad():
        _, predictions = network(everything(squares))
    return predictions["one2one"]["scores"]


def test_pictures_in_half_the_light_get_the_scores_of_daylight_back(
    network: nn.Module, squares: list, tmp_path: Path
) -> None:
    """A convolution without bias gives half of everything for half the input, which new statistics undo exactly but
    for eps, which is not halved with the deviation. Here it is, by hand."""
    light = [square & 0xFE for square in squares]
    dim = [square // 2 for square in light]
    by_day = recalibrate(network, light, 0.0, tmp_path).network
    prepared = copy.deepcopy(network)
    prepared.model[0].bn.eps /= 4
    by_night = recalibrate(prepared, dim, 0.0, tmp_path).network
    daylight = scores(by_day, light)
    assert (scores(by_night, dim) - daylight).abs().max() < 1e-3
    assert (scores(by_day, dim) - daylight).abs().max() > 0.1


def test_the_prior_runs_from_the_new_to_the_old() -> None:
    old, new = (
        Statistics(torch.tensor([m], dtype=torch.double), torch.tensor([v], dtype=torch.double))
        for m, v in ((4, 9), (8, 1))
    )
    for prior, mean, var in ((0, 8, 1), (10, 7, 3), (30, 6, 5), (90, 5, 7)):
        mixed = blend(old, new, prior, 30)
        assert (float(mixed.mean), float(mixed.var)) == pytest.approx((mean, var))


def test_a_huge_prior_changes_not_one_bit(network: nn.Module, squares: list, tmp_path: Path) -> None:
    result = recalibrate(network, squares, 1e15, tmp_path).network.state_dict()
    assert all(torch.equal(value, result[name]) for name, value in network.state_dict().items())


def test_only_running_statistics_change_and_the_source_does_not(squares: list, tmp_path: Path) -> None:
    network = calibrated_network("yolov8n.yaml").requires_grad_(False)
    network.model[-1].never_run = nn.BatchNorm2d(4).eval()
    before = copy.deepcopy(network.state_dict())
    result = recalibrate(network, squares, 0.0, tmp_path)
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in before.items())
    changed = {name for name, value in result.network.state_dict().items() if not torch.equal(value, before[name])}
    own = layers(network).keys() - {"model.22.never_run"}
    assert changed == {f"{name}.running_{figure}" for name in own for figure in ("mean", "var")}
    assert result.halves.keys() == own
    assert list(tmp_path.iterdir()) == []


def test_activations_beyond_float32_are_refused(squares: list, tmp_path: Path) -> None:
    network = calibrated_network("yolov8n.yaml").requires_grad_(False)
    network.model[5].conv.weight.fill_(3e38)
    with pytest.raises(RecalibrationError, match=r"around model\.5\.bn do not settle"):
        recalibrate(network, squares, 0.0, tmp_path)


def test_a_layer_that_runs_twice_is_refused_by_name(squares: list, tmp_path: Path) -> None:
    network = calibrated_network("yolov8n.yaml").requires_grad_(False)
    bottleneck = network.model[4].m[0]
    bottleneck.cv2 = bottleneck.cv1
    with pytest.raises(RecalibrationError, match=r"^model\.4\.m\.0\.cv1\.bn runs 2 times for a picture"):
        recalibrate(network, squares, 0.0, tmp_path)


def test_the_same_pictures_give_the_same_file(squares: list, tmp_path: Path) -> None:
    path = save_checkpoint(calibrated_network("yolov8n.yaml"), tmp_path / "some.pt")
    source, found = Checkpoint(path, sha256_file(path), "local", "some.pt"), []
    for folder in (tmp_path / "a", tmp_path / "another"):
        folder.mkdir()
        result = recalibrate_checkpoint(
            source, lambda: squares, pictures=PICTURES, prior=0.0, folder=folder, advance=lambda done, total: None
        )
        assert result.checkpoint.path == folder / "some-recalibrated.pt"
        found.append(result.checkpoint.sha256)
    assert found[0] == found[1] != source.sha256
    assert sha256_file(path) == source.sha256

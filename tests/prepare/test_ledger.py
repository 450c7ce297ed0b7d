"""The ledger of dead channels, proved by removing each channel in torch and comparing what the network answers."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from service.bundle.health import DeadChannel
from service.prepare.dataflow import observe_dataflow
from service.prepare.fold import fold_batchnorm
from service.prepare.ledger import Ledger
from service.prepare.operations import conv_positions, record_operations

SIDE = 16
DEAD = 2  # the channel that is made dead in every network here
Wiring = Callable[["Net", torch.Tensor], torch.Tensor]


class Net(nn.Module):
    """Convolutions to wire up; ``first`` and its BatchNorm hold the dead channel."""

    def __init__(self, wiring: Wiring) -> None:
        super().__init__()
        self.first, self.bn = nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6, eps=1e-3)
        self.pointwise = nn.Conv2d(6, 5, 1)
        self.padded, self.unpadded = nn.Conv2d(6, 5, 3, padding=1), nn.Conv2d(6, 5, 3)
        self.same = nn.Conv2d(6, 5, 3, padding="same")
        self.reflecting = nn.Conv2d(6, 5, 3, padding=1, padding_mode="reflect")
        self.joined, self.three = nn.Conv2d(12, 5, 1), nn.Conv2d(3, 5, 1)
        self.four = nn.Conv2d(24, 5, 1)
        self.depthwise, self.depthwise_bn = nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False), nn.BatchNorm2d(6)
        self.grouped = nn.Conv2d(6, 6, 1, groups=2)
        self.transposed = nn.ConvTranspose2d(6, 5, 2, stride=2)
        self.wiring = wiring

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.wiring(self, x)

    def hidden(self, x: torch.Tensor) -> torch.Tensor:
        """What holds the dead channel, after SiLU."""
        return nn.functional.silu(self.bn(self.first(x)))


def build(wiring: Wiring, gamma: float = 0.0, beta: float = 0.7) -> Net:
    torch.manual_seed(0)
    network = Net(wiring)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.1, 2.0)
    with torch.no_grad():
        network.bn.weight[DEAD], network.bn.bias[DEAD] = gamma, beta
    return network.eval().requires_grad_(False)


def judge(network: Net, mean: float = 0.7, std: float = 0.0, name: str = "bn") -> tuple[DeadChannel, nn.Module, Ledger]:
    blank = torch.zeros(1, 3, SIDE, SIDE)
    sites = observe_dataflow(network, SIDE).sites
    folded = fold_batchnorm(network, sites).network
    graph = record_operations(folded, lambda: folded(blank))
    ledger = Ledger(folded, graph, conv_positions(folded, lambda: folded(blank)))
    return ledger.judge(sites[name], DEAD, mean, std), folded, ledger


def without(folded: nn.Module, entry: DeadChannel) -> nn.Module:
    """The network after the removal: each reader's bias takes over the constant, and nothing may read the channel.

    In its place stands a number that would spoil every sum it still took part in.
    """
    smaller = copy.deepcopy(folded)
    smaller.first.weight[DEAD], smaller.first.bias[DEAD] = 0.0, 1e6
    for reader in entry.readers:
        conv = smaller.get_submodule(reader.conv)
        if conv.groups > 1:
            conv.weight[reader.channel], conv.bias[reader.channel] = 0.0, 1e6
        else:
            conv.bias += reader.constant * conv.weight[:, reader.channel].sum((1, 2))
            conv.weight[:, reader.channel] = 0.0
    return smaller


def difference(folded: nn.Module, entry: DeadChannel) -> torch.Tensor:
    """Largest change of each position of the answer, (height, width)."""
    torch.manual_seed(1)
    images = torch.randn(2, 3, SIDE, SIDE)
    with torch.no_grad():
        return (folded(images) - without(folded, entry)(images)).abs().amax((0, 1))


def join(n: Net, x: torch.Tensor) -> torch.Tensor:
    y = n.hidden(x)
    return n.joined(torch.cat((n.grouped(x.repeat(1, 2, 1, 1)), y), 1))


def spread(n: Net, x: torch.Tensor) -> torch.Tensor:
    first, second = n.hidden(x).chunk(2, 1)
    return n.joined(torch.cat((second, first, second, first.detach()), 1))


def split_unevenly(n: Net, x: torch.Tensor) -> torch.Tensor:
    one, three, two = n.hidden(x).split((1, 3, 2), dim=1)
    return n.pointwise(torch.cat((two, three, one), dim=1))


def pyramid(n: Net, x: torch.Tensor) -> torch.Tensor:
    y = [n.hidden(x)]
    y.extend(nn.functional.max_pool2d(y[-1], 5, 1, 2) for _ in range(3))
    return n.four(torch.cat(y, 1))


def depthwise(n: Net, x: torch.Tensor) -> torch.Tensor:
    return n.pointwise(nn.functional.silu(n.depthwise_bn(n.depthwise(n.hidden(x)))))


EXACT: dict[str, tuple[Wiring, float]] = {
    "a pointwise reader": (lambda n, x: n.pointwise(n.hidden(x)), 0.7),
    "a reader without padding": (lambda n, x: n.unpadded(n.hidden(x)), 0.7),
    "zero after SiLU, padded": (lambda n, x: n.padded(n.hidden(x)), 0.0),
    "zero after ReLU, padded": (lambda n, x: n.padded(nn.functional.relu(n.bn(n.first(x)))), -0.7),
    "ReLU in place": (lambda n, x: n.padded(nn.functional.relu(n.bn(n.first(x)), inplace=True)), -0.7),
    "no activation": (lambda n, x: n.pointwise(n.bn(n.first(x))), 0.7),
    "divided and joined": (spread, 0.7),
    "split unevenly": (split_unevenly, 0.7),
    "joined behind another": (join, 0.7),
    "pooled and joined": (pyramid, 0.7),
    "enlarged": (lambda n, x: n.pointwise(nn.functional.interpolate(n.hidden(x), scale_factor=2)), 0.7),
    "through a depthwise convolution, zero": (depthwise, 0.0),
    "read by two": (lambda n, x: n.padded(y := n.hidden(x)) + n.pointwise(y), 0.0),
}
BORDER: dict[str, Wiring] = {
    "a padded reader": lambda n, x: n.padded(n.hidden(x)),
    "padding by name": lambda n, x: n.same(n.hidden(x)),
    "one of two readers": lambda n, x: n.padded(y := n.hidden(x)) + n.pointwise(y),
    "through a padded depthwise convolution": depthwise,
}


def attention(n: Net, x: torch.Tensor) -> torch.Tensor:
    flat = n.hidden(x).view(x.shape[0], 6, -1)
    weights = (flat @ flat.transpose(1, 2)).softmax(-1)
    return n.pointwise((weights @ flat).view(x.shape[0], 6, SIDE, SIDE))


def written_to(n: Net, x: torch.Tensor) -> torch.Tensor:
    y = n.hidden(x)
    y[:, DEAD] = x[:, 0]
    return n.pointwise(y)


def changed_through_a_view(n: Net, x: torch.Tensor) -> torch.Tensor:
    y = n.hidden(x)
    y.chunk(2, 1)[0].add_(x)
    return n.pointwise(y)


UNKNOWN: dict[str, tuple[Wiring, str]] = {
    "a residual addition": (lambda n, x: n.pointwise(n.hidden(x) + x.repeat(1, 2, 1, 1)), "added"),
    "a product": (lambda n, x: n.pointwise(n.hidden(x) * x.mean()), "multiplied"),
    "attention": (attention, "reshaped"),
    "a slice": (lambda n, x: n.three(n.hidden(x)[:, :3]), "__getitem__"),
    "written to": (written_to, "__setitem__"),
    "changed through a view": (changed_through_a_view, "shared memory"),
    "channels turned round": (lambda n, x: n.pointwise(n.hidden(x).flip(1)), "flip"),
    "average pooling": (lambda n, x: n.pointwise(nn.functional.avg_pool2d(n.hidden(x), 3, 1, 1)), "avg_pool2d"),
    "enlarged smoothly": (
        lambda n, x: n.pointwise(nn.functional.interpolate(n.hidden(x), scale_factor=2, mode="bilinear")),
        "interpolate",
    ),
    "joined along the width": (lambda n, x: n.pointwise(torch.cat((n.hidden(x),) * 2, 3)), "cat"),
    "another padding": (lambda n, x: n.reflecting(n.hidden(x)), "pad"),
    "a grouped reader": (lambda n, x: n.grouped(n.hidden(x)), "groups"),
    "a transposed reader": (lambda n, x: n.transposed(n.hidden(x)), "transposed"),
    "a reader that runs twice": (
        lambda n, x: n.pointwise(n.hidden(x)) + n.pointwise(x.repeat(1, 2, 1, 1)),
        "runs 2 times",
    ),
    "an unknown activation": (
        lambda n, x: n.pointwise(nn.functional.leaky_relu(n.bn(n.first(x)), 0.2)),
        "LeakyReLU",
    ),
    "the answer itself": (lambda n, x: n.hidden(x), "leaves the network"),
    "a BatchNorm that cannot be folded": (lambda n, x: n.pointwise(n.depthwise_bn(n.hidden(x))), "batch_norm"),
}


@pytest.mark.parametrize("case", EXACT)
def test_an_exact_removal_changes_nothing(case: str) -> None:
    wiring, beta = EXACT[case]
    entry, folded, _ = judge(build(wiring, beta=beta), mean=beta)
    assert (entry.removal, entry.std) == ("exact", 0.0)
    assert entry.mean == pytest.approx(beta)
    assert difference(folded, entry).max() < 1e-5


@pytest.mark.parametrize("case", BORDER)
def test_a_border_removal_changes_the_border_only(case: str) -> None:
    entry, folded, _ = judge(build(BORDER[case]))
    assert entry.removal == "border" and "pads its input" in entry.reason
    change = difference(folded, entry)
    assert change[1:-1, 1:-1].max() < 1e-5
    edge = torch.cat((change[0], change[-1], change[:, 0], change[:, -1]))
    assert edge.min() > 1e-3


def test_a_channel_that_still_varies_is_removed_approximately() -> None:
    network = build(lambda n, x: n.pointwise(n.hidden(x)), gamma=8e-4)
    entry, folded, _ = judge(network, std=8e-4)
    assert (entry.removal, entry.std, entry.mean) == ("approximate", 8e-4, 0.7)
    change = difference(folded, entry)
    assert 1e-5 < change.max() < 0.01


def test_a_channel_that_still_varies_says_where_more_than_a_little_changes() -> None:
    network = build(lambda n, x: n.padded(n.hidden(x)), gamma=1e-6)
    entry, folded, _ = judge(network, std=1e-6)
    assert entry.removal == "approximate" and "padded pads its input with zeros, so more changes" in entry.reason
    change = difference(folded, entry)
    assert change[1:-1, 1:-1].max() < 1e-4 < 1e-3 < torch.cat((change[0], change[-1])).min()


def test_a_variance_of_zero_does_not_make_a_channel_constant() -> None:
    network = build(lambda n, x: n.pointwise(n.hidden(x)), gamma=1.0)
    network.bn.running_var[DEAD] = 0.0
    entry, folded, _ = judge(network)
    assert entry.removal == "approximate"
    assert difference(folded, entry).max() > 0.1  # its input varies here, although it did not in training


def test_weights_of_zero_make_a_channel_constant_whatever_its_gamma() -> None:
    network = build(lambda n, x: n.pointwise(n.hidden(x)), gamma=1.0)
    network.first.weight[DEAD] = 0.0
    entry, folded, _ = judge(network)
    assert entry.removal == "exact"
    assert entry.mean == pytest.approx(float(network.bn(network.first(torch.ones(1, 3, 4, 4)))[0, DEAD, 2, 2]))
    assert difference(folded, entry).max() < 1e-5


@pytest.mark.parametrize("case", UNKNOWN)
def test_what_the_dataflow_does_not_tell_is_unknown(case: str) -> None:
    wiring, why = UNKNOWN[case]
    entry, _, _ = judge(build(wiring))
    assert entry.removal == "unknown" and why in entry.reason
    assert (entry.readers, entry.macs, entry.bytes) == ([], None, None)


def test_a_depthwise_convolution_cannot_lose_a_channel_by_itself() -> None:
    entry, _, _ = judge(build(depthwise), name="depthwise_bn")
    assert entry.removal == "unknown" and "depthwise" in entry.reason


# --- savings -----------------------------------------------------------------------------------------------


def cost(*layers: tuple[nn.Conv2d, int]) -> tuple[int, int]:
    """MACs as torch's own counter reckons them, and bytes of the parameters, of convolutions run on SIDE px."""
    with FlopCounterMode(display=False) as counter:
        for conv, channels in layers:
            conv(torch.zeros(1, channels, SIDE, SIDE))
    return counter.get_total_flops() // 2, 4 * sum(p.numel() for conv, _ in layers for p in conv.parameters())


def saved_between(before: tuple[int, int], after: tuple[int, int]) -> tuple[int, int]:
    return before[0] - after[0], before[1] - after[1]


def test_savings_are_those_of_smaller_convolutions() -> None:
    entry, _, _ = judge(build(lambda n, x: n.padded(n.hidden(x))))
    whole = cost((nn.Conv2d(3, 6, 3, padding=1), 3), (nn.Conv2d(6, 5, 3, padding=1), 6))
    smaller = cost((nn.Conv2d(3, 5, 3, padding=1), 3), (nn.Conv2d(5, 5, 3, padding=1), 5))
    assert (entry.macs, entry.bytes) == saved_between(whole, smaller)


def test_savings_include_the_depthwise_convolution_on_the_way() -> None:
    entry, _, _ = judge(build(depthwise, beta=0.0), mean=0.0)

    def layers(n: int) -> list[tuple[nn.Conv2d, int]]:
        return [
            (nn.Conv2d(3, n, 3, padding=1), 3),
            (nn.Conv2d(n, n, 3, padding=1, groups=n), n),
            (nn.Conv2d(n, 5, 1), n),
        ]

    assert (entry.macs, entry.bytes) == saved_between(cost(*layers(6)), cost(*layers(5)))


def test_weights_between_two_removed_channels_are_saved_once() -> None:
    network = build(lambda n, x: n.pointwise(nn.functional.silu(n.depthwise_bn(n.square(n.hidden(x))))))
    network.square = nn.Conv2d(6, 6, 1, bias=False).requires_grad_(False)
    network.depthwise_bn.weight[DEAD] = 0.0
    first, _, ledger = judge(network)
    second = ledger.judge(observe_dataflow(network, SIDE).sites["depthwise_bn"], DEAD, 0.0, 0.0)
    assert (first.removal, second.removal) == ("exact", "exact")

    def layers(n: int) -> list[tuple[nn.Conv2d, int]]:
        return [(nn.Conv2d(3, n, 3, padding=1), 3), (nn.Conv2d(n, n, 1), n), (nn.Conv2d(n, 5, 1), n)]

    joint = ledger.joint_savings([first, second])
    assert (joint.macs, joint.bytes) == saved_between(cost(*layers(6)), cost(*layers(5)))
    assert joint.macs < first.macs + second.macs

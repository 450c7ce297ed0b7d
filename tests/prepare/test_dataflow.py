"""What can be folded is seen in the running network; what cannot is named with its reason."""

import torch
from torch import nn

from service.prepare.dataflow import BatchNormSite, observe_dataflow


class Net(nn.Module):
    """A convolution, a second one and a BatchNorm; each test says how they are wired."""

    def __init__(self, **batchnorm: object) -> None:
        super().__init__()
        self.conv, self.conv2 = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.bn, self.bn2 = nn.BatchNorm2d(4, **batchnorm), nn.BatchNorm2d(4)


def observe(wiring, **batchnorm: object) -> dict[str, BatchNormSite]:
    class Wired(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return wiring(self, x)

    return observe_dataflow(Wired(**batchnorm).eval()).sites


def test_a_conv_and_its_batchnorm() -> None:
    site = observe(lambda n, x: nn.functional.silu(n.bn(n.conv(x))))["bn"]
    assert site == BatchNormSite("bn", "conv", "SiLU", None, 1, ("conv",))


def test_an_activation_in_place_is_recognised() -> None:
    site = observe(lambda n, x: nn.functional.relu(n.bn(n.conv(x)), inplace=True) + 1)["bn"]
    assert site.activation == "ReLU"


def test_no_activation_is_identity() -> None:
    assert observe(lambda n, x: n.bn(n.conv(x)) + 1)["bn"].activation == "Identity"


def test_a_batchnorm_that_does_not_run_is_absent() -> None:
    assert set(observe(lambda n, x: n.bn(n.conv(x)))) == {"bn"}


def test_a_conv_output_read_elsewhere() -> None:
    def wiring(n: Net, x: torch.Tensor) -> torch.Tensor:
        y = n.conv(x)
        return n.bn(y) + y

    assert "read in 2 places" in str(observe(wiring)["bn"].obstacle)


def test_a_conv_output_that_is_also_an_output_of_the_network() -> None:
    def wiring(n: Net, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = n.conv(x)
        return n.bn(y), y

    assert "read in 2 places" in str(observe(wiring)["bn"].obstacle)


def test_two_batchnorms_behind_one_conv() -> None:
    def wiring(n: Net, x: torch.Tensor) -> torch.Tensor:
        y = n.conv(x)
        return n.bn(y) + n.bn2(y)

    sites = observe(wiring)
    assert all("read in 2 places" in str(sites[name].obstacle) for name in ("bn", "bn2"))


def test_a_conv_that_runs_twice() -> None:
    def wiring(n: Net, x: torch.Tensor) -> torch.Tensor:
        return n.bn2(n.conv2(n.bn(n.conv2(n.conv(x)))))

    assert "conv2 before it is executed 2 times" in str(observe(wiring)["bn"].obstacle)


def test_a_batchnorm_that_runs_twice() -> None:
    site = observe(lambda n, x: n.bn(n.conv2(n.bn(n.conv(x)))))["bn"]
    assert "executed 2 times" in str(site.obstacle) and site.calls == 2
    assert (site.conv, site.behind) == (None, ("conv", "conv2"))


def test_a_batchnorm_behind_something_else() -> None:
    site = observe(lambda n, x: n.bn(torch.cat((n.conv(x)[:, :2], n.conv2(n.conv(x))[:, :2]), 1)))["bn"]
    assert site.conv is None and "not the output of a convolution" in str(site.obstacle)


def test_a_batchnorm_before_a_padded_conv() -> None:
    assert observe(lambda n, x: n.conv2(n.bn(n.conv(x).relu())))["bn"].conv is None


def test_a_batchnorm_without_running_statistics() -> None:
    site = observe(lambda n, x: n.bn(n.conv(x)), track_running_stats=False)["bn"]
    assert "no running statistics" in str(site.obstacle)

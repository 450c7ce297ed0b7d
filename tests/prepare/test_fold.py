"""The fold against torch's own BatchNorm and against numpy in float64."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from service.prepare.dataflow import observe_dataflow
from service.prepare.fold import fold_batchnorm, fold_pair, scale_and_shift
from tests.networks import calibrated_network

CONVOLUTIONS = {
    "3x3": lambda: nn.Conv2d(8, 12, 3, padding=1, bias=False),
    "with bias": lambda: nn.Conv2d(8, 12, 3, stride=2),
    "pointwise": lambda: nn.Conv2d(8, 12, 1, bias=False),
    "depthwise": lambda: nn.Conv2d(12, 12, 3, groups=12, bias=False),
    "grouped": lambda: nn.Conv2d(8, 12, 3, groups=4),
    "dilated": lambda: nn.Conv2d(8, 12, 3, dilation=2, padding=2, bias=False),
    "transposed": lambda: nn.ConvTranspose2d(8, 12, 4, stride=2, padding=1),
    "transposed, grouped": lambda: nn.ConvTranspose2d(8, 12, 2, stride=2, groups=4, bias=False),
}


def random_batchnorm(affine: bool = True, eps: float = 1e-3) -> nn.BatchNorm2d:
    batchnorm = nn.BatchNorm2d(12, eps=eps, affine=affine).eval()
    nn.init.normal_(batchnorm.running_mean)
    nn.init.uniform_(batchnorm.running_var, 0.0, 2.0)
    if affine:
        nn.init.normal_(batchnorm.weight)
        nn.init.normal_(batchnorm.bias)
    return batchnorm


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_folded_conv_equals_torchs_conv_then_batchnorm(kind: str, affine: bool) -> None:
    torch.manual_seed(1)
    conv, batchnorm = CONVOLUTIONS[kind](), random_batchnorm(affine)
    images = torch.randn(2, conv.in_channels, 16, 16)
    with torch.no_grad():
        expected = batchnorm.double()(conv.double()(images.double()))
        found = fold_pair(conv.float(), batchnorm.float())(images)
    assert torch.allclose(found.double(), expected, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("eps", [1e-3, 1e-5])
def test_scale_and_shift_equal_numpy_in_float64(eps: float) -> None:
    torch.manual_seed(2)
    batchnorm = random_batchnorm(eps=eps)
    gamma, beta, mean, var = (
        t.detach().numpy().astype(np.float64)
        for t in (batchnorm.weight, batchnorm.bias, batchnorm.running_mean, batchnorm.running_var)
    )
    scale, shift = scale_and_shift(batchnorm)
    np.testing.assert_allclose(scale.numpy(), gamma / np.sqrt(var + eps), rtol=1e-12)
    np.testing.assert_allclose(shift.numpy(), beta - mean * gamma / np.sqrt(var + eps), rtol=1e-9, atol=1e-12)


def test_the_network_given_is_left_untouched() -> None:
    network = calibrated_network("yolo26n.yaml")
    before = copy.deepcopy(network.state_dict())
    result = fold_batchnorm(network, observe_dataflow(network).sites)
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert not any(isinstance(m, nn.BatchNorm2d) for m in result.network.modules())
    assert len(result.folded) == sum(isinstance(m, nn.BatchNorm2d) for m in network.modules())

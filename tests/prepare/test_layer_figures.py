"""Figures that follow from a BatchNorm's arrays and its folded weights, against torch and against brute force."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from service.bundle.health import RANGE_STDS
from service.prepare.layer_figures import (
    activate,
    describe_weights,
    expected_range,
    fits_half,
    infinite_in_half,
    law_std,
    small_in_half,
    sqnr_db,
)

FUNCTIONS = {"SiLU": nn.functional.silu, "ReLU": nn.functional.relu, "Identity": lambda x: x}


def random_rows(seed: int, channels: int = 12, weights: int = 27) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return generator.normal(size=(channels, weights)) * generator.uniform(0.01, 3.0, (channels, 1))


@pytest.mark.parametrize("eps", [1e-3, 1e-5])
def test_the_law_is_what_batchnorm_makes_of_input_with_its_running_statistics(eps: float) -> None:
    torch.manual_seed(0)
    batchnorm = nn.BatchNorm2d(64, eps=eps).double().eval()
    for tensor in (batchnorm.weight, batchnorm.bias, batchnorm.running_mean):
        nn.init.normal_(tensor)
    batchnorm.running_var.copy_(torch.logspace(-9, 4, 64))
    # Two equally frequent values, mean + and - deviation, have exactly that mean and variance.
    deviation = batchnorm.running_var.sqrt()
    values = torch.stack((batchnorm.running_mean - deviation, batchnorm.running_mean + deviation))
    with torch.no_grad():
        output = batchnorm(values.T.reshape(1, 64, 1, 2))
    gamma, var = batchnorm.weight.detach().numpy(), batchnorm.running_var.numpy()
    np.testing.assert_allclose(law_std(gamma, var, eps), output.std((0, 2, 3), correction=0).numpy(), rtol=1e-9)
    np.testing.assert_allclose(output.mean((0, 2, 3)).numpy(), batchnorm.bias.detach().numpy(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_activations_equal_torchs(name: str) -> None:
    values = np.concatenate((np.linspace(-20, 20, 1001), [-1e4, 1e4, 0.0]))
    found = activate(name, values)
    np.testing.assert_allclose(found, FUNCTIONS[name](torch.from_numpy(values)).numpy(), rtol=1e-12, atol=1e-300)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_expected_ranges_equal_a_search_over_the_interval(name: str) -> None:
    generator = np.random.default_rng(3)
    beta = np.concatenate((generator.normal(0, 3, 200), [-20.0, -1.2784645, 5.0]))
    std = np.concatenate((generator.uniform(0, 2, 200), [0.1, 0.0, 0.0]))
    low, high = expected_range(name, beta, std)
    steps = torch.linspace(-RANGE_STDS, RANGE_STDS, 20_001, dtype=torch.float64)
    values = FUNCTIONS[name](torch.from_numpy(beta)[:, None] + torch.from_numpy(std)[:, None] * steps)
    # The finest step is 0.0012 wide, and SiLU is flat where it is least.
    np.testing.assert_allclose(low, values.amin(1).numpy(), atol=1e-6)
    np.testing.assert_allclose(high, values.amax(1).numpy(), atol=1e-9)


def test_an_activation_with_parameters_of_its_own_has_no_range() -> None:
    assert expected_range("LeakyReLU", np.zeros(2), np.ones(2)) is None
    assert expected_range(None, np.zeros(2), np.ones(2)) is None


@pytest.mark.parametrize("per_channel", [False, True])
def test_signal_to_noise_equals_torchs_own_fake_quantization(per_channel: bool) -> None:
    weights = random_rows(4)
    peaks = np.abs(weights).max(1) if per_channel else np.full(len(weights), np.abs(weights).max())
    tensor = torch.from_numpy(weights).float()
    scales, zeros = torch.from_numpy(peaks / 127).float(), torch.zeros(len(peaks), dtype=torch.int32)
    quantized = torch.fake_quantize_per_channel_affine(tensor, scales, zeros, 0, -127, 127).double().numpy()
    expected = 10 * math.log10((weights**2).sum() / ((weights - quantized) ** 2).sum())
    assert sqnr_db(weights, peaks) == pytest.approx(expected, abs=1e-3)


def test_weights_on_the_grid_lose_nothing() -> None:
    assert sqnr_db(np.array([[127.0, -3.0], [0.0, 0.0]]), np.array([127.0, 0.0])) is None


def test_weights_are_described() -> None:
    before, after = random_rows(5), random_rows(6)
    after[3] = 0.0
    found = describe_weights(before, after, np.zeros(12))
    peaks = [max(abs(w) for w in row) for row in after]
    assert (found.before_min, found.before_max) == (before.min(), before.max())
    assert (found.after_min, found.after_max) == (after.min(), after.max())
    middle = sorted(peaks)[5:7]
    assert found.range_ratio == pytest.approx(max(peaks) / (sum(middle) / 2))
    assert found.sqnr_per_channel_db > found.sqnr_per_tensor_db


def test_the_coarsest_int8_scheme_that_keeps_thirty_decibels_is_named() -> None:
    even = random_rows(7) / np.abs(random_rows(7)).max(1, keepdims=True)
    assert describe_weights(even, even, np.zeros(12)).int8_scheme == "per_tensor"
    # The signal is nearly all in one weight, which the tensor's scale holds exactly; the other channels are lost.
    narrow = even * 0.002
    narrow[0] = np.eye(27)[0]
    found = describe_weights(narrow, narrow, np.zeros(12))
    assert found.int8_scheme == "per_channel" and found.sqnr_per_tensor_db > 30
    spiky = even * 0.01
    spiky[:, 0] = 1.0
    spiky = np.concatenate((spiky, np.full((12, 20_000), 0.003)), 1)
    assert describe_weights(spiky, spiky, np.zeros(12)).int8_scheme == "float"


def test_half_precision_figures_equal_torchs_cast() -> None:
    weights = np.concatenate((np.logspace(-12, 6, 300), -np.logspace(-9, 5, 99), [0.0])).reshape(4, 100)
    bias = np.array([65504.0, 65520.0, 1e-8, 0.0])
    half = torch.from_numpy(np.concatenate((weights.ravel(), bias))).half().abs()
    nonzero = torch.from_numpy(np.concatenate((weights.ravel(), bias))) != 0
    found = describe_weights(weights, weights, bias)
    assert found.fp16_infinite == int(half.isinf().sum()) > 1
    assert found.fp16_zero == int((nonzero & (half == 0)).sum()) > 1
    assert (
        found.fp16_subnormal == int((half < torch.finfo(torch.float16).smallest_normal).sum() - (half == 0).sum()) > 1
    )
    assert found.small_share == pytest.approx((found.fp16_zero + found.fp16_subnormal) / 404)


def test_variances_in_half_precision() -> None:
    variances = np.array([1.0, 65504.0, 65519.9, 65520.0, 1e9, 0.0, 1e-9, 3e-5, 7e-5])
    assert infinite_in_half(variances) == [3, 4]
    assert small_in_half(variances) == 2
    assert fits_half(np.array([0.5, 65504.0, 2.0**-24]))
    assert not fits_half(np.array([0.1])) and not fits_half(np.array([1e9]))

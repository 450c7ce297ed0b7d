"""Folding: Conv2d followed by BatchNorm2d becomes one Conv2d. What cannot be folded is named, never guessed."""

import copy
from dataclasses import dataclass

import torch
from torch import nn

from service.prepare.dataflow import CONVOLUTIONS, BatchNormSite


@dataclass(frozen=True)
class FoldResult:
    """A folded copy of a network.

    Attributes:
        network: the copy; every folded BatchNorm is an Identity in it.
        folded: sites folded, in execution order.
        unfoldable: executed sites left as they were; ``obstacle`` says why.
    """

    network: nn.Module
    folded: list[BatchNormSite]
    unfoldable: list[BatchNormSite]


def fold_batchnorm(network: nn.Module, sites: dict[str, BatchNormSite]) -> FoldResult:
    """Fold every foldable site of ``network`` on a deep copy; the input is left untouched.

    Args:
        network: float32, eval mode.
        sites: what ``observe_dataflow`` saw in this network.
    """
    folded = copy.deepcopy(network)
    foldable = [site for site in sites.values() if site.obstacle is None]
    for site in foldable:
        assert site.conv is not None  # a site without a conv always has an obstacle
        conv, batchnorm = network.get_submodule(site.conv), network.get_submodule(site.name)
        assert isinstance(conv, CONVOLUTIONS) and isinstance(batchnorm, nn.BatchNorm2d)
        folded.set_submodule(site.conv, fold_pair(conv, batchnorm))
        folded.set_submodule(site.name, nn.Identity())
    return FoldResult(folded, foldable, [site for site in sites.values() if site.obstacle is not None])


def scale_and_shift(batchnorm: nn.BatchNorm2d) -> tuple[torch.Tensor, torch.Tensor]:
    """The constant affine map an eval-mode BatchNorm is: y = scale * x + shift, per channel.

    scale = gamma / sqrt(running_var + eps), shift = beta - running_mean * scale (Ioffe and Szegedy 2015,
    arXiv:1502.03167, algorithm 2, line 11). A BatchNorm without affine parameters has gamma 1 and beta 0.

    Returns:
        Two float64 tensors (channels,).
    """
    mean, var = batchnorm.running_mean, batchnorm.running_var
    assert mean is not None and var is not None
    gamma = torch.ones_like(mean) if batchnorm.weight is None else batchnorm.weight.detach()
    beta = torch.zeros_like(mean) if batchnorm.bias is None else batchnorm.bias.detach()
    scale = gamma.double() / torch.sqrt(var.double() + batchnorm.eps)
    return scale, beta.double() - mean.double() * scale


def fold_pair(conv: nn.Conv2d | nn.ConvTranspose2d, batchnorm: nn.BatchNorm2d) -> nn.Conv2d | nn.ConvTranspose2d:
    """A new convolution that does the work of ``conv`` followed by ``batchnorm`` in eval mode.

    W' = scale * W and b' = scale * b + shift. The products are taken in float64 and rounded once, to float32.
    """
    scale, shift = scale_and_shift(batchnorm)
    folded = copy.deepcopy(conv)
    weight, bias = conv.weight.detach().double(), conv.bias
    folded.weight = nn.Parameter(_scale_output_channels(conv, weight, scale).float(), requires_grad=False)
    new_bias = shift if bias is None else bias.detach().double() * scale + shift
    folded.bias = nn.Parameter(new_bias.float(), requires_grad=False)
    return folded


def _scale_output_channels(
    conv: nn.Conv2d | nn.ConvTranspose2d, weight: torch.Tensor, scale: torch.Tensor
) -> torch.Tensor:
    if isinstance(conv, nn.Conv2d):
        return weight * scale[:, None, None, None]
    # A transposed convolution stores (in, out / groups, kh, kw): output channels are spread over groups of inputs.
    grouped = weight.reshape(conv.groups, -1, *weight.shape[1:]) * scale.reshape(conv.groups, 1, -1, 1, 1)
    return grouped.reshape(weight.shape)

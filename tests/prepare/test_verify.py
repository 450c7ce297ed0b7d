"""A sound fold passes; one wrong on purpose is refused with the layer's name."""

import copy

import pytest
import torch
from torch import nn

from service.errors import FoldRejected, UnsupportedModel
from service.prepare.checkpoint import drop_unused_head
from service.prepare.dataflow import observe_dataflow
from service.prepare.fold import FoldResult, fold_batchnorm, fold_pair
from service.prepare.proof_inputs import proof_inputs
from service.prepare.verify import require_pass, verify_fold
from tests.networks import calibrated_network

SHA = "0" * 64


@pytest.fixture(scope="module")
def reference() -> nn.Module:
    network = calibrated_network("yolo26n.yaml")
    drop_unused_head(network, "one2one")
    return network


def verify(reference: nn.Module, result: FoldResult):
    return verify_fold(reference, result, proof_inputs(320), head="one2one", checkpoint_sha256=SHA)


def test_a_sound_fold_passes(reference: nn.Module) -> None:
    certificate = verify(reference, fold_batchnorm(reference, observe_dataflow(reference).sites))
    require_pass(certificate)
    assert len(certificate.layers) == 96
    assert all(0 < layer.relative_error < layer.tolerance for layer in certificate.layers)
    assert {proof.kind for proof in certificate.end_to_end} >= {"photograph", "noise"}
    assert all(proof.detections > 0 for proof in certificate.end_to_end if proof.kind == "photograph")


def _negate(conv: nn.Conv2d, _: nn.BatchNorm2d) -> nn.Conv2d:
    conv.bias.data.neg_()
    return conv


def _forget_mean(conv: nn.Conv2d, batchnorm: nn.BatchNorm2d) -> nn.Conv2d:
    conv.bias.data.copy_(batchnorm.bias)
    return conv


def _nan(conv: nn.Conv2d, _: nn.BatchNorm2d) -> nn.Conv2d:
    conv.bias.data[3] = torch.nan
    return conv


def _half(conv: nn.Conv2d, _: nn.BatchNorm2d) -> nn.Conv2d:
    return conv.half().float()


@pytest.mark.parametrize("spoil", [_negate, _forget_mean, _nan, _half])
@pytest.mark.parametrize("layer", ["model.2.cv1.bn", "model.23.one2one_cv3.0.0.0.bn"])
def test_a_wrong_fold_is_refused_by_name(reference: nn.Module, spoil, layer: str) -> None:
    sites = observe_dataflow(reference).sites
    result = fold_batchnorm(reference, sites)
    conv = result.network.get_submodule(str(sites[layer].conv))
    spoil(conv, reference.get_submodule(layer))
    with pytest.raises(FoldRejected, match=layer) as refusal:
        require_pass(verify(reference, result))
    assert refusal.value.layer == layer


def test_a_fold_with_the_wrong_eps_is_refused(reference: nn.Module) -> None:
    sites = observe_dataflow(reference).sites
    result = fold_batchnorm(reference, sites)
    site = sites["model.4.cv2.bn"]
    wrong = copy.deepcopy(reference.get_submodule(site.name))
    wrong.eps = 1e-5
    result.network.set_submodule(str(site.conv), fold_pair(reference.get_submodule(str(site.conv)), wrong))
    with pytest.raises(FoldRejected, match=r"model\.4\.cv2\.bn"):
        require_pass(verify(reference, result))


def test_a_checkpoint_that_overflows_by_itself_is_not_blamed_on_the_fold(reference: nn.Module) -> None:
    network = copy.deepcopy(reference)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.zero_()
    with torch.inference_mode():
        assert not torch.isfinite(network(torch.rand(1, 3, 320, 320))[0]).all()
    result = fold_batchnorm(network, observe_dataflow(network).sites)
    with pytest.raises(UnsupportedModel, match=r"overflows by itself: behind model\.\d+\."):
        require_pass(verify(network, result))

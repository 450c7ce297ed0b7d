"""Judges a fold: each layer on the input it really receives, then the whole network. ``fold`` never judges itself."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from service.bundle.certificate import (
    COMPARISON_THRESHOLD,
    END_TO_END_TOLERANCE,
    EndToEndProof,
    FoldCertificate,
    LayerProof,
    Unfoldable,
    layer_tolerance,
)
from service.bundle.manifest import HeadKind
from service.errors import FoldRejected, UnsupportedModel
from service.prepare.checkpoint import blocks
from service.prepare.dataflow import BatchNormSite
from service.prepare.deployed_network import DeployedNetwork, match_rows
from service.prepare.detection_match import DetectionMatch
from service.prepare.fold import FoldResult, scale_and_shift
from service.prepare.proof_inputs import ProofInput


@dataclass
class _LayerError:
    max_abs: float = 0.0
    peak: float = 0.0
    relative: float = 0.0


def verify_fold(
    reference: nn.Module,
    result: FoldResult,
    inputs: Sequence[ProofInput],
    *,
    head: HeadKind,
    checkpoint_sha256: str,
) -> FoldCertificate:
    """Compare a folded network with the unfolded one that has the same head.

    Args:
        reference: float32, eval mode, one head, BatchNorm intact.
        result: what ``fold_batchnorm(reference, ...)`` returned.
        inputs: uint8 (1, S, S, 3) BGR.

    Returns:
        The certificate, passed or not; ``require_pass`` turns a failed one into an error.
    """
    layers = prove_layers(reference, result, inputs)
    end_to_end = prove_end_to_end(reference, result.network, inputs, head)
    return FoldCertificate(
        passed=all(layer.passed for layer in layers) and all(proof.passed for proof in end_to_end),
        end_to_end_tolerance=END_TO_END_TOLERANCE,
        comparison_threshold=COMPARISON_THRESHOLD,
        layers=layers,
        end_to_end=end_to_end,
        unfoldable=[Unfoldable(name=site.name, reason=str(site.obstacle)) for site in result.unfoldable],
        checkpoint_sha256=checkpoint_sha256,
    )


def require_pass(certificate: FoldCertificate) -> None:
    """Stop at the first proof that failed.

    Raises:
        FoldRejected: names the layer, or the input when only the end-to-end comparison failed.
        UnsupportedModel: the layer overflows in the unfolded network already.
    """
    for layer in certificate.layers:
        if not layer.passed:
            if layer.reference_peak >= torch.finfo(torch.float32).max:
                raise UnsupportedModel(
                    f"The checkpoint overflows by itself: behind {layer.name}, before anything is folded, numbers are "
                    "larger than float32 can hold. Its BatchNorm statistics or weights are damaged."
                )
            raise FoldRejected(
                f"The fold of {layer.name} into {layer.conv} is wrong: its relative error {layer.relative_error:.3g} "
                f"exceeds {layer.tolerance:.3g} (largest difference {layer.max_abs_error:.3g}).",
                layer.name,
            )
    for proof in certificate.end_to_end:
        if not proof.passed:
            raise FoldRejected(
                f"Every layer folds within tolerance, but on {proof.input} the folded network differs: raw outputs by "
                f"{proof.raw_relative_error:.3g} of their peak, {proof.matched} of {proof.detections} boxes matched."
            )


def prove_layers(reference: nn.Module, result: FoldResult, inputs: Sequence[ProofInput]) -> list[LayerProof]:
    """Run the reference and, at each folded site, its folded convolution on the same input beside it."""
    errors = {site.name: _LayerError() for site in result.folded}
    for item in inputs:
        handles = [h for site in result.folded for h in _watch(reference, result.network, site, errors[site.name])]
        try:
            with torch.inference_mode():
                reference(network_input(item.image))
        finally:
            for handle in handles:
                handle.remove()
    return [_layer_proof(reference, site, errors[site.name]) for site in result.folded]


def _terms(conv: nn.Module) -> int:
    """Products in one output of a convolution; of a transposed one the most there can be."""
    weight = conv.get_parameter("weight")
    return weight[:, 0].numel() if isinstance(conv, nn.ConvTranspose2d) else weight[0].numel()


def _layer_proof(reference: nn.Module, site: BatchNormSite, error: _LayerError) -> LayerProof:
    tolerance = layer_tolerance(_terms(reference.get_submodule(str(site.conv))))
    return LayerProof(
        name=site.name,
        conv=str(site.conv),
        max_abs_error=error.max_abs,
        reference_peak=error.peak,
        relative_error=error.relative,
        tolerance=tolerance,
        passed=error.relative <= tolerance,
    )


def _watch(reference: nn.Module, folded: nn.Module, site: BatchNormSite, error: _LayerError) -> list[Any]:
    conv, batchnorm = reference.get_submodule(str(site.conv)), reference.get_submodule(site.name)
    folded_conv = folded.get_submodule(str(site.conv))
    assert isinstance(batchnorm, nn.BatchNorm2d)
    compare = _comparison(conv, batchnorm, folded_conv, error)
    seen: list[torch.Tensor] = []
    return [
        conv.register_forward_hook(lambda _, args, __: seen.append(args[0])),
        batchnorm.register_forward_hook(lambda _, __, output: compare(seen.pop(), output)),
    ]


def _comparison(
    conv: nn.Module, batchnorm: nn.BatchNorm2d, folded_conv: nn.Module, error: _LayerError
) -> Callable[[torch.Tensor, torch.Tensor], None]:
    scale, _ = scale_and_shift(batchnorm)
    mean, beta = batchnorm.running_mean, batchnorm.bias
    assert mean is not None
    constant = (mean.double() * scale).abs() + (0.0 if beta is None else beta.double().abs())

    def compare(layer_input: torch.Tensor, expected: torch.Tensor) -> None:
        difference = (folded_conv(layer_input) - expected).abs().amax((0, 2, 3))
        terms = _sum_of_magnitudes(conv, layer_input).amax((0, 2, 3)).double() * scale.abs() + constant
        relative = difference.double() / terms.clamp_min(torch.finfo(torch.float32).tiny)
        error.max_abs = _worst(error.max_abs, difference)
        error.peak = _worst(error.peak, expected.abs())
        error.relative = _worst(error.relative, relative)

    return compare


def _worst(so_far: float, values: torch.Tensor) -> float:
    # A NaN would lose every comparison and pass unseen.
    found = float(values.nan_to_num(nan=torch.inf).max())
    return max(so_far, min(found, torch.finfo(torch.float32).max))


def _sum_of_magnitudes(conv: nn.Module, layer_input: torch.Tensor) -> torch.Tensor:
    magnitudes = copy.deepcopy(conv)
    magnitudes._forward_hooks.clear()  # the copy is not part of the network that is watched
    for parameter in magnitudes.parameters():
        parameter.abs_()
    result: torch.Tensor = magnitudes(layer_input.abs())
    return result


def network_input(image: torch.Tensor) -> torch.Tensor:
    """uint8 (B, S, S, 3) BGR to the float32 (B, 3, S, S) RGB in 0..1 that an Ultralytics network takes."""
    return image.permute(0, 3, 1, 2)[:, [2, 1, 0]].float() / 255.0


def prove_end_to_end(
    reference: nn.Module, folded: nn.Module, inputs: Sequence[ProofInput], head: HeadKind
) -> list[EndToEndProof]:
    """Raw head outputs and final detections of both networks, input by input."""
    arms = [_Arm(network, head) for network in (reference, folded)]
    return [_prove_one(arms, item) for item in inputs]


class _Arm:
    """One network: its detections before suppression and, from the same pass, what its last convolutions gave."""

    def __init__(self, network: nn.Module, head: HeadKind) -> None:
        self._deployed = DeployedNetwork(network, head).eval()
        self._raw: list[torch.Tensor] = []
        # The decoder reads both raw maps of the kept head from one dictionary.
        detect = blocks(self._deployed.network)[-1]
        decode = detect._inference

        def record_and_decode(raw: dict[str, torch.Tensor]) -> torch.Tensor:
            self._raw = [raw["boxes"], raw["scores"]]
            decoded: torch.Tensor = decode(raw)
            return decoded

        detect._inference = record_and_decode

    def run(self, image: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        with torch.inference_mode():
            candidates = self._deployed.candidates(image)
        return self._raw, candidates

    def match(self, expected: torch.Tensor, own: torch.Tensor) -> DetectionMatch:
        return match_rows(self._deployed, expected, self._deployed.finish(own)[0].numpy())


def _prove_one(arms: Sequence[_Arm], item: ProofInput) -> EndToEndProof:
    (expected, candidates), (found, found_candidates) = (arm.run(item.image) for arm in arms)
    differences = [_worst(0.0, (a - b).abs()) for a, b in zip(expected, found, strict=True)]
    relative = max(d / max(_worst(0.0, a.abs()), 1e-30) for d, a in zip(differences, expected, strict=True))
    match = arms[1].match(candidates, found_candidates)
    return EndToEndProof(
        input=item.name,
        kind=item.kind,
        raw_max_abs_error=max(differences),
        raw_relative_error=relative,
        detections=match.expected,
        matched=match.matched,
        extra=match.extra,
        max_box_error_px=match.max_box_error_px,
        max_confidence_error=match.max_confidence_error,
        passed=relative <= END_TO_END_TOLERANCE and match.complete,
    )

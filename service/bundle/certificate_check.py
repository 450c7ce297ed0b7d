"""Reads a certificate without believing it: its figures decide, held against bounds that are reckoned anew."""

import math
from collections.abc import Iterator

from service.bundle.batchnorm import BatchNormReport, ConvRecord, LayerTree
from service.bundle.certificate import COMPARISON_THRESHOLD, END_TO_END_TOLERANCE, FoldCertificate, layer_tolerance


def find_flaw(
    certificate: FoldCertificate, checkpoint_sha256: str, batchnorm: BatchNormReport, tree: LayerTree
) -> str | None:
    """Why a certificate does not cover a bundle, or None if it does.

    Args:
        checkpoint_sha256: of the bundle's weights.
        batchnorm, tree: what the bundle says about its layers.
    """
    if certificate.checkpoint_sha256 != checkpoint_sha256:
        return "it belongs to other weights"
    if failed := next(_failed(certificate), None):
        return f"it failed on {failed}"
    if not certificate.passed:
        return "it did not pass"
    folded = {layer.name: layer.conv for layer in batchnorm.layers if layer.status == "folded"}
    if folded != {proof.name: proof.conv for proof in certificate.layers}:
        return "the layers it proves are not the layers that were folded"
    if {layer.name for layer in batchnorm.layers if layer.status == "unfoldable"} != _kept(certificate):
        return "the layers it calls unfoldable are not those that were left as they are"
    if all(proof.kind == "noise" for proof in certificate.end_to_end):
        return "it holds no end-to-end proof on a picture"
    if contradiction := next(_contradictions(certificate), None):
        return f"its figures for {contradiction} contradict each other"
    if wide := next(_wide_bounds(certificate, tree), None):
        return f"its bound for {wide} is not the one that float32 allows"
    if not certificate.comparison_threshold <= COMPARISON_THRESHOLD:
        return f"it compares boxes from a confidence of {certificate.comparison_threshold:g} on only"
    return None


def _failed(certificate: FoldCertificate) -> Iterator[str]:
    # Asked the way round in which a figure that is no number fails.
    for layer in certificate.layers:
        if not (layer.passed and layer.relative_error <= layer.tolerance):
            yield layer.name
    for proof in certificate.end_to_end:
        complete = proof.matched == proof.detections and proof.extra == 0
        if not (proof.passed and complete and proof.raw_relative_error <= certificate.end_to_end_tolerance):
            yield proof.input


def _kept(certificate: FoldCertificate) -> set[str]:
    return {layer.name for layer in certificate.unfoldable}


def _contradictions(certificate: FoldCertificate) -> Iterator[str]:
    """Whatever has figures that nobody can have measured."""
    for layer in certificate.layers:
        if not _measured(layer.max_abs_error, layer.relative_error, layer.reference_peak):
            yield layer.name
    for proof in certificate.end_to_end:
        apart = (proof.max_box_error_px, proof.max_confidence_error)
        if not (_measured(proof.raw_max_abs_error, proof.raw_relative_error, *apart) and proof.detections >= 0):
            yield proof.input


def _measured(absolute: float, relative: float, *others: float) -> bool:
    """Whether figures are numbers, none is negative, and an error is there in relation if it is there at all."""
    real = all(0 <= figure < math.inf for figure in (absolute, relative, *others))
    return real and (absolute == 0) == (relative == 0)


def _wide_bounds(certificate: FoldCertificate, tree: LayerTree) -> Iterator[str]:
    """What is proved within more than preparation allows."""
    terms = {conv.name: _terms(conv) for block in tree.blocks for conv in block.convs}
    for layer in certificate.layers:
        if layer.conv not in terms or not layer.tolerance <= layer_tolerance(terms[layer.conv]):
            yield layer.name
    if not certificate.end_to_end_tolerance <= END_TO_END_TOLERANCE:
        yield "the whole network"


def _terms(conv: ConvRecord) -> int:
    inputs = conv.in_channels if conv.kind == "transposed" else conv.in_channels // conv.groups
    return inputs * math.prod(conv.kernel)

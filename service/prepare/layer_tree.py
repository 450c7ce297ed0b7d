"""The checkpoint's blocks and convolutions in order, and which BatchNorm stood behind which convolution."""

from torch import nn

from service.bundle.batchnorm import (
    BatchNormLayer,
    BatchNormReport,
    BlockRecord,
    ConvRecord,
    ConvStatus,
    FoldStatus,
    LayerTree,
)
from service.prepare.bn_stats import conv_kind
from service.prepare.checkpoint import blocks, stage_of_block
from service.prepare.dataflow import CONVOLUTIONS, Dataflow

_STATUS: dict[FoldStatus, ConvStatus] = {"folded": "folded", "dropped": "dropped", "unfoldable": "kept"}


def describe_layers(network: nn.Module, deployed: Dataflow, report: BatchNormReport) -> LayerTree:
    """Describe every top-level block of the whole network.

    Args:
        network: with both heads, before folding.
        deployed: what ran with one head; convolutions that did not run there are marked dropped.
        report: the BatchNorm report, which says what became of each BatchNorm.
    """
    stages = stage_of_block(network)
    batchnorms = {layer.conv: layer for layer in report.layers if layer.conv is not None}
    named = {layer.name: layer for layer in report.layers}
    batchnorms |= {conv: named[site.name] for site in deployed.sites.values() for conv in site.behind}
    records = []
    for index, block in enumerate(blocks(network)):
        prefix = f"model.{index}"
        convs = [
            _conv_record(f"{prefix}.{name}".rstrip("."), module, batchnorms, deployed)
            for name, module in block.named_modules()
            if isinstance(module, CONVOLUTIONS)
        ]
        records.append(
            BlockRecord(
                index=index,
                name=prefix,
                type=type(block).__name__,
                stage=stages[index],
                inputs=[block.f] if isinstance(block.f, int) else list(block.f),
                parameters=sum(p.numel() for p in block.parameters()),
                convs=convs,
            )
        )
    return LayerTree(blocks=records)


def _conv_record(
    name: str, conv: nn.Conv2d | nn.ConvTranspose2d, batchnorms: dict[str, BatchNormLayer], deployed: Dataflow
) -> ConvRecord:
    layer = batchnorms.get(name)
    without: ConvStatus = "plain" if name in deployed.conv_activations else "dropped"
    return ConvRecord(
        name=name,
        kind=conv_kind(conv),
        in_channels=conv.in_channels,
        out_channels=conv.out_channels,
        kernel=tuple(conv.kernel_size),
        stride=tuple(conv.stride),
        groups=conv.groups,
        bias=conv.bias is not None,
        batch_norm=layer.name if layer else None,
        activation=layer.activation if layer else deployed.conv_activations.get(name),
        status=_STATUS[layer.status] if layer else without,
    )

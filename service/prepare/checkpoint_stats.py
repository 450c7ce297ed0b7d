"""The BatchNorm figures of a checkpoint without preparing a bundle of it."""

import copy
from pathlib import Path

import torch

from service.bundle.manifest import HeadKind
from service.prepare.bn_stats import BatchNormStats, collect_bn_stats
from service.prepare.checkpoint import choose_head, drop_unused_head, load_model
from service.prepare.dataflow import observe_dataflow


def read_checkpoint_stats(path: Path, preferred: HeadKind = "one2one") -> BatchNormStats:
    """Open a checkpoint and read every BatchNorm2d, with the head that would be deployed by default.

    Args:
        preferred: the head to take where the checkpoint has both.

    Raises:
        UnreadableCheckpoint, UnsupportedModel: as ``load_model``.
    """
    network = load_model(path).network
    head = choose_head(network, "auto", preferred)
    reference = copy.deepcopy(network)
    drop_unused_head(reference, head)
    side = 2 * int(torch.as_tensor(network.stride).max())
    return collect_bn_stats(
        network, observe_dataflow(reference, side).sites, observe_dataflow(network, side).sites, head
    )

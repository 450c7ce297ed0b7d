"""``bn-diff``: the BatchNorm layers of two checkpoints, side by side."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from service.bundle.store import load_bundle
from service.commands.prepare_extra import needing_prepare_extra
from service.errors import WeightsNotFound
from service.observatory.diff import Side, compare_batchnorm, side_of_bundle


def bn_diff(
    first: Annotated[Path, typer.Argument(help="A bundle's folder, or a checkpoint (.pt) that you trust.")],
    second: Annotated[Path, typer.Argument(help="The same, trained on or otherwise changed.")],
    json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")] = False,
) -> None:
    """Compare the BatchNorm layers of two checkpoints: what moved, what was frozen, where they diverged."""
    from service.observatory.terminal import print_bn_diff

    diff = compare_batchnorm(_side(first), _side(second))
    if json:
        print(diff.model_dump_json(indent=1))
    else:
        print_bn_diff(Console(), diff)


def _side(path: Path) -> Side:
    if path.is_dir():
        return side_of_bundle(load_bundle(path))
    if not path.is_file():
        raise WeightsNotFound(f"There is neither a bundle's folder nor a checkpoint at {path}.")
    with needing_prepare_extra("bn-diff"):
        from service.prepare.checkpoint_stats import read_checkpoint_stats

    stats = read_checkpoint_stats(path)
    return Side(str(path), stats.report.layers, stats.arrays)

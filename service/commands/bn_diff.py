"""``bn-diff``: the BatchNorm layers of two checkpoints, side by side."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from service.bundle.manifest import HeadKind
from service.bundle.store import Bundle, load_bundle
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

    bundles = [_bundle(path) for path in (first, second)]
    # Of a checkpoint with two heads the one that the bundle beside it deploys; the other would hide what moved there.
    head: HeadKind = next((bundle.manifest.model.head.kind for bundle in bundles if bundle is not None), "one2one")
    sides = [
        _checkpoint(path, head) if bundle is None else side_of_bundle(bundle)
        for path, bundle in zip((first, second), bundles, strict=True)
    ]
    diff = compare_batchnorm(*sides)
    if json:
        print(diff.model_dump_json(indent=1))
    else:
        print_bn_diff(Console(), diff)


def _bundle(path: Path) -> Bundle | None:
    """The bundle in a folder, or None for a file, which is taken for a checkpoint."""
    if path.is_dir():
        return load_bundle(path)
    if not path.is_file():
        raise WeightsNotFound(f"There is neither a bundle's folder nor a checkpoint at {path}.")
    return None


def _checkpoint(path: Path, head: HeadKind) -> Side:
    with needing_prepare_extra("bn-diff"):
        from service.prepare.checkpoint_stats import read_checkpoint_stats

    stats = read_checkpoint_stats(path, head)
    return Side(str(path), stats.report.layers, stats.arrays)

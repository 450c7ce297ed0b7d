"""The entry of ``python -m service``: it knows the commands, runs one, and turns errors into exit statuses."""

import sys
from collections.abc import Callable

import typer

from service.commands.bench import bench
from service.commands.bn_diff import bn_diff
from service.commands.bn_stats import bn_stats
from service.commands.bundle import bundle
from service.commands.calibrate import calibrate
from service.commands.console import print_error
from service.commands.evaluate import evaluate
from service.commands.halve import halve
from service.commands.prepare import prepare
from service.commands.quantize import quantize
from service.commands.recalibrate import recalibrate
from service.commands.serve import serve
from service.errors import BundleError, YolofoldError
from service.heap import map_large_blocks

EXIT_FAILED = 1
EXIT_NO_BUNDLE = 3
#: In the order in which `--help` lists them.
COMMANDS: tuple[Callable[..., None], ...] = (
    bundle,
    prepare,
    serve,
    bench,
    calibrate,
    evaluate,
    recalibrate,
    quantize,
    halve,
    bn_stats,
    bn_diff,
)

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Serve YOLO26 with its BatchNorm folded away. Every option is also a YOLOFOLD_* environment variable.",
)
for command in COMMANDS:
    app.command()(command)


def main() -> None:
    """Run a command; a domain error becomes one line on stderr and a non-zero exit."""
    # `prepare` decodes next to nothing, and times eager PyTorch, which takes a third longer with fresh pages each time.
    if sys.argv[1:2] != ["prepare"]:
        map_large_blocks()
    try:
        app()
    except YolofoldError as error:
        print_error(error)
        sys.exit(EXIT_NO_BUNDLE if isinstance(error, BundleError) else EXIT_FAILED)
    except OSError as error:  # a full disk, a folder that may not be read: the system's own words say it best
        print_error(error)
        sys.exit(EXIT_FAILED)

"""Measure how the cost of serving grows with the work, on this machine, and draw it.

    .venv/bin/python -m scripts.cost --bundle bundles/NAME --scale n=bundles/NAME --scale s=bundles/OTHER

Images per second and latency against concurrency, picture size, objects, cores, the share of the capacity that is asked
for and, where bundles of other scales are named, the scale of the network; what is answered and what is refused at one,
two and four times the capacity; how late the event loop is meanwhile; memory against time. Linux only; wrk has to be
installed.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scripts.bench.closed_loop import LoadFailed
from scripts.bench.process_tree import adopt_orphans
from scripts.bench.running import ServerFailed
from scripts.bench.servers import ROOT
from scripts.cost.drawing import draw_curve, draw_memory, draw_overload, draw_sheet
from scripts.cost.lag import measure_lag
from scripts.cost.load import CURVE, measure_load
from scripts.cost.measuring import Point, measure_curve, measure_memory
from scripts.cost.overload import measure_overload
from scripts.cost.spots import Curve, Spot, plan_curves
from service.errors import YolofoldError
from service.machine import describe_machine

#: Under which memory is watched.
MEMORY_CONNECTIONS = 16


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True, help="the bundle to serve")
    parser.add_argument(
        "--scale",
        type=_named_bundle,
        action="append",
        default=[],
        metavar="LABEL=BUNDLE",
        help="one network of the curve of scales, smallest first (repeatable)",
    )
    parser.add_argument("--rounds", type=int, default=5, help="that count, of each curve (5)")
    parser.add_argument("--seconds", type=int, default=3, help="of each load (3)")
    parser.add_argument("--minutes", type=float, default=5, help="during which memory is watched; 0 leaves it out (5)")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "cost", help="folder for the results (runs/cost)")
    found = parser.parse_args(arguments)
    if min(found.rounds, found.seconds) < 1 or not 0 <= found.minutes <= 24 * 60:
        parser.error("--rounds and --seconds must be at least 1, --minutes from 0 to 1440")
    return found


def _named_bundle(text: str) -> tuple[str, Path]:
    label, equals, path = text.partition("=")
    if not (label and equals and path):
        raise argparse.ArgumentTypeError(f"expected LABEL=BUNDLE, got {text}")
    return label, Path(path).resolve()


def main() -> int:
    """Measure, draw and write; the exit code."""
    options = parse_arguments()
    adopt_orphans()
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix="yolofold-cost-") as scratch:
            _run(options, Path(scratch))
    except (ServerFailed, LoadFailed, YolofoldError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"cost.json and the charts are in {options.out}.")
    return 0


def _run(options: argparse.Namespace, scratch: Path) -> None:
    """After each curve everything measured so far is on disk: a later load that fails takes nothing along."""
    cores = sorted(os.sched_getaffinity(0))
    curves = plan_curves(options.bundle.resolve(), dict(options.scale), len(cores))
    document: dict[str, Any] = {"machine": describe_machine().model_dump(), "curves": {}}
    drawn: list[tuple[Curve, list[Point]]] = []
    memory = None
    usual = curves[0].spots[0]
    for curve in [*curves, CURVE]:
        if curve is CURVE:
            points = measure_load(usual, cores, options.rounds, options.seconds, scratch, _say)
        else:
            points = measure_curve(curve, cores, options.rounds, options.seconds, scratch, _say)
        draw_curve(curve, points, options.out / f"{curve.name}.svg")
        drawn.append((curve, points))
        document["curves"][curve.name] = [asdict(point) for point in points]
        _write(document, options.out)
        for point in points:
            _say(
                f"  {point.label}: {point.images_per_s:.1f} images/s, p50 {point.p50_ms:.0f}, p99 {point.p99_ms:.0f} ms"
            )
    overload = measure_overload(usual, cores, options.rounds, options.seconds, scratch, _say)
    draw_overload(overload, options.out / "overload.svg")
    document["overload"] = [asdict(load) for load in overload]
    _write(document, options.out)
    for load in overload:
        _say(f"  {load.words}")
    lags = measure_lag(usual, cores, options.seconds, scratch, _say)
    document["loop_lag"] = [asdict(lag) for lag in lags]
    _write(document, options.out)
    for lag in lags:
        _say(f"  {lag.words}")
    if options.minutes:
        spot = Spot("memory", usual.bundle, usual.cores, usual.body, connections=MEMORY_CONNECTIONS)
        memory = measure_memory(spot, cores, options.minutes, scratch, _say)
        draw_memory(memory, options.out / "memory.svg")
        document["memory"] = asdict(memory)
        _write(document, options.out)
    draw_sheet(drawn, overload, memory, options.out / "all.svg")


def _write(document: dict[str, Any], folder: Path) -> None:
    (folder / "cost.json").write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

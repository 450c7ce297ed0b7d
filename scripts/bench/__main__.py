"""Benchmark yolofold and other servers on this machine. Started by scripts/bench.sh, which makes the environments.

Servers run one after another on the same cores, in rounds of random order. Each has to find the same boxes as yolofold
before it is timed. wrk has to be installed.
"""

import argparse
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

from scripts.bench.chart import draw
from scripts.bench.document import document
from scripts.bench.installed import installed_bytes
from scripts.bench.peers.task import Task
from scripts.bench.pictures import DEFAULT, NAMES, make_picture
from scripts.bench.process_tree import adopt_orphans
from scripts.bench.report import Results, markdown
from scripts.bench.rounds import Bench, CannotBenchmark, Cell, Plan
from scripts.bench.servers import REFERENCE, ROOT, Server, our_servers, peers
from service.bundle.store import Bundle, load_bundle, replace_file, sha256_file
from service.errors import YolofoldError
from service.machine import describe_machine

_EMBEDDED = ROOT / "service" / "weights" / "yolo26n-codes.pt"


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, got {text}")
    return int(text)


def _positive(text: str) -> float:
    if not 0 < (number := float(text)) < math.inf:
        raise argparse.ArgumentTypeError(f"expected a finite number above 0, got {text}")
    return number


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="scripts/bench.sh", description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--bundle", type=Path, required=True, help="the bundle to serve (scripts/bench.sh gives it)")
    add("--weights", type=Path, default=_EMBEDDED, help="the .pt file it was prepared from")
    add(
        "--environments",
        type=Path,
        required=True,
        help="folder of the servers' environments (scripts/bench.sh gives it)",
    )
    add("--out", type=Path, default=ROOT / "runs" / "bench", help="folder for the results (runs/bench)")
    add("--rounds", type=_count, default=6, help="times that each server is started and measured; 4 give intervals (6)")
    add("--seconds", type=_count, default=3, help="of each closed loop (3)")
    add("--open-seconds", type=_positive, default=10, help="of the open loop (10)")
    add(
        "--load", type=_positive, default=0.5, help="of the open loop, as a share of yolofold's images per second (0.5)"
    )
    add("--rate", type=_positive, help="of the open loop in requests per second, instead of --load")
    add("--minutes", type=_positive, default=60, help="no round is begun that would end later (60)")
    add("--connections", type=_count, nargs="+", default=[1, 4, 16], help="of the closed loops (1 4 16)")
    add("--pictures", nargs="+", choices=NAMES, default=list(NAMES), help="to send; the default one always is sent")
    add("--thorough", action="store_true", help="every picture with every number of connections, not the middle one")
    add("--servers", nargs="+", metavar="NAME", help="only these and yolofold")
    add("--cores", type=int, nargs="+", help="numbers of the cores for the servers (all)")
    return parser.parse_args(arguments)


def plan_cells(pictures: Sequence[str], connections: Sequence[int], thorough: bool) -> tuple[Cell, ...]:
    """The default picture with every number of connections, the others with the middle one unless ``thorough``."""
    counts = sorted(set(connections))
    others = [name for name in pictures if name != DEFAULT]
    of_others = counts if thorough else [counts[len(counts) // 2]]
    return tuple(Cell(*cell) for cell in (*product([DEFAULT], counts), *product(others, of_others)))


def choose_servers(known: Sequence[Server], names: Sequence[str] | None) -> list[Server]:
    """Those named and the reference; all if ``names`` is None.

    Raises:
        CannotBenchmark: a name is unknown.
    """
    if unknown := set(names or ()) - {server.name for server in known}:
        raise CannotBenchmark(
            f"There is no server {', '.join(sorted(unknown))}; there are {', '.join(s.name for s in known)}."
        )
    return [server for server in known if names is None or server.name in (REFERENCE, *names)]


def main() -> int:
    """Run and write the results; the exit code."""
    arguments = parse_arguments()
    # Ends by the same way as Ctrl-C: through every finally that ends a server.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    adopt_orphans()
    kept = _Kept(arguments.out)
    try:
        with tempfile.TemporaryDirectory(prefix="yolofold-bench-") as scratch:
            _run(arguments, Path(scratch), kept)
    except (CannotBenchmark, YolofoldError, subprocess.SubprocessError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"Interrupted; every server has been ended. Whole rounds written: {kept.rounds}.", file=sys.stderr)
        return 130
    print(f"\n{kept.tables}\nresults.md, results.json and results.svg are in {arguments.out}.")
    return 0


class _Kept:
    """The results' files, written anew after each round: whatever ends the run, its whole rounds are on disk."""

    def __init__(self, out: Path) -> None:
        self._out, self.rounds, self.tables = out, 0, ""

    def write(self, results: Results) -> None:
        tables = markdown(results)
        for name, text in (
            ("results.json", json.dumps(document(results), indent=1, allow_nan=False) + "\n"),
            ("results.md", tables),
            ("results.svg", draw(results)),
        ):
            replace_file(self._out / name, text.encode())
        self.rounds, self.tables = len(results.findings.ceilings), tables


def _run(arguments: argparse.Namespace, scratch: Path, kept: _Kept) -> None:
    for program in ("wrk", "taskset"):
        if shutil.which(program) is None:
            raise CannotBenchmark(f"{program} is needed (Debian: apt-get install wrk util-linux).")
    bundle = load_bundle(arguments.bundle.resolve())
    if sha256_file(arguments.weights) != bundle.manifest.weights.sha256:
        raise CannotBenchmark(
            f"{arguments.bundle} was not prepared from {arguments.weights}; name the file by --weights."
        )
    cores = tuple(arguments.cores or sorted(os.sched_getaffinity(0)))
    plan = Plan(
        rounds=arguments.rounds,
        seconds=arguments.seconds,
        open_seconds=arguments.open_seconds,
        load=arguments.load,
        rate_per_s=arguments.rate,
        minutes=arguments.minutes,
        cores=cores,
        cells=plan_cells(arguments.pictures, arguments.connections, arguments.thorough),
    )
    pictures = [make_picture(name, ROOT / "samples") for name in NAMES if name in (DEFAULT, *arguments.pictures)]
    environments = arguments.environments.resolve()
    known = [*our_servers(bundle.path, environments, scratch), *peers(environments, scratch)]
    servers = choose_servers(known, arguments.servers)
    installed = {server.name: installed_bytes(server.environment) for server in servers}
    about = _about(bundle)
    logs = arguments.out / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    bench = Bench(plan, _task(bundle, arguments.weights.resolve(), len(cores)), pictures, logs, _say)
    bench.run(
        servers[0],
        servers,
        lambda findings: kept.write(Results(about, plan, pictures, servers, findings, installed)),
    )


def _task(bundle: Bundle, weights: Path, cores: int) -> Task:
    model = bundle.manifest.model
    graph = str(bundle.deployed_graph)
    return Task(0, cores, graph, str(weights), model.classes, model.default_confidence, predict={})


def _about(bundle: Bundle) -> dict[str, Any]:
    manifest = bundle.manifest
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe_machine().model_dump(),
        "model": {
            "name": manifest.model.name,
            "version": manifest.model.version,
            "input": manifest.model.input.height,
            "confidence": manifest.model.default_confidence,
            "weights_sha256": manifest.weights.sha256,
            "graph_sha256": manifest.files[manifest.deployed.file].sha256,
        },
    }


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

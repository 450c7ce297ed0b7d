"""What a setting brings or costs in throughput: yolofold with it against yolofold without, on this machine.

    .venv/bin/python -m scripts.setting_cost --bundle bundles/NAME YOLOFOLD_DRIFT_CPU=0

Three servers are up at the same time, of which one at a time is loaded, by wrk: with the defaults, with the defaults
again (the null control, whose interval says what the machine tells apart) and with the settings named. They take short
turns in random order, so that whatever slows the machine down for longer than a turn hits all alike, and are started
anew for each session, since a start decides how fast a process is. Linux only; wrk has to be installed.
"""

import argparse
import os
import random
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scripts.bench.answers import read_answer
from scripts.bench.closed_loop import LoadFailed, run_closed_loop
from scripts.bench.peers.task import Task
from scripts.bench.pictures import DEFAULT, NAMES, make_picture
from scripts.bench.running import Running, ServerFailed, running
from scripts.bench.servers import ROOT, our_servers
from scripts.bench.upload import form_body
from service.bundle.store import load_bundle
from service.errors import YolofoldError
from service.measurement.statistics import MIN_SESSIONS, Speedup, estimate_speedup, judge, noise_floor

BASELINE, TWIN, CANDIDATE = "defaults", "defaults again", "with the settings"
SEED = 20261129
#: Between two turns, so that what a server does after its last answer is not paid for by the next one.
PAUSE_S = 0.5


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="+", metavar="YOLOFOLD_NAME=VALUE", type=setting, help="what is compared")
    parser.add_argument("--bundle", type=Path, required=True, help="the bundle to serve")
    parser.add_argument("--sessions", type=int, default=6, help=f"starts of each server, {MIN_SESSIONS} at least (6)")
    parser.add_argument("--turns", type=int, default=8, help="of each server in a session (8)")
    parser.add_argument("--seconds", type=int, default=1, help="of each turn (1)")
    parser.add_argument("--connections", type=int, default=4, help="of the load (4)")
    parser.add_argument("--picture", choices=NAMES, default=DEFAULT, help="to send")
    found = parser.parse_args(arguments)
    if found.sessions < MIN_SESSIONS or min(found.turns, found.seconds, found.connections) < 1:
        parser.error(f"--sessions must be at least {MIN_SESSIONS}; --turns, --seconds and --connections at least 1")
    return found


def setting(text: str) -> tuple[str, str]:
    """Name and value of ``YOLOFOLD_NAME=VALUE``.

    Raises:
        argparse.ArgumentTypeError: it is not of this form.
    """
    name, equals, value = text.partition("=")
    if not equals or not name.startswith("YOLOFOLD_"):
        raise argparse.ArgumentTypeError(f"expected YOLOFOLD_NAME=VALUE, got {text}")
    return name, value


def measure(options: argparse.Namespace, scratch: Path) -> dict[str, NDArray[np.float64]]:
    """Images per second of each server, each (sessions, turns).

    Raises:
        ServerFailed, LoadFailed: a server does not start, or refuses a request.
    """
    bundle = load_bundle(options.bundle.resolve())
    model = bundle.manifest.model
    graph = str(bundle.deployed_graph)
    cores = sorted(os.sched_getaffinity(0))
    task = Task(0, len(cores), graph, "", model.classes, model.default_confidence, predict={})
    body = form_body(make_picture(options.picture, ROOT / "samples").jpeg)
    plain = our_servers(bundle.path)[0]
    changed = replace(plain, settings=dict(plain.settings) | dict(options.settings))
    servers = {BASELINE: plain, TWIN: plain, CANDIDATE: changed}
    found = {name: np.empty((options.sessions, options.turns)) for name in servers}
    order = random.Random(SEED)
    for session in range(options.sessions):
        with ExitStack() as stack:
            up: dict[str, Running] = {
                name: stack.enter_context(
                    running(server, task, cores, scratch / f"{name}-{session}.log", body, read_answer)
                )
                for name, server in servers.items()
            }
            for turn in range(-1, options.turns):  # the first one warms up
                for name in order.sample(sorted(up), len(up)):
                    time.sleep(PAUSE_S)
                    load = run_closed_loop(up[name].address, body, options.connections, options.seconds)
                    if turn >= 0:
                        found[name][session, turn] = load.images_per_s
                print(
                    f"\rsession {session + 1}/{options.sessions}, turn {turn + 1}/{options.turns}", end="", flush=True
                )
    print()
    return found


def report(found: Mapping[str, NDArray[np.float64]], settings: str) -> str:
    """The throughputs and their ratios in words; the arrays are (sessions, turns)."""
    # A throughput is a count over a time: the baseline's time over the candidate's is the candidate's count over its.
    null = estimate_speedup(found[TWIN], found[BASELINE])
    floor, gain = noise_floor(null), estimate_speedup(found[CANDIDATE], found[BASELINE])
    lines = [f"{name}: {np.median(rates):.2f} images/s (median)" for name, rates in found.items()]
    lines += [
        f"{settings} over the defaults: {_ratio(gain)}, {judge(gain, floor)}",
        f"null control: {_ratio(null)}",
    ]
    return "\n".join(lines)


def _ratio(ratio: Speedup) -> str:
    return f"{ratio.estimate:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]"


def main() -> int:
    """Measure and print; the exit code."""
    options = parse_arguments()
    try:
        with tempfile.TemporaryDirectory(prefix="yolofold-setting-") as scratch:
            found = measure(options, Path(scratch))
    except (ServerFailed, LoadFailed, YolofoldError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(report(found, " ".join(f"{name}={value}" for name, value in options.settings)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

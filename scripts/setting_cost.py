"""What a setting brings or costs: yolofold with it against yolofold without, on this machine.

    .venv/bin/python -m scripts.setting_cost --bundle bundles/NAME YOLOFOLD_DRIFT_CPU=0

Three servers are up at the same time, of which one at a time is loaded, by wrk: with the defaults, with the defaults
again (the null control, whose interval says what the machine tells apart) and with the settings named. They take turns
in random order, so that whatever slows the machine down for longer than a turn hits all alike, and are started anew for
each session, since a start decides how fast a process is.

Two figures are compared, each as the settings' over the defaults'. Images per second: above 1 is a gain. Processor time
per image: below 1 is a gain. What other programs take of the machine does not count in the second, so it tells
differences apart that are lost in the first. Where it is 0.990 without something, having that costs 1 / 0.990: 1.0 %.

Small differences need longer turns than the usual ones of a second: processor time is counted in ticks of 0.01 s, 0.5 %
of a second on two cores. And what rests by the clock, like the watch for drift, rests while the others have their turn:
it costs more here than in service unless a turn lasts much longer than the rest (--turns 2 --seconds 60).

Linux only; wrk has to be installed.
"""

import argparse
import os
import random
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scripts.bench.closed_loop import LoadFailed
from scripts.bench.pictures import DEFAULT, NAMES, make_picture
from scripts.bench.process_tree import adopt_orphans
from scripts.bench.running import Running, ServerFailed
from scripts.bench.servers import ROOT
from scripts.bench.turns import SEED, Load, pictures_begun, start_ours, take_turns
from scripts.bench.upload import form_body
from service.errors import YolofoldError
from service.measurement.statistics import MIN_SESSIONS, Speedup, estimate_speedup, judge, noise_floor

BASELINE, TWIN, CANDIDATE = "defaults", "defaults again", "with the settings"
SERVERS = (BASELINE, TWIN, CANDIDATE)


@dataclass(frozen=True)
class Found:
    """Figures of each server, each (sessions, turns).

    Attributes:
        images_per_s: answered.
        processor_s: processor time of the server's processes per image, seconds. Those count, too, that were in work
            when a load ended, which are none of wrk's answers.
    """

    images_per_s: Mapping[str, NDArray[np.float64]]
    processor_s: Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Reading:
    """What a server has done since its start.

    Attributes:
        asked_s: processor time before it was asked for ``pictures``, seconds.
        pictures: that it has worked on.
        told_s: processor time after that, seconds.
    """

    asked_s: float
    pictures: int
    told_s: float


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="+", metavar="YOLOFOLD_NAME=VALUE", type=setting, help="what is compared")
    parser.add_argument("--bundle", type=Path, required=True, help="the bundle to serve")
    parser.add_argument("--sessions", type=int, default=6, help=f"starts of each server, {MIN_SESSIONS} at least (6)")
    parser.add_argument("--turns", type=int, default=8, help="of each server in a session (8)")
    parser.add_argument(
        "--seconds", type=int, default=1, help="of each turn; longer ones tell smaller differences apart (1)"
    )
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


def measure(options: argparse.Namespace, scratch: Path) -> Found:
    """Start the servers, session by session, and load them by turns.

    Args:
        scratch: folder for what the servers print.

    Raises:
        ServerFailed, LoadFailed: a server does not start, or refuses a request.
        BundleError: there is no bundle, or it is damaged.
    """
    shape = (options.sessions, options.turns)
    found = Found({name: np.empty(shape) for name in SERVERS}, {name: np.empty(shape) for name in SERVERS})
    order = random.Random(SEED)
    for session in range(options.sessions):
        with _servers(options, scratch) as loads:
            take_turns(loads, options.seconds, order)  # warms up
            before = {name: read(load.server) for name, load in loads.items()}
            for turn in range(options.turns):
                loops = take_turns(loads, options.seconds, order)
                # From one turn's end to the next one's: what a server does on a thread of its own after its last answer
                # counts, too. While the others are loaded it uses next to nothing, as much as they do in its place.
                for name, loop in loops.items():
                    after = read(loads[name].server)
                    found.images_per_s[name][session, turn] = loop.images_per_s
                    found.processor_s[name][session, turn] = per_image_s(before[name], after)
                    before[name] = after
                _say(f"session {session + 1}/{options.sessions}, turn {turn + 1}/{options.turns}")
    print()
    return found


@contextmanager
def _servers(options: argparse.Namespace, scratch: Path) -> Iterator[dict[str, Load]]:
    """All servers, started anew, and their load."""
    bundle, cores = options.bundle.resolve(), sorted(os.sched_getaffinity(0))
    body = form_body(make_picture(options.picture, ROOT / "samples").jpeg)
    with ExitStack() as stack:
        loads = {}
        for name in SERVERS:
            settings = dict(options.settings) if name == CANDIDATE else {}
            server = stack.enter_context(start_ours(bundle, cores, scratch / f"{name}.log", body, settings))
            loads[name] = Load(server, body, options.connections)
        yield loads


def _say(progress: str) -> None:
    print(f"\r{progress}", end="", flush=True)


def read(server: Running) -> Reading:
    """What it has done so far. Raises ServerFailed if it does not say."""
    asked_s, pictures = server.processor_s(), pictures_begun(server.address)
    return Reading(asked_s, pictures, server.processor_s())


def per_image_s(before: Reading, after: Reading) -> float:
    """Processor time in seconds per image between two readings, without the time that reading takes.

    Raises:
        LoadFailed: it has begun none meanwhile.
    """
    if after.pictures == before.pictures:
        raise LoadFailed("A turn was too short for a picture: give it more --seconds.")
    return (after.asked_s - before.told_s) / (after.pictures - before.pictures)


def report(found: Found, settings: str) -> str:
    """Both figures and their ratios in words."""
    processor_ms = {name: 1000 * seconds for name, seconds in found.processor_s.items()}
    return "\n".join(
        [
            "Throughput (a ratio above 1 is a gain)",
            *_compare(found.images_per_s, settings, "images/s", more_is_better=True),
            "",
            "Processor time per image (a ratio below 1 is a gain)",
            *_compare(processor_ms, settings, "ms", more_is_better=False),
        ]
    )


def _compare(found: Mapping[str, NDArray[np.float64]], settings: str, unit: str, *, more_is_better: bool) -> list[str]:
    """Medians, and the settings' figures over the defaults'; the arrays are (sessions, turns)."""
    # The first argument's over the second's, hence a speed-up only of what is better when there is more of it.
    null, ratio = estimate_speedup(found[TWIN], found[BASELINE]), estimate_speedup(found[CANDIDATE], found[BASELINE])
    better = ratio if more_is_better else estimate_speedup(found[BASELINE], found[CANDIDATE])
    return [
        *(f"{name}: {np.median(figures):.2f} {unit} (median)" for name, figures in found.items()),
        f"{settings} over the defaults: {_text(ratio)}, {judge(better, noise_floor(null))}",
        f"null control: {_text(null)}",
    ]


def _text(ratio: Speedup) -> str:
    return f"{ratio.estimate:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]"


def main() -> int:
    """Measure and print; the exit code."""
    options = parse_arguments()
    adopt_orphans()
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

"""Measures curves: all servers of one are up at once; its spots are loaded in turn, in a random order each round."""

import math
import random
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from scripts.bench.closed_loop import ClosedLoop, run_closed_loop
from scripts.bench.process_tree import PROC
from scripts.bench.running import Running
from scripts.bench.turns import SEED, Load, start_ours, take_turns
from scripts.cost.spots import Curve, Spot

Say = Callable[[str], None]


@dataclass(frozen=True)
class Point:
    """A spot's figures: medians over the rounds, and the least and greatest of the images per second."""

    label: str
    images_per_s: float
    least: float
    greatest: float
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True)
class Memory:
    """Resident memory of a server under load: megabytes (10^6 bytes) after so many seconds."""

    seconds: list[float]
    megabytes: list[float]


def measure_curve(
    curve: Curve, cores: Sequence[int], rounds: int, seconds: int, scratch: Path, say: Say
) -> list[Point]:
    """Load every spot once a round, for ``seconds`` each, or as much longer as the curve says; the first round warms up
    and does not count.

    Args:
        cores: numbers of those that servers may use, a spot's first ones.

    Raises:
        ServerFailed, LoadFailed: a server does not start, or refuses a request.
    """
    found: dict[Spot, list[ClosedLoop]] = {spot: [] for spot in curve.spots}
    order = random.Random(SEED)
    with ExitStack() as stack:
        up: dict[tuple[Path, int], Running] = {}
        for spot in curve.spots:
            if _server(spot) not in up:
                up[_server(spot)] = stack.enter_context(_started(spot, cores, scratch / f"{len(up)}.log"))
        loads = {spot: Load(up[_server(spot)], spot.body, spot.connections, spot.query) for spot in curve.spots}
        for number in range(rounds + 1):
            say(f"{curve.title}: round {number} of {rounds}")
            for spot, loop in take_turns(loads, curve.longer * seconds, order).items():
                if number:
                    found[spot].append(loop)
    return [_point(spot.label, of_spot) for spot, of_spot in found.items()]


def measure_memory(spot: Spot, cores: Sequence[int], minutes: float, scratch: Path, say: Say) -> Memory:
    """Resident memory every second from the first answer on, under an unbroken load."""
    say(f"Memory: {minutes:g} minutes")
    seconds = max(1, math.ceil(minutes * 60))
    found = Memory([], [])
    with _started(spot, cores, scratch / "memory.log") as up:
        loading = threading.Thread(target=run_closed_loop, args=(up.address, spot.body, spot.connections, seconds))
        started = time.monotonic()
        loading.start()
        while loading.is_alive():
            found.seconds.append(time.monotonic() - started)
            found.megabytes.append(resident_bytes(up.pid) / 1e6)
            loading.join(1.0)
    return found


def _server(spot: Spot) -> tuple[Path, int]:
    return spot.bundle, spot.cores


def _started(spot: Spot, cores: Sequence[int], log: Path) -> AbstractContextManager[Running]:
    return start_ours(spot.bundle, cores[: spot.cores], log, spot.body)


def _point(label: str, loads: Sequence[ClosedLoop]) -> Point:
    rates = [load.images_per_s for load in loads]
    return Point(
        label,
        median(rates),
        min(rates),
        max(rates),
        median(load.p50_ms for load in loads),
        median(load.p99_ms for load in loads),
    )


def resident_bytes(pid: int) -> int:
    """Of the process itself; ``taskset`` has become it, and it has no children."""
    status = (PROC / str(pid) / "status").read_text()
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])

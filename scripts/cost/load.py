"""Latency against load: requests that come at their own pace, as a share of what the server can answer."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from scripts.bench.closed_loop import LoadFailed
from scripts.bench.open_loop import OpenLoop, due_times, run_open_loop
from scripts.bench.running import Running
from scripts.bench.upload import Address
from scripts.cost.measuring import Point, Say
from scripts.cost.paced import LONGER, run_paced_rounds
from scripts.cost.spots import Curve, Spot

#: Of the capacity, in percent. At all of it a queue only grows.
SHARES = (20, 40, 60, 80, 90)
CURVE = Curve("load", "Load at an even pace", "% of what the server answers to 16 connections", ())


def measure_load(
    spot: Spot, cores: Sequence[int], rounds: int, seconds: int, scratch: Path, say: Say, shares: Sequence[int] = SHARES
) -> list[Point]:
    """In each round measure the capacity, for ``seconds``, and then ask for each share of it, in a random order.

    The first round warms up and does not count. Latencies are those of all rounds together, from the time at which
    each request was due; the images per second are those answered, the median of the rounds.

    Args:
        spot: what is served and sent.
        cores: numbers of those that the server may use.

    Raises:
        ServerFailed, LoadFailed: the server does not start, or refuses a request or leaves it without an answer.
    """

    def load(_: Running, address: Address, capacity_per_s: float, share: int) -> OpenLoop:
        return run_open_loop(address, spot.body, capacity_per_s * share / 100, LONGER * seconds)

    found = run_paced_rounds(spot, cores, rounds, seconds, scratch / "load.log", say, CURVE.title, shares, load)
    return [_point(share, loads) for share, loads in found.items()]


def _point(share: int, loads: Sequence[OpenLoop]) -> Point:
    rates = [answered_per_s(load) for load in loads]
    latencies = np.concatenate([load.latencies_ms for load in loads])
    p50, p99 = (float(np.percentile(latencies, percent, method="inverted_cdf")) for percent in (50, 99))
    return Point(f"{share}", float(np.median(rates)), min(rates), max(rates), p50, p99)


def answered_per_s(load: OpenLoop) -> float:
    """What a server answered per second: the pace of the requests, or less where it fell behind them.

    Raises:
        LoadFailed: a request was left without an answer.
    """
    if not all(map(math.isfinite, load.latencies_ms)):
        raise LoadFailed(f"requests at {load.rate_per_s:.1f} a second were left without an answer")
    due = due_times(load.rate_per_s, len(load.latencies_ms))
    last = max(after + ms / 1000 for after, ms in zip(due, load.latencies_ms, strict=True))
    # The last is due one step before the end of the time that so many requests at this pace take.
    return len(due) / max(len(due) / load.rate_per_s, last)

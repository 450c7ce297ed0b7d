"""Rounds of loads that come at their own pace, each a multiple of what the server answered just before."""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from scripts.bench.closed_loop import run_closed_loop
from scripts.bench.running import Running
from scripts.bench.turns import PAUSE_S, SEED, start_ours
from scripts.bench.upload import Address
from scripts.cost.measuring import Say
from scripts.cost.spots import Spot

T = TypeVar("T")

#: A paced load lasts so many times as long as one of the other curves: it has fewer requests, and p99 takes many.
LONGER = 3
#: Of the closed loop that tells the capacity.
CONNECTIONS = 16


def run_paced_rounds(
    spot: Spot,
    cores: Sequence[int],
    rounds: int,
    seconds: int,
    log: Path,
    say: Say,
    title: str,
    multiples: Sequence[int],
    load: Callable[[Running, Address, float, int], T],
) -> dict[int, list[T]]:
    """In each round measure the capacity, for ``seconds``, then load the server by each multiple, in a random order.

    The first round warms up and does not count.

    Args:
        spot: what is served and sent.
        cores: numbers of those that the server may use.
        log: file for what the server prints.
        title: what is measured, for people.
        load: loads the server at an address, given its capacity in images per second and the multiple.

    Returns:
        What ``load`` returned, by multiple, a value for each round.

    Raises:
        ServerFailed, LoadFailed: the server does not start, or refuses a request of the closed loop or answers none.
    """
    found: dict[int, list[T]] = {multiple: [] for multiple in multiples}
    order = random.Random(SEED)
    with start_ours(spot.bundle, cores[: spot.cores], log, spot.body) as up:
        address = replace(up.address, query=spot.query)
        for number in range(rounds + 1):
            say(f"{title}: round {number} of {rounds}")
            capacity = run_closed_loop(address, spot.body, CONNECTIONS, seconds).images_per_s
            for multiple in order.sample(list(multiples), len(multiples)):
                time.sleep(PAUSE_S)
                result = load(up, address, capacity, multiple)
                if number:
                    found[multiple].append(result)
    return found

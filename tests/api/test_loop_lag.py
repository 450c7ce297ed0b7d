"""The lag of the event loop in ``GET /metrics``, of a real server whose loop is held up."""

import asyncio
import time

import pytest
from prometheus_client import CollectorRegistry

from service.api.loop_lag import BUCKETS_S, INTERVAL_S, LoopLag
from service.bundle.store import Bundle
from tests.api.serving import Serving, serving, wait_until
from tests.api.test_metrics import scrape, value

NAME = "yolofold_event_loop_lag_seconds"
EDGE_S = BUCKETS_S[-2]
#: Whenever it begins, a look is due early enough in it to be late by more than the edge.
HELD_S = EDGE_S + 2 * INTERVAL_S


def later_than_the_edge(server: Serving) -> float:
    series = scrape(server)
    return value(series, f"{NAME}_count") - value(series, f"{NAME}_bucket", le=str(EDGE_S))


def test_a_loop_that_is_held_up_is_seen_in_its_bucket(bundle: Bundle) -> None:
    began = time.perf_counter()
    with serving(bundle, workers=1, threads=1) as server:
        wait_until(lambda: value(scrape(server), f"{NAME}_count") > 2)
        before, late = scrape(server), later_than_the_edge(server)
        server.loop.call_soon_threadsafe(time.sleep, HELD_S)
        wait_until(lambda: later_than_the_edge(server) > late)
        after = scrape(server)
    seconds = value(after, f"{NAME}_sum")
    assert seconds - value(before, f"{NAME}_sum") >= HELD_S - INTERVAL_S
    assert seconds < time.perf_counter() - began  # looks do not overlap


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_left_running(fails: bool) -> None:
    async def watch() -> None:
        try:
            async with LoopLag(CollectorRegistry()).watched():
                assert len(asyncio.all_tasks()) == 2
                if fails:
                    raise KeyError
        except KeyError:
            assert fails
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(watch())

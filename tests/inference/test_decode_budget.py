"""The budget with real threads; what happens is ordered by events, never by time."""

import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from service.inference.decode_budget import DecodeBudget
from tests.api.serving import wait_until


def test_what_fits_together_runs_together_and_the_limit_is_exact() -> None:
    budget = DecodeBudget(100)
    with budget.hold(60) as waited, budget.hold(40):
        assert waited >= 0
        assert budget.held_bytes == 100
        entered = threading.Event()
        thread = threading.Thread(target=lambda: _enter(budget, 1, entered))
        thread.start()
        wait_until(lambda: budget.waiting == 1)
        assert not entered.is_set()
    assert entered.wait(30)
    thread.join()
    assert (budget.held_bytes, budget.waiting) == (0, 0)


def test_more_than_the_limit_goes_alone() -> None:
    budget = DecodeBudget(100)
    entered = threading.Event()
    with budget.hold(1000):
        assert budget.held_bytes == 1000
        thread = threading.Thread(target=lambda: _enter(budget, 1000, entered))
        thread.start()
        wait_until(lambda: budget.waiting == 1)
        assert not entered.is_set()
    assert entered.wait(30)
    thread.join()


def test_small_ones_do_not_overtake_a_large_one() -> None:
    budget = DecodeBudget(100)
    large, small = threading.Event(), threading.Event()
    with budget.hold(60):
        threads = [threading.Thread(target=lambda: _enter(budget, 90, large))]
        threads[0].start()
        wait_until(lambda: budget.waiting == 1)
        threads.append(threading.Thread(target=lambda: _enter(budget, 20, small, after=large)))
        threads[1].start()
        wait_until(lambda: budget.waiting == 2)
        assert not small.is_set()
    for thread in threads:
        thread.join()
    assert large.is_set() and small.is_set()


def test_failing_work_gives_its_bytes_back() -> None:
    budget = DecodeBudget(100)
    with pytest.raises(ValueError, match="broken"), budget.hold(1000):
        raise ValueError("broken")
    assert budget.held_bytes == 0


def test_many_threads_all_finish_and_never_hold_too_much() -> None:
    budget = DecodeBudget(100)
    lock, running, seen = threading.Lock(), [], []

    def work(count: int) -> None:
        with budget.hold(count):
            with lock:
                running.append(count)
                seen.append(tuple(running))
            with lock:
                running.remove(count)

    counts = random.Random(0).choices([1, 20, 50, 99, 100, 101, 5000], k=2000)
    with ThreadPoolExecutor(8) as executor:
        list(executor.map(work, counts))
    assert len(seen) == len(counts)
    assert all(sum(together) <= 100 or len(together) == 1 for together in seen)
    assert (budget.held_bytes, budget.waiting) == (0, 0)


def _enter(budget: DecodeBudget, count: int, entered: threading.Event, after: threading.Event | None = None) -> None:
    with budget.hold(count):
        assert after is None or after.is_set()
        entered.set()

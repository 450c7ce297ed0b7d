"""Sampling within a CPU budget, by its arithmetic and by what the mailbox takes; never by a clock."""

import os
import threading
import time

import numpy as np
import pytest

from service.inference.sampling import CpuBudget, PictureSampler
from service.preprocessing.letterbox import Letterbox, plan_letterbox
from tests.api.serving import wait_until

PLAN = plan_letterbox(64, 64, 64)


@pytest.mark.parametrize(
    ("share", "cores", "worked_s", "rest_s"),
    [(0.01, 1, 0.02, 1.98), (0.01, 4, 0.02, 0.48), (0.5, 1, 0.5, 0.5), (1.0, 1, 0.5, 0.0), (1.0, 8, 0.5, 0.0)],
)
def test_work_and_rest_stay_within_the_budget(share: float, cores: int, worked_s: float, rest_s: float) -> None:
    found = CpuBudget(share, cores).rest_s(worked_s)
    assert found == pytest.approx(rest_s)
    assert worked_s / (worked_s + found) <= share * cores * (1 + 1e-12)


class Viewer:
    """Looks at pictures, but only when the test lets it."""

    def __init__(self) -> None:
        self.entered, self.leave = threading.Semaphore(0), threading.Semaphore(0)
        self.seen: list[int] = []
        self.fails = False

    def look(self, plan: Letterbox, square: np.ndarray, when: float) -> None:
        assert plan == PLAN
        self.entered.release()
        assert self.leave.acquire(timeout=30)
        if self.fails:
            raise RuntimeError("broken")
        self.seen.append(int(square[0, 0, 0]))


def picture(value: int) -> np.ndarray:
    return np.full((64, 64, 3), value, np.uint8)


def offer_until_taken(sampler: PictureSampler, viewer: Viewer, value: int) -> None:
    def taken() -> bool:
        sampler.offer(PLAN, picture(value))
        return viewer.entered.acquire(timeout=0.001)

    wait_until(taken)


def test_a_picture_offered_while_another_is_measured_is_not_kept() -> None:
    viewer = Viewer()
    sampler = PictureSampler(viewer.look, CpuBudget(1.0, 1))
    try:
        offer_until_taken(sampler, viewer, 10)
        sampler.offer(PLAN, picture(20))
        viewer.leave.release()
        wait_until(lambda: len(viewer.seen) == 1)
        offer_until_taken(sampler, viewer, 30)
        viewer.leave.release()
        wait_until(lambda: len(viewer.seen) == 2)
        assert viewer.seen == [10, 30]
    finally:
        viewer.leave.release(100)
        sampler.close()


def test_a_picture_that_cannot_be_measured_ends_nothing() -> None:
    viewer = Viewer()
    sampler = PictureSampler(viewer.look, CpuBudget(1.0, 1))
    try:
        viewer.fails = True
        offer_until_taken(sampler, viewer, 10)
        viewer.leave.release()
        wait_until(lambda: sampler.open)
        viewer.fails = False
        offer_until_taken(sampler, viewer, 30)
        viewer.leave.release()
        wait_until(lambda: len(viewer.seen) == 1)
        assert viewer.seen == [30]
    finally:
        viewer.leave.release(100)
        sampler.close()


def test_the_processor_time_is_that_of_looking() -> None:
    spent = []

    def look(plan: Letterbox, square: np.ndarray, when: float) -> None:
        began = time.thread_time()
        while time.thread_time() - began < 0.05:
            pass
        spent.append(time.thread_time())

    sampler = PictureSampler(look, CpuBudget(1.0, 1))
    try:
        assert sampler.processor_s == 0
        for _ in range(2):
            wait_until(lambda: sampler.open)
            sampler.offer(PLAN, picture(10))
            wait_until(lambda: sampler.open)
            assert spent[-1] <= sampler.processor_s
        known, began = sampler.processor_s, time.thread_time()
        assert 0.1 <= known <= time.process_time()
        while time.thread_time() - began < 0.05:
            pass  # elsewhere than in the sampler's thread
        assert sampler.processor_s == known
    finally:
        sampler.close()


def test_closing_ends_the_thread_even_while_it_rests() -> None:
    viewer = Viewer()
    sampler = PictureSampler(viewer.look, CpuBudget(1e-9, 1))
    viewer.leave.release()
    offer_until_taken(sampler, viewer, 10)
    wait_until(lambda: len(viewer.seen) == 1)
    sampler.close()
    assert not sampler._thread.is_alive()
    sampler.offer(PLAN, picture(20))
    assert len(viewer.seen) == 1


def test_the_sampling_thread_steps_back_by_resting_only() -> None:
    """With less priority than the others it would never come to its turn where these fill the cores."""
    found = []
    looked = threading.Event()

    def look(plan: Letterbox, square: np.ndarray, when: float) -> None:
        found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        looked.set()

    sampler = PictureSampler(look, CpuBudget(1.0, 1))
    try:
        wait_until(lambda: sampler.open)
        sampler.offer(PLAN, picture(1))
        assert looked.wait(30)
    finally:
        sampler.close()
    assert found == [os.getpriority(os.PRIO_PROCESS, threading.get_native_id())]

"""Bursts of several callers: how many runs they are, that they overlap, and that nothing of them stays."""

import gc
import itertools
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from service.measurement import throughput
from service.measurement.runtime_arms import GraphArm, SessionPlan, random_images
from service.measurement.throughput import RUNS_PER_CALLER, burst_arm
from service.measurement.timed_arm import ArmFacts, Run

ARM = GraphArm(
    "ort_deployed",
    "",
    SessionPlan(Path("model.onnx"), 1),
    ArmFacts(engine="onnxruntime", nodes=1, batch_normalizations=0, bytes=1),
)


def burst_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("yolofold-burst")]


@pytest.mark.parametrize("callers", [1, 3])
def test_a_burst_is_so_many_runs_of_so_many_callers_at_once(callers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    images, runs = random_images(32, 2), list[int]()
    together = threading.Barrier(callers)

    def plan_run(plan: SessionPlan, fed: np.ndarray) -> Run:
        assert plan is ARM.plan and fed is images

        def run() -> None:
            together.wait(timeout=30)  # broken unless all callers are in a run at the same time
            runs.append(threading.get_ident())

        return run

    monkeypatch.setattr(throughput, "session_run", plan_run)
    burst = burst_arm(ARM, images, callers).open()
    burst()
    assert len(runs) == callers * RUNS_PER_CALLER
    assert len(set(runs)) == callers
    burst()
    assert len(runs) == 2 * callers * RUNS_PER_CALLER


def test_its_threads_end_with_the_arm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "session_run", lambda plan, fed: lambda: None)
    burst = burst_arm(ARM, random_images(32, 1), 3).open()
    burst()
    started = burst_threads()
    assert started
    del burst
    gc.collect()
    for thread in started:
        thread.join(timeout=30)
    assert burst_threads() == []


def test_a_run_that_fails_fails_the_burst(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(throughput, "session_run", lambda plan, fed: broken)
    with pytest.raises(RuntimeError, match="no such kernel"):
        burst_arm(ARM, random_images(32, 1), 2).open()()


def test_none_still_runs_when_a_burst_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, ended = itertools.count(), list[int]()

    def run() -> None:
        if next(calls) == 0:
            raise RuntimeError("no such kernel")
        time.sleep(0.2)
        ended.append(threading.get_ident())

    monkeypatch.setattr(throughput, "session_run", lambda plan, fed: run)
    with pytest.raises(RuntimeError, match="no such kernel"):
        burst_arm(ARM, random_images(32, 1), 2).open()()
    assert len(ended) == RUNS_PER_CALLER

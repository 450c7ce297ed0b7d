"""How many images per second several callers get together, as the service's workers do."""

from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np
from numpy.typing import NDArray

from service.measurement.runtime_arms import FOLDING_AT_DEFAULTS, GraphArm, session_run
from service.measurement.timed_arm import Run, TimedArm

#: With more, the moments in which the first callers have ended and the last have not weigh less, but a burst of a
#: large network takes long.
RUNS_PER_CALLER = 3

THROUGHPUT_QUESTIONS = (FOLDING_AT_DEFAULTS,)


def burst_arm(arm: GraphArm, images: NDArray[np.uint8], callers: int) -> TimedArm:
    """One burst: ``callers`` threads share a session, and each runs ``images`` (B, S, S, 3) RUNS_PER_CALLER times."""
    return in_bursts(TimedArm(arm.name, arm.title, arm.facts, lambda: session_run(arm.plan, images)), callers)


def in_bursts(arm: TimedArm, callers: int) -> TimedArm:
    """The same arm, each of ``callers`` threads running it RUNS_PER_CALLER times; its runs may overlap."""

    def open_burst() -> Run:
        run = arm.open()
        # Its threads end when it is collected, that is with the arm.
        pool = ThreadPoolExecutor(callers, thread_name_prefix="yolofold-burst")

        def call() -> None:
            for _ in range(RUNS_PER_CALLER):
                run()

        def burst() -> None:
            jobs = [pool.submit(call) for _ in range(callers)]
            wait(jobs)  # all of them: where one fails, others would still run while the next arm is timed
            for job in jobs:
                job.result()

        return burst

    return TimedArm(arm.name, arm.title, arm.facts, open_burst)

"""One of the things that are timed against each other."""

from collections.abc import Callable
from dataclasses import dataclass

from service.bundle.latency import Device, Engine, Precision
from service.errors import MeasurementRefused

Run = Callable[[], object]


class OptionalArmFailed(MeasurementRefused):
    """An arm that a report can do without cannot be loaded or run; the message says why."""


@dataclass(frozen=True)
class ArmFacts:
    """What is known of an arm before it is timed; meanings as in ``service.bundle.latency.Arm``."""

    engine: Engine
    nodes: int | None
    batch_normalizations: int
    bytes: int
    device: Device = "cpu"
    precision: Precision = "fp32"


@dataclass(frozen=True)
class TimedArm:
    """One thing to time. ``open`` loads it anew; what it returns does the whole work of one run or burst."""

    name: str
    title: str
    facts: ArmFacts
    open: Callable[[], Run]

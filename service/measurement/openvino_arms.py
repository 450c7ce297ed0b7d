"""Both graphs in OpenVINO, in each precision that it has. Imported only where OpenVINO is installed.

OpenVINO folds BatchNorm by itself and cannot be told not to. So one question is what folding beforehand saves there,
the other what OpenVINO saves against ONNX Runtime, with the folded graph in both. Where the bundle was quantized, int8
is measured each way that may be served here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.bundle.int8 import Int8Precision
from service.bundle.latency import NotMeasured
from service.machine import has_int8_dot_products, threads_under_load, usable_cores
from service.measurement import openvino_peak
from service.measurement.economy import Question
from service.measurement.openvino_session import (
    FloatPrecision,
    OpenVinoPlan,
    float_precisions,
    inspect_openvino,
    openvino_run,
)
from service.measurement.quantized import QuantizedGraph, int8_left_open
from service.measurement.runtime_arms import NULL_CONTROL
from service.measurement.study import Place
from service.measurement.throughput import in_bursts
from service.measurement.timed_arm import ArmFacts, TimedArm

NO_BF16 = NotMeasured(
    name="openvino_bf16",
    question="What does folding save in OpenVINO in bf16?",
    reason="This processor has no instructions for bf16.",
)
NO_INT8 = int8_left_open("This bundle holds no quantized graph; `python -m service quantize` makes one that does.")
#: Each way to run the quantized graph, and what it computes the rest of the network in.
_WAYS: dict[Int8Precision, FloatPrecision] = {"int8+bf16": "bf16", "int8+fp32": "fp32"}


@dataclass(frozen=True)
class OpenVinoArm:
    """An arm in OpenVINO before it is given pictures."""

    name: str
    title: str
    plan: OpenVinoPlan
    facts: ArmFacts

    def timed(self, images: NDArray[np.uint8]) -> TimedArm:
        """This arm on ``images`` (B, S, S, 3), loaded anew each time it is opened."""
        return TimedArm(self.name, self.title, self.facts, lambda: openvino_run(self.plan, images))


class OpenVinoArms:
    """See ``service.measurement.study.MoreArms``."""

    asked_first = False

    def __init__(
        self, place: Place, not_measured: Sequence[NotMeasured] = (), quantized: QuantizedGraph | None = None
    ) -> None:
        """Load each graph once in each precision, to count what is executed.

        Args:
            not_measured: what is left open besides.
            quantized: the graph in int8, if there is one.

        Raises:
            MeasurementRefused: OpenVINO cannot load a graph.
        """
        precisions, self._threads_chosen = float_precisions(), place.threads_chosen
        self.not_measured = [*not_measured, *(() if "bf16" in precisions else (NO_BF16,))]
        self._arms = [arm for precision in precisions for arm in _arms(place, precision)]
        self.questions = [question for precision in precisions for question in _questions(precision)]
        if quantized is None:
            self.not_measured.append(NO_INT8)
            return
        bf16, dot_products = "bf16" in precisions, has_int8_dot_products()
        for way in _WAYS:
            questions = _int8_questions(way)
            obstacle = quantized.spec.obstacle(way, bf16=bf16, dot_products=dot_products)
            if obstacle is None:
                self._arms.append(_int8_arm(place, quantized.graph, way))
                self.questions += questions
            else:
                left = [NotMeasured(name=q.name, question=q.question, reason=obstacle) for q in questions]
                self.not_measured += left

    def timed(self, images: NDArray[np.uint8]) -> list[TimedArm]:
        """See ``MoreArms.timed``."""
        return [arm.timed(images) for arm in self._arms]

    def bursts(self, images: NDArray[np.uint8], callers: int) -> list[TimedArm]:
        """See ``MoreArms.bursts``. The callers share streams, and these the cores; see ``share_cores``."""
        return [in_bursts(arm.timed(images), callers) for arm in self.under_load(callers)]

    def under_load(self, callers: int) -> list[OpenVinoArm]:
        """The arms as they are loaded for ``callers`` runs at once."""
        cores, chosen = usable_cores(), self._threads_chosen
        return [replace(arm, plan=share_cores(arm.plan, callers, cores, chosen=chosen)) for arm in self._arms]

    def programs(self, imgsz: int, batch: int, folder: Path) -> dict[str, list[str]]:
        """See ``MoreArms.programs``."""
        return {arm.name: openvino_peak.program(arm.plan, imgsz, batch) for arm in self._arms}


def share_cores(plan: OpenVinoPlan, callers: int, cores: int, *, chosen: bool) -> OpenVinoPlan:
    """The plan for ``callers`` runs at once, its ``cores`` shared out as they are where OpenVINO serves.

    OpenVINO knows of no limit that a container sets, so what it may use is always said.

    Args:
        chosen: somebody has set the threads of a run, and they stay.
    """
    if chosen:
        return replace(plan, streams=max(1, min(callers, cores // plan.threads)))
    fill = min(callers, cores)
    return replace(plan, streams=fill, threads=threads_under_load(cores, fill))


def _arms(place: Place, precision: FloatPrecision) -> list[OpenVinoArm]:
    where = f"OpenVINO in {precision}"
    named = (
        (f"openvino_reference_{precision}", f"{where}, BatchNorm left for the runtime to fold", place.reference),
        (f"openvino_deployed_{precision}", f"{where}, folded", place.deployed),
    )
    plans = [(name, title, OpenVinoPlan(graph, precision, place.threads)) for name, title, graph in named]
    return [OpenVinoArm(name, title, plan, inspect_openvino(plan)) for name, title, plan in plans]


def _int8_arm(place: Place, graph: Path, way: Int8Precision) -> OpenVinoArm:
    floats = _WAYS[way]
    plan = OpenVinoPlan(graph, floats, place.threads)
    title = f"OpenVINO in int8, the rest in {floats}, folded"
    return OpenVinoArm(f"openvino_int8_{floats}", title, plan, replace(inspect_openvino(plan), precision=way))


def _questions(precision: FloatPrecision) -> tuple[Question, Question]:
    reference, deployed = f"openvino_reference_{precision}", f"openvino_deployed_{precision}"
    return (
        Question(
            f"folding_when_openvino_folds_itself_{precision}",
            f"What does folding beforehand save when OpenVINO in {precision} would fold by itself?",
            baseline=reference,
            candidate=deployed,
        ),
        Question(
            f"openvino_{precision}",
            f"What does OpenVINO in {precision} save against ONNX Runtime, both folded?",
            baseline=NULL_CONTROL.baseline,
            candidate=deployed,
        ),
    )


def _int8_questions(way: Int8Precision) -> tuple[Question, Question]:
    floats = _WAYS[way]
    candidate = f"openvino_int8_{floats}"
    return (
        Question(
            f"int8_in_openvino_{floats}",
            f"What does int8 save in OpenVINO, the rest in {floats}, against all of it in {floats}?",
            baseline=f"openvino_deployed_{floats}",
            candidate=candidate,
        ),
        Question(
            candidate,
            f"What does OpenVINO in int8, the rest in {floats}, save against ONNX Runtime, both folded?",
            baseline=NULL_CONTROL.baseline,
            candidate=candidate,
        ),
    )

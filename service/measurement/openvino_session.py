"""One graph in OpenVINO, on the processor. Imported only where OpenVINO is installed."""

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from service.errors import MeasurementRefused
from service.measurement.timed_arm import ArmFacts, OptionalArmFailed, Run
from service.openvino_properties import DEVICE, OPENVINO_FAULTS, openvino_properties, openvino_reason

FloatPrecision = Literal["fp32", "bf16"]
#: Its layers that stand for what goes in and out, and for weights.
_NO_WORK = frozenset({"Input", "Output", "Const"})


@dataclass(frozen=True)
class OpenVinoPlan:
    """All that decides how OpenVINO loads a graph: ``threads`` for each of ``streams`` runs at once."""

    graph: Path
    precision: FloatPrecision
    threads: int
    streams: int = 1


def float_precisions() -> list[FloatPrecision]:
    """What this processor can compute in.

    Raises:
        MeasurementRefused: OpenVINO cannot use the processor.
    """
    try:
        bf16 = "BF16" in ov.Core().get_property(DEVICE, "OPTIMIZATION_CAPABILITIES")
    except OPENVINO_FAULTS as error:
        raise MeasurementRefused(f"OpenVINO cannot use the processor: {openvino_reason(error)}") from error
    return ["fp32", "bf16"] if bf16 else ["fp32"]


def openvino_run(plan: OpenVinoPlan, images: NDArray[np.uint8]) -> Run:
    """Load a graph for ``images`` (B, S, S, 3) uint8 BGR; each call of what is returned runs it once.

    Several threads may call it at a time.

    Raises:
        OptionalArmFailed: the graph cannot be loaded; from what is returned, it cannot be run.
    """
    compiled, own = _compile(plan, len(images)), threading.local()

    def request() -> ov.InferRequest:
        made = compiled.create_infer_request()
        # Whoever looks at a tensor first in a process fills tables of the bindings, at which two threads can block.
        for tensor in (made.get_input_tensor(), made.get_output_tensor()):
            _ = tensor.data
        return made

    own.request = request()

    def run() -> object:
        try:
            if not hasattr(own, "request"):
                own.request = request()
            # Not `infer`: started so, it runs on the streams' own threads, however many callers there are.
            own.request.start_async([images], share_inputs=True)
            own.request.wait()
            return own.request.get_output_tensor().data.copy()
        except OPENVINO_FAULTS as error:
            raise OptionalArmFailed(f"OpenVINO cannot run {plan.graph.name}: {openvino_reason(error)}") from error

    return run


def inspect_openvino(plan: OpenVinoPlan) -> ArmFacts:
    """Load a graph once, for one image, and count the layers that OpenVINO executes.

    Raises:
        OptionalArmFailed: it cannot be loaded.
    """
    kinds = [str(op.get_rt_info()["layerType"].astype(str)) for op in _compile(plan, 1).get_runtime_model().get_ops()]
    return ArmFacts(
        engine="openvino",
        precision=plan.precision,
        nodes=sum(kind not in _NO_WORK for kind in kinds),
        batch_normalizations=sum("BatchNorm" in kind for kind in kinds),
        bytes=plan.graph.stat().st_size,
    )


def _compile(plan: OpenVinoPlan, batch: int) -> ov.CompiledModel:
    try:
        core = ov.Core()
        model = core.read_model(str(plan.graph))
        model.reshape([batch, *list(model.inputs[0].get_partial_shape())[1:]])
        return core.compile_model(model, DEVICE, openvino_properties(plan.precision, plan.threads, plan.streams))
    except OPENVINO_FAULTS as error:
        raise OptionalArmFailed(f"OpenVINO cannot load {plan.graph.name}: {openvino_reason(error)}") from error

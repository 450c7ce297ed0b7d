"""The measurement that a server or the command line takes of a prepared bundle's two graphs."""

import logging
from importlib.util import find_spec

from service.bundle.latency import LatencyReport, Machine, NotMeasured
from service.bundle.store import Bundle
from service.errors import MeasurementRefused, fault_in_words
from service.measurement.quantized import QuantizedGraph, int8_left_open
from service.measurement.runtime_arms import AllowedDevice
from service.measurement.study import Effort, MoreArms, NoMoreArms, Place, Progress, run_study
from service.measurement.traffic import Traffic

log = logging.getLogger(__name__)

#: What only a preparation can measure, since it alone has PyTorch.
NEEDS_TORCH = (
    NotMeasured(
        name="torch",
        question="What does folding BatchNorm, and what does dropping the unused head, save in eager PyTorch?",
        reason="Serving has no PyTorch. `python -m service prepare --force --latency-thorough` measures it.",
    ),
)
NO_INT8_IN_ONNX_RUNTIME = NotMeasured(
    name="onnxruntime_int8",
    question="What does int8 save in ONNX Runtime?",
    reason="int8 is served in OpenVINO only.",
)


def bench_bundle(
    bundle: Bundle,
    effort: Effort,
    *,
    threads: int,
    callers: int,
    device: AllowedDevice,
    threads_chosen: bool,
    progress: Progress | None = None,
    traffic: Traffic | None = None,
) -> LatencyReport:
    """Time the reference and the deployed graph on this machine; the bundle keeps its own report.

    Args:
        threads: threads of each run, at least 1.
        callers: concurrent callers whose throughput is measured, at least 1.
        device: the setting; "cpu" forbids to measure elsewhere.
        threads_chosen: see ``Place``.
        progress, traffic: as in ``run_study``.

    Raises:
        MeasurementRefused: there is nothing to compare, too few rounds are asked for, or ``traffic`` ended it.
    """
    imgsz = bundle.manifest.model.input.height
    place = Place(bundle.reference_graph, bundle.deployed_graph, imgsz, threads, callers, device, threads_chosen)
    if traffic is not None:
        traffic.wait_until_quiet()  # loading graphs to look at them is work as well
    quantized = None if bundle.int8 is None else QuantizedGraph(bundle.int8_graph, bundle.int8)
    return run_study(place, effort, more=_openvino(place, quantized), progress=progress, traffic=traffic)


def _openvino(place: Place, quantized: QuantizedGraph | None) -> MoreArms:
    """The arms in OpenVINO; none, with the reason, where it is not installed or cannot load the graphs or be loaded."""
    left_open = (*NEEDS_TORCH, NO_INT8_IN_ONNX_RUNTIME)
    if find_spec("openvino") is None:
        return NoMoreArms((*left_open, *_not_in_openvino("OpenVINO is not installed.")))
    try:
        from service.measurement.openvino_arms import OpenVinoArms  # optional

        return OpenVinoArms(place, left_open, quantized)
    except MeasurementRefused as error:
        reason = str(error)
    except Exception as error:  # a library that is broken in its own way must not take ONNX Runtime's figures along
        log.warning("OpenVINO is left out of the measurement", exc_info=True)
        reason = f"OpenVINO cannot be loaded: {fault_in_words(error)}"
    return NoMoreArms((*left_open, *_not_in_openvino(reason)))


def _not_in_openvino(reason: str) -> tuple[NotMeasured, NotMeasured]:
    return (
        NotMeasured(name="openvino", question="What does folding save in OpenVINO?", reason=reason),
        int8_left_open(reason),
    )


def staleness(report: LatencyReport, here: Machine) -> list[str]:
    """Why a report may not hold on the machine ``here``, in words; empty when it was taken on its like."""
    there = report.machine
    compared = (
        ("processor", there.cpu, here.cpu),
        ("usable cores", there.cores, here.cores),
        ("system", there.system, here.system),
    )
    return [f"{what}: {then} when measured, {now} here" for what, then, now in compared if then != now]

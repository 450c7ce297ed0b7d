"""The quantized graph of a bundle, as far as measuring knows it without OpenVINO, which alone serves it."""

from dataclasses import dataclass
from pathlib import Path

from service.bundle.int8 import Int8Spec
from service.bundle.latency import NotMeasured


@dataclass(frozen=True)
class QuantizedGraph:
    """``graph`` is the ONNX file that ``spec`` is about."""

    graph: Path
    spec: Int8Spec


def int8_left_open(reason: str) -> NotMeasured:
    """What a report says where int8 is not measured any way."""
    return NotMeasured(name="openvino_int8", question="What does int8 save in OpenVINO?", reason=reason)

"""What two sides of a comparison differ in, and how it is said."""

from typing import Any

import pytest

from service.evaluation.report import Network
from service.evaluation.sides import describe_differences, find_differences

FIRST = Network(
    bundle="/bundles/a",
    name="a",
    version="0123456789ab",
    weights_sha256="a" * 64,
    input_px=640,
    rect=False,
    head="one2one",
    graph="folded",
    runtime="ONNX Runtime 1.0",
    provider="CPUExecutionProvider",
    arithmetic="fp32",
    default_confidence=0.25,
    lowest_confidence=0.001,
    max_det=300,
)
OPENVINO = {"runtime": "OpenVINO 1.0", "provider": "CPU", "arithmetic": "bf16"}


@pytest.mark.parametrize(
    ("first", "second", "what", "said"),
    [
        ({}, {"graph": "unfolded"}, ["folding"], "in folding alone"),
        (
            OPENVINO,
            {"graph": "unfolded"},
            ["folding", "runtime", "provider", "arithmetic"],
            "in more than folding: runtime (OpenVINO 1.0 and ONNX Runtime 1.0), provider (CPU and "
            "CPUExecutionProvider), arithmetic (bf16 and fp32)",
        ),
        (
            {"arithmetic": "tf32"},
            {"graph": "unfolded"},
            ["folding", "arithmetic"],
            "in more than folding: arithmetic (tf32 and fp32)",
        ),
        (OPENVINO, OPENVINO | {"weights_sha256": "b" * 64}, ["weights"], "in weights alone"),
        (
            {},
            {"weights_sha256": "b" * 64, "input_px": 320},
            ["weights", "input"],
            "in more than weights: input (640 px and 320 px)",
        ),
        ({}, {"head": "one2many"}, ["head"], "in head (one2one and one2many)"),
        ({"rect": True}, {}, ["padding"], "in padding (left out and square)"),
        ({}, {"bundle": "/bundles/b"}, [], "in nothing that their bundles or runtimes tell"),
    ],
)
def test_all_that_differs_is_found_and_said(
    first: dict[str, Any], second: dict[str, Any], what: list[str], said: str
) -> None:
    a, b = FIRST.model_copy(update=first), FIRST.model_copy(update=second)
    differences = find_differences(a, b)
    assert [one.what for one in differences] == what
    assert describe_differences(differences, b) == f"the two sides differ {said}"

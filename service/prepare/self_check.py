"""One picture and what the network must answer to it, so that serving can check its own runtime before the first user.

The answer is the checkpoint's own, BatchNorm unfolded and computed in float64: independent of the fold, of the export
and of any runtime. How far float32 may stray from it is measured, not guessed.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray

from service.bundle.self_check import IMAGE, ROWS, SelfCheckSpec
from service.comparison import Tolerance, judge_repetition, measure_difference, pair_rows
from service.errors import ExportFailed
from service.prepare.checkpoint import blocks
from service.prepare.deployed_network import NMS_MIN_CONFIDENCE, DeployedNetwork
from service.prepare.export import INPUT, OUTPUT
from service.prepare.proof_inputs import ProofInput

#: Boxes compared: enough that every class and scale of the head takes part, few enough that all are above the noise.
_MOST_ROWS = 50
#: The picture keeps this many of each colour's bits. A quarter of the bytes, and as good as any other to compare on.
_KEPT_BITS = 0xF0
#: The tolerance over the rounding measured here: other processors add in other orders, with errors of the same kind.
#: Run under an emulator, ONNX Runtime's kernels for SSE and for AVX2 strayed as far as those for AVX-512, 6e-5 px.
_SAFETY = 10.0
#: Rounding is never taken for smaller than what is usual: embedded YOLO26n, 640 px, worst of five pictures.
_LEAST_ROUNDING = Tolerance(box_px=1e-4, score=2e-5)


def make_self_check(
    reference: DeployedNetwork, folded: DeployedNetwork, graph: Path, inputs: Sequence[ProofInput]
) -> tuple[SelfCheckSpec, dict[str, NDArray[np.generic]]]:
    """Choose a picture, compute its answer in float64 and measure how far float32 strays from it.

    Args:
        reference: the network with its BatchNorm.
        folded: the network as exported.
        graph: its ONNX file.
        inputs: pictures to choose from; noise, which shows nothing and does not compress, is passed over.

    Returns:
        The record, and the arrays that ``self_check.npz`` stores.

    Raises:
        ExportFailed: the folded network or its file already fails the check here.
    """
    item = _richest(folded, [item for item in inputs if item.kind != "noise"])
    image = _coarse(item.image)
    exact = DeployedNetwork(reference.network, reference.head).eval().double()
    rows, threshold = _surest(_run(exact, image), _least_threshold(folded))
    # Measured on what was neither folded nor exported, or a mistake in either would widen its own tolerance.
    rounding = _rounding(rows, _run(reference, image))
    tolerance = Tolerance(_SAFETY * rounding.box_px, _SAFETY * rounding.score)
    for name, answer in {"torch, folded": _run(folded, image), **_run_graph(graph, image)}.items():
        repeated = judge_repetition(
            rows, answer, threshold=threshold, tolerance=tolerance, suppressed=folded.head == "one2many"
        )
        if not repeated.passed:
            raise ExportFailed(
                f"On {item.name}, {name} repeats {repeated.matched} of {len(rows)} boxes of the float64 computation "
                f"and adds {repeated.extra}."
            )
    spec = SelfCheckSpec(
        input=item.name,
        rows=len(rows),
        threshold=threshold,
        rounding_box_px=rounding.box_px,
        rounding_score=rounding.score,
        box_tolerance_px=tolerance.box_px,
        score_tolerance=tolerance.score,
    )
    return spec, {IMAGE: image[0].numpy(), ROWS: rows}


def _richest(network: DeployedNetwork, inputs: Sequence[ProofInput]) -> ProofInput:
    """The picture in which the head's least excited scale is most excited: a scale that sees nothing proves nothing."""
    return max(inputs, key=lambda item: min(scale_confidences(network, _coarse(item.image))))


def scale_confidences(network: DeployedNetwork, image: torch.Tensor) -> list[float]:
    """Highest class confidence that each scale of the head gives, finest first, for one picture (1, S, S, 3) uint8."""
    detect = blocks(network.network)[-1]
    branches = detect.one2one_cv3 if network.head == "one2one" else detect.cv3
    found: list[float] = []
    handles = [
        branch.register_forward_hook(lambda _, __, scores: found.append(float(scores.sigmoid().max())))
        for branch in branches
    ]
    try:
        _run(network, image)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _coarse(image: torch.Tensor) -> torch.Tensor:
    return image & _KEPT_BITS


def _run(network: DeployedNetwork, image: torch.Tensor) -> NDArray[np.float64]:
    with torch.inference_mode():
        return network(image)[0].double().numpy()  # type: ignore[no-any-return]


def _run_graph(path: Path, image: torch.Tensor) -> dict[str, NDArray[np.float64]]:
    """The graph in ONNX Runtime with and without its optimisations, which change every kernel and order of addition."""
    answers = {}
    for name, level in (
        ("ONNX Runtime", ort.GraphOptimizationLevel.ORT_ENABLE_ALL),
        ("ONNX Runtime, not optimised", ort.GraphOptimizationLevel.ORT_DISABLE_ALL),
    ):
        options = ort.SessionOptions()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.graph_optimization_level = level
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        answers[name] = session.run([OUTPUT], {INPUT: image.numpy()})[0][0].astype(np.float64)
    return answers


def _least_threshold(network: DeployedNetwork) -> float:
    """Suppression leaves out boxes below its own threshold; rounding moves boxes across it."""
    return 2 * NMS_MIN_CONFIDENCE if network.head == "one2many" else 0.0


def _surest(rows: NDArray[np.float64], least: float) -> tuple[NDArray[np.float64], float]:
    """The most confident rows, most confident first, and the confidence all of them exceed."""
    ordered = rows[np.argsort(-rows[:, 4], kind="stable")]
    threshold = max(float(ordered[_MOST_ROWS, 4]), least)
    kept = ordered[:_MOST_ROWS]
    return kept[kept[:, 4] > threshold], threshold


def _rounding(rows: NDArray[np.float64], answer: NDArray[np.float64]) -> Tolerance:
    """How far the unfolded network in float32 strays from itself in float64."""
    pairing = pair_rows(rows, answer)
    apart = measure_difference(rows[pairing.expected], answer[pairing.found])
    return Tolerance(max(_LEAST_ROUNDING.box_px, apart.box_px), max(_LEAST_ROUNDING.score, apart.score))

"""One picture and what the network must answer to it, so that serving can check its own runtime before the first user.

The answer is the checkpoint's own, BatchNorm unfolded and computed in float64: independent of the fold, of the export
and of any runtime. How far float32 may stray from it is measured, not guessed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray

from service.bundle.self_check import IMAGE, ROWS, SAFETY, SelfCheckSpec
from service.comparison import Repetition, Tolerance, judge_highest, judge_repetition, measure_difference, pair_rows
from service.errors import ExportFailed
from service.prepare.deployed_network import NMS_MIN_CONFIDENCE, DeployedNetwork
from service.prepare.export import INPUT, OUTPUT
from service.prepare.proof_inputs import ProofInput
from service.prepare.rounding import run, run_shaken

#: Boxes compared: enough that every class and scale of the head takes part, few enough that all are above the noise.
_MOST_ROWS = 50
#: The picture keeps this many of each colour's bits. A quarter of the bytes, and as good as any other to compare on.
_KEPT_BITS = 0xF0
#: Rounding is never taken for smaller than what is usual: embedded YOLO26n, 640 px, worst of five pictures.
_LEAST_ROUNDING = Tolerance(box_px=1e-4, score=2e-5)
#: Corners of the same computation in float64 that went through suppression in another order.
_SAME_PX = 1e-6


@dataclass(frozen=True)
class _Answer:
    """What the checkpoint answers to one picture, as far as rounding does not decide it.

    Attributes:
        name: the picture's.
        image: it, (1, S, S, 3) uint8 BGR.
        rows: (N, 6) boxes, most confident first.
        threshold: the confidence all of them and no others exceed.
        highest_confidence: where there are no such boxes, that of the network's answer, which is then the threshold.
        rounding: how far float32 strays.
        complete: no box had to be left out because rounding may change it for another.
    """

    name: str
    image: torch.Tensor
    rows: NDArray[np.float64]
    threshold: float
    highest_confidence: float | None
    rounding: Tolerance
    complete: bool


def make_self_check(
    reference: DeployedNetwork, folded: DeployedNetwork, graph: Path, inputs: Sequence[ProofInput]
) -> tuple[SelfCheckSpec, dict[str, NDArray[np.generic]]]:
    """Choose a picture, compute its answer in float64 and measure how far float32 strays from it.

    Boxes are stored as far as rounding does not decide which come: a network with random weights has dozens of equal
    confidence. Where it decides about all of them in every picture, none is, and the highest confidence is compared.

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
    stored = _choose(reference, folded, [item for item in inputs if item.kind != "noise"])
    tolerance = _allowed(stored.rounding)
    for name, answer in {"torch, folded": run(folded, stored.image).rows, **_run_graph(graph, stored.image)}.items():
        repeated = _judge(stored, answer, tolerance, suppressed=folded.head == "one2many")
        if not repeated.passed:
            raise ExportFailed(
                f"On {stored.name}, {name} repeats {repeated.matched} of {len(stored.rows)} boxes of the float64 "
                f"computation and adds {repeated.extra}; it is {repeated.difference.box_px:.3g} px off at most "
                f"({tolerance.box_px:.3g} allowed) and {repeated.difference.score:.3g} in the score "
                f"({tolerance.score:.3g} allowed)."
            )
    spec = SelfCheckSpec(
        input=stored.name,
        rows=len(stored.rows),
        threshold=stored.threshold,
        highest_confidence=stored.highest_confidence,
        rounding_box_px=stored.rounding.box_px,
        rounding_score=stored.rounding.score,
        box_tolerance_px=tolerance.box_px,
        score_tolerance=tolerance.score,
    )
    return spec, {IMAGE: stored.image[0].numpy(), ROWS: stored.rows}


def _choose(reference: DeployedNetwork, folded: DeployedNetwork, inputs: Sequence[ProofInput]) -> _Answer:
    """Of the pictures in which no box is left to rounding the richest, else the one in which the fewest are."""
    exact = DeployedNetwork(reference.network, reference.head).eval().double()
    answers = []
    for item in sorted(inputs, key=lambda item: _richness(folded, item), reverse=True):
        answers.append(_answer(exact, reference, item))
        if answers[-1].complete:
            return answers[-1]
    return max(answers, key=lambda answer: len(answer.rows))


def _richness(network: DeployedNetwork, item: ProofInput) -> float:
    """How much the head's least excited scale is excited: a scale that sees nothing proves nothing."""
    return min(float(scores.max()) for scores in run(network, _coarse(item.image)).scores)


def _answer(exact: DeployedNetwork, reference: DeployedNetwork, item: ProofInput) -> _Answer:
    image = _coarse(item.image)
    double, single = run(exact, image), run(reference, image)
    # Scores by their place in the head: boxes cannot be paired before it is known which of them rounding leaves alone.
    apart = [float((a - b).abs().max()) for a, b in zip(double.scores, single.scores, strict=True)]
    rounding = Tolerance(_LEAST_ROUNDING.box_px, max(_LEAST_ROUNDING.score, *apart))
    score = _allowed(rounding).score
    shaken = run_shaken(exact, double.features, score)
    # Twice the score: a confidence's slope changes on the way. Corners round in float32 only.
    answers = [(single.rows, Tolerance(np.inf, 2 * score))]
    answers += [(rows, Tolerance(_SAME_PX, 2 * score)) for rows in shaken]
    wanted, least = _MOST_ROWS, _least_threshold(reference)
    surest, threshold = _surest(double.rows, wanted, least)
    while wanted and not _recur(surest, threshold, answers, suppressed=reference.head == "one2many"):
        wanted -= 1
        surest, threshold = _surest(double.rows, wanted, least)
    if not len(surest):
        highest = float(double.rows[:, 4].max())
        return _Answer(item.name, image, surest, highest, highest, rounding, False)
    # Measured on what was neither folded nor exported, or a mistake in either would widen its own tolerance.
    return _Answer(item.name, image, surest, threshold, None, _rounding(surest, single.rows), wanted == _MOST_ROWS)


def _recur(
    rows: NDArray[np.float64],
    threshold: float,
    answers: Sequence[tuple[NDArray[np.float64], Tolerance]],
    *,
    suppressed: bool,
) -> bool:
    """Whether these boxes and no others are in every answer, within the tolerance of each."""
    return all(
        judge_repetition(rows, answer, threshold=threshold, tolerance=tolerance, suppressed=suppressed).passed
        for answer, tolerance in answers
    )


def _judge(stored: _Answer, answer: NDArray[np.float64], tolerance: Tolerance, *, suppressed: bool) -> Repetition:
    if stored.highest_confidence is not None:
        return judge_highest(stored.highest_confidence, answer, tolerance)
    return judge_repetition(stored.rows, answer, threshold=stored.threshold, tolerance=tolerance, suppressed=suppressed)


def _allowed(rounding: Tolerance) -> Tolerance:
    return Tolerance(SAFETY * rounding.box_px, SAFETY * rounding.score)


def _coarse(image: torch.Tensor) -> torch.Tensor:
    return image & _KEPT_BITS


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


def _surest(rows: NDArray[np.float64], wanted: int, least: float) -> tuple[NDArray[np.float64], float]:
    """The ``wanted`` most confident rows, most confident first, and the confidence all of them exceed; fewer where
    confidences are equal or not above ``least``."""
    ordered = rows[np.argsort(-rows[:, 4], kind="stable")]
    threshold = max(float(ordered[wanted, 4]), least)
    kept = ordered[:wanted]
    return kept[kept[:, 4] > threshold], threshold


def _rounding(rows: NDArray[np.float64], answer: NDArray[np.float64]) -> Tolerance:
    """How far the unfolded network in float32 strays from itself in float64."""
    pairing = pair_rows(rows, answer)
    apart = measure_difference(rows[pairing.expected], answer[pairing.found])
    return Tolerance(max(_LEAST_ROUNDING.box_px, apart.box_px), max(_LEAST_ROUNDING.score, apart.score))

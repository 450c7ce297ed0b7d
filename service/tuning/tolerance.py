"""What is asked of a candidate's boxes, stated once: they are held against those of ONNX Runtime in fp32."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.bundle.int8 import spare_boxes
from service.bundle.store import Bundle
from service.comparison import Tolerance, iou, judge_repetition, measure_difference, pair_rows
from service.inference.engine import Precision


@dataclass(frozen=True)
class Recurrence:
    """A box recurs as one of the same class that overlaps and is as sure; so many of them have to.

    Attributes:
        iou: least overlap.
        confidence: largest difference of confidence.
        share: of the boxes that must recur. As many boxes as may be missing may be new.
    """

    iou: float
    confidence: float
    share: float

    @property
    def words(self) -> str:
        """For people."""
        return (
            f"{self.share:.0%} of the boxes above the model's default confidence recur with the same class, an IoU of "
            f"{self.iou:g} and a confidence within {self.confidence:g}; no more than {1 - self.share:.0%} are new"
        )


_FINE = Recurrence(iou=0.95, confidence=0.02, share=0.98)
_COARSE = Recurrence(iou=0.9, confidence=0.05, share=0.95)
#: The embedded YOLO26n in bf16 (OpenVINO, AVX512_BF16) repeats 98 % of its boxes to an IoU of 0.95 and 0.02 of
#: confidence. TF32 and fp16 round an eighth as coarsely; neither has been tried on a GPU. Rounded on a processor as in
#: fp16 it repeats all boxes so. int8 has to be as good as bf16.
RECURRENCE: dict[Precision, Recurrence] = {
    "tf32": _FINE,
    "fp16": _FINE,
    "bf16": _COARSE,
    "int8+bf16": _COARSE,
    "int8+fp32": _COARSE,
}
#: Boxes compared by recurrence in all pictures together. Where fewer are above the default confidence, because the
#: pictures show nothing that the model knows, the surest below it are compared too.
LEAST_BOXES = 20
#: Boxes compared in each picture in fp32, as many as the self-check stores.
_SUREST = 50
#: Two computations in float32 may each stray as far as the bundle allows one.
_TWO_COMPUTATIONS = 2.0


@dataclass(frozen=True)
class Agreement:
    """How far a candidate's boxes are those of the reference.

    Attributes:
        boxes: looked for.
        matched: found within tolerance.
        extra: found besides.
        box_px: furthest corner among paired boxes, pixels of the input.
        confidence: largest difference of confidence among them.
        fault: why it does not pass; None if it does.
    """

    boxes: int
    matched: int
    extra: int
    box_px: float
    confidence: float
    fault: str | None


class Reference:
    """What ONNX Runtime answers in fp32 on the processor, and the judge of other answers."""

    def __init__(self, bundle: Bundle, answers: Sequence[NDArray[np.float32]]) -> None:
        """Hold others against ``answers``, the rows (N, 6) of each picture."""
        spec, self._model = bundle.self_check, bundle.manifest.model
        self._answers = [rows[np.argsort(-rows[:, 4], kind="stable")] for rows in answers]
        self._rounding = Tolerance(_TWO_COMPUTATIONS * spec.box_tolerance_px, _TWO_COMPUTATIONS * spec.score_tolerance)
        self._suppressed = self._model.head.nms == "graph"

    def judge(self, precision: Precision, answers: Sequence[NDArray[np.float32]]) -> Agreement:
        """Compare a candidate's rows (N, 6) of each picture with the reference's."""
        rule = RECURRENCE.get(precision)
        return self._by_rounding(answers) if rule is None else self._by_recurrence(answers, rule)

    def tolerance_in_words(self, precision: Precision) -> str:
        """What is asked in this precision."""
        rule = RECURRENCE.get(precision)
        if rule is not None:
            return rule.words
        return (
            f"the {_SUREST} surest boxes of each picture recur, and only they, within {self._rounding.box_px:g} px "
            f"and {self._rounding.score:g} in the score before the sigmoid"
        )

    def _by_rounding(self, answers: Sequence[NDArray[np.float32]]) -> Agreement:
        # As in preparation: rounding moves boxes across the suppression's own threshold.
        least = 2 * self._model.head.min_confidence if self._suppressed else 0.0
        boxes = matched = extra = failed = 0
        box_px = confidence = 0.0
        for expected, found in zip(self._answers, answers, strict=True):
            surest = expected[:_SUREST]
            threshold = max(least, float(expected[_SUREST, 4]) if len(expected) > _SUREST else 0.0)
            surest = surest[surest[:, 4] > threshold]
            judged = judge_repetition(
                surest, found, threshold=threshold, tolerance=self._rounding, suppressed=self._suppressed
            )
            boxes, matched, extra = boxes + len(surest), matched + judged.matched, extra + judged.extra
            failed += not judged.passed
            apart = judged.difference
            box_px, confidence = _larger(box_px, apart.box_px), _larger(confidence, apart.confidence)
        fault = None
        if failed:
            fault = (
                f"more than rounding apart in {failed} of {len(answers)} pictures: {matched} of {boxes} boxes paired, "
                f"{extra} extra, at most {box_px:.3g} px ({self._rounding.box_px:g} allowed) and {confidence:.3g} of "
                "confidence off"
            )
        return Agreement(boxes, matched, extra, box_px, confidence, fault)

    def _by_recurrence(self, answers: Sequence[NDArray[np.float32]], rule: Recurrence) -> Agreement:
        threshold = self._threshold()
        boxes = matched = extra = 0
        box_px = confidence = 0.0
        for expected, found in zip(self._answers, answers, strict=True):
            pairing = pair_rows(expected, found)
            ours, theirs = expected[pairing.expected], found[pairing.found]
            wanted = ours[:, 4] > threshold
            boxes += int((expected[:, 4] > threshold).sum())
            matched += sum(_recurs(a, b, rule) for a, b in zip(ours[wanted], theirs[wanted], strict=True))
            # New is what nothing as sure stands for; so near the threshold, rounding decides.
            new = np.concatenate([theirs[~wanted], found[pairing.only_found]])
            extra += int((new[:, 4] > threshold + rule.confidence).sum())
            apart = measure_difference(ours[wanted], theirs[wanted])
            box_px, confidence = _larger(box_px, apart.box_px), _larger(confidence, apart.confidence)
        return Agreement(boxes, matched, extra, box_px, confidence, _fault_of_recurrence(boxes, matched, extra, rule))

    def _threshold(self) -> float:
        """The default confidence, or lower where fewer than ``LEAST_BOXES`` boxes would be compared."""
        sure = np.sort(np.concatenate([rows[:, 4] for rows in self._answers]))[::-1]
        lowered = float(sure[LEAST_BOXES]) if len(sure) > LEAST_BOXES else 0.0
        return min(self._model.default_confidence, lowered)


def _recurs(expected: NDArray[np.float32], found: NDArray[np.float32], rule: Recurrence) -> bool:
    overlap = float(iou(expected[:4], found[None, :4])[0])
    return overlap >= rule.iou and abs(float(expected[4]) - float(found[4])) <= rule.confidence


def _fault_of_recurrence(boxes: int, matched: int, extra: int, rule: Recurrence) -> str | None:
    if boxes < LEAST_BOXES:
        return f"only {boxes} boxes to compare, where {LEAST_BOXES} would tell"
    spare = spare_boxes(boxes, rule.share)
    if boxes - matched > spare:
        return (
            f"{matched} of {boxes} boxes recur (IoU {rule.iou:g}, confidence within {rule.confidence:g}); "
            f"{boxes - spare} must"
        )
    if extra > spare:
        return f"{extra} boxes are new beside {boxes}; {spare} may be"
    return None


def _larger(a: float, b: float) -> float:
    """NaN if either is."""
    return float(np.maximum(a, b))

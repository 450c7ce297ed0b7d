"""From figures to a choice."""

import math
from collections.abc import Sequence

from service.errors import EngineError
from service.settings import Objective
from service.tuning.records import CandidateResult

#: Of the best score. Whoever comes earlier in the list and lies within is taken: two loads of one graph differ by so
#: much, and a choice should not change its mind over nothing.
TIE = 0.05


def score(objective: Objective, latency_ms: float, images_per_second: float) -> float:
    """How good a candidate is; ratios of scores are speed-ups, for ``balanced`` the geometric mean of both."""
    if objective == "latency":
        return 1e3 / latency_ms
    if objective == "throughput":
        return images_per_second
    return math.sqrt(images_per_second * 1e3 / latency_ms)


def choose(results: Sequence[CandidateResult], objective: Objective) -> list[CandidateResult]:
    """Give the verdicts: of those measured one is chosen, and the others say how far they are behind it.

    Raises:
        EngineError: none was measured; says what is wrong with each.
    """
    scores = {
        index: score(objective, result.latency_ms, result.images_per_second)
        for index, result in enumerate(results)
        if result.measured and result.latency_ms is not None and result.images_per_second is not None
    }
    if not scores:
        faults = "; ".join(f"{result.candidate.title}: {result.reason}" for result in results)
        raise EngineError(
            f"YOLOFOLD_ENGINE=auto found no engine that could serve ({faults or 'the settings allow none'}). "
            "Allow more with YOLOFOLD_PRECISION and YOLOFOLD_DEVICE, or set YOLOFOLD_ENGINE=onnxruntime."
        )
    fastest = max(scores, key=lambda index: scores[index])
    chosen = next(index for index, value in scores.items() if value >= (1 - TIE) * scores[fastest])
    reason = f"best for {objective}"
    if chosen != fastest:
        reason = f"within {TIE:.0%} of the best for {objective}, and plainer"
    judged = []
    for index, result in enumerate(results):
        if index == chosen:
            judged.append(result.model_copy(update={"verdict": "chosen", "reason": reason}))
        elif index in scores:
            share = scores[index] / scores[chosen]
            words = f"{share:.2f} times as good as the chosen one for {objective}"
            judged.append(result.model_copy(update={"verdict": "slower", "reason": words}))
        else:
            judged.append(result)
    return judged

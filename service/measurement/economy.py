"""Which questions a measurement can afford to answer where the network is too slow for all of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Question:
    """Two arms, by name, and what their ratio (baseline / candidate) answers."""

    name: str
    question: str
    baseline: str
    candidate: str

    @property
    def arms(self) -> frozenset[str]:
        """Names of the arms that an answer needs."""
        return frozenset((self.baseline, self.candidate))


def affordable_arms(
    null_control: Question, questions: Sequence[Question], costs: Mapping[str, float], budget: float
) -> frozenset[str]:
    """Names of the arms to measure: those of the null control and of as many questions, in their order, as fit.

    A question that does not fit is passed over for later ones that do, since they may share their arms. If none
    fits, the arms of the one that adds least are taken: a measurement that answers nothing is of no use.

    Args:
        questions: the more important ones first.
        costs: of each arm, in the unit of ``budget``.
    """

    def cost(arms: frozenset[str]) -> float:
        return sum(costs[arm] for arm in arms)

    kept = null_control.arms
    for question in questions:
        if cost(kept | question.arms) <= budget:
            kept |= question.arms
    if questions and not any(question.arms <= kept for question in questions):
        kept |= min(questions, key=lambda question: cost(question.arms - kept)).arms
    return kept

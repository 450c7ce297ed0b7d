"""Which arms a measurement keeps when the time will not do for all."""

import pytest

from service.measurement.economy import Question, affordable_arms

NULL = Question("null", "Same?", "deployed", "copy")
EAGER = Question("eager", "In PyTorch?", "torch_unfolded", "torch_folded")
DEFAULTS = Question("defaults", "At defaults?", "reference", "deployed")
UNFOLDED = Question("unfolded", "Where it may not fold?", "reference_unfolded", "deployed_extended")
QUESTIONS = (EAGER, UNFOLDED, DEFAULTS)
COSTS = {
    "deployed": 2.0,
    "copy": 2.0,
    "torch_unfolded": 4.0,
    "torch_folded": 3.0,
    "reference": 2.0,
    "reference_unfolded": 2.5,
    "deployed_extended": 2.0,
}


@pytest.mark.parametrize(
    ("budget", "answered"),
    [
        (17.5, [EAGER, UNFOLDED, DEFAULTS]),
        (17.4, [EAGER, UNFOLDED]),
        (15.5, [EAGER, UNFOLDED]),
        (15.4, [EAGER, DEFAULTS]),
        (13, [EAGER, DEFAULTS]),
        (12.9, [EAGER]),
        (10.9, [UNFOLDED, DEFAULTS]),
        (10.4, [UNFOLDED]),
        (8.4, [DEFAULTS]),
        (6, [DEFAULTS]),
        (0, [DEFAULTS]),
    ],
)
def test_earlier_questions_go_first_and_later_ones_fill_what_is_left(budget: float, answered: list[Question]) -> None:
    kept = affordable_arms(NULL, QUESTIONS, COSTS, budget)
    assert kept >= NULL.arms
    assert [question for question in QUESTIONS if question.arms <= kept] == answered
    assert kept == NULL.arms.union(*(question.arms for question in answered))


def test_without_questions_the_null_control_stays() -> None:
    assert affordable_arms(NULL, (), COSTS, 0) == NULL.arms

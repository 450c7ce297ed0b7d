"""When a drift is said to have begun."""

import math

import pytest

from service.drift.onset import CLEAR_WINDOWS, Onset


def since_after(*scores: float) -> float | None:
    """What an onset says after these scores against a threshold of 1, at times 100, 101, 102 ..."""
    onset = Onset()
    for position, score in enumerate(scores):
        onset.update(score, 1.0, 100.0 + position)
    return onset.since


def test_there_is_none_before_the_first_window() -> None:
    assert Onset().since is None


def test_a_score_at_the_threshold_is_no_drift() -> None:
    assert since_after(0.2, 1.0) is None


def test_a_drift_began_with_its_first_window() -> None:
    assert since_after(0.5, 1.1, 3.0, 1.2) == 101.0


def test_a_short_dip_does_not_end_it() -> None:
    assert since_after(2.0, *[0.5] * (CLEAR_WINDOWS - 1), 2.0, *[0.5] * (CLEAR_WINDOWS - 1)) == 100.0


def test_enough_ordinary_windows_end_it() -> None:
    assert since_after(2.0, *[0.5] * CLEAR_WINDOWS) is None


def test_the_next_drift_has_its_own_beginning() -> None:
    assert since_after(2.0, *[0.5] * CLEAR_WINDOWS, 2.0, 0.5) == 100.0 + CLEAR_WINDOWS + 1


@pytest.mark.parametrize("values", [(math.nan, 1.0, 0.0), (1.0, math.nan, 0.0), (1.0, 1.0, math.inf)])
def test_a_score_that_is_no_number_is_refused(values: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="finite"):
        Onset().update(*values)

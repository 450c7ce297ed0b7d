"""From figures to a choice, by objective."""

import pytest

from service.errors import EngineError
from service.settings import Objective
from service.tuning.records import CandidateResult
from service.tuning.selection import choose, score
from tests.tuning.choices import candidate, timed

PLAIN, OTHER, NARROW = candidate(), candidate("openvino"), candidate("openvino", threads=1)


def chosen(results: list[CandidateResult], objective: Objective) -> CandidateResult:
    (one,) = (result for result in choose(results, objective) if result.verdict == "chosen")
    return one


@pytest.mark.parametrize(("objective", "expected"), [("latency", OTHER), ("throughput", NARROW), ("balanced", OTHER)])
def test_the_objective_decides(objective: Objective, expected: object) -> None:
    results = [timed(PLAIN, 40.0, 25.0), timed(OTHER, 20.0, 50.0), timed(NARROW, 36.0, 60.0)]
    assert chosen(results, objective).candidate == expected


def test_scores_are_such_that_ratios_are_speed_ups() -> None:
    assert score("latency", 20.0, 1.0) / score("latency", 40.0, 9.0) == pytest.approx(2)
    assert score("throughput", 1.0, 30.0) / score("throughput", 9.0, 10.0) == pytest.approx(3)
    # Twice as fast for one caller and eight times for many: four times in the geometric mean.
    assert score("balanced", 20.0, 80.0) / score("balanced", 40.0, 10.0) == pytest.approx(4)


@pytest.mark.parametrize(("faster", "expected"), [(1.04, PLAIN), (1.06, OTHER)])
def test_next_to_nothing_changes_no_choice(faster: float, expected: object) -> None:
    results = [timed(PLAIN, 40.0, 25.0), timed(OTHER, 40.0 / faster, 25.0 * faster)]
    winner = chosen(results, "balanced")
    assert winner.candidate == expected
    assert ("plainer" in winner.reason) == (expected == PLAIN)


def test_who_was_refused_is_never_chosen_however_fast() -> None:
    refused = timed(OTHER, 1.0, 1000.0, verdict="refused", reason="3 of 31 boxes recur")
    failed = CandidateResult(candidate=NARROW, verdict="failed", reason="no such library")
    results = choose([timed(PLAIN, 40.0, 25.0), refused, failed], "balanced")
    assert [result.verdict for result in results] == ["chosen", "refused", "failed"]
    assert results[1:] == [refused, failed]
    with pytest.raises(EngineError, match=r"3 of 31 boxes recur; .*no such library.*YOLOFOLD_ENGINE=onnxruntime"):
        choose([refused, failed], "balanced")
    with pytest.raises(EngineError, match="the settings allow none"):
        choose([], "balanced")


def test_the_others_say_how_far_they_are_behind() -> None:
    results = choose([timed(PLAIN, 40.0, 25.0), timed(OTHER, 20.0, 50.0)], "throughput")
    assert [result.verdict for result in results] == ["slower", "chosen"]
    assert "0.50 times" in results[0].reason

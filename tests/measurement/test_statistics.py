"""The estimate against closed forms, the interval against the truth it should cover, verdicts by table."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from service.measurement.statistics import (
    MIN_SESSIONS,
    Speedup,
    estimate_speedup,
    judge,
    noise_floor,
    student_t,
)

Array = NDArray[np.float64]

# Any printed table of Student's t, 97.5 %, by degrees of freedom.
T_975 = {3: 3.182446, 4: 2.776445, 5: 2.570582, 8: 2.306004, 9: 2.262157, 29: 2.045230, 1000: 1.962339}


def noisy_pair(rng: np.random.Generator, sessions: int, speedup: float) -> tuple[Array, Array]:
    """Times whose median ratio is ``speedup``: drift both arms share, spikes that hit either, luck of a load."""
    shape = (sessions, 3)
    drift = np.exp(0.3 * np.sin(np.arange(sessions * 3).reshape(shape) / 5))
    noise = np.exp(0.03 * rng.standard_normal((2, *shape)))
    spikes = np.where(rng.random((2, *shape)) < 0.05, 3.0, 1.0)
    luck = np.exp(0.05 * rng.standard_normal((2, sessions, 1)))
    baseline, candidate = 40 * drift * noise * spikes * luck
    return speedup * baseline, candidate


def test_estimate_is_the_geometric_mean_of_the_sessions_median_ratios() -> None:
    ratios = np.array([[1.0, 2.0, 1000.0], [4.0, 0.1, 9.0], [1.0, 1.0, 1.0], [8.0, 8.0, 0.5]])
    candidate = np.linspace(10, 80, 12).reshape(4, 3)
    expected = (2 * 4 * 1 * 8) ** 0.25
    assert estimate_speedup(candidate * ratios, candidate).estimate == pytest.approx(expected, rel=1e-12)


def test_the_interval_is_students_of_the_sessions_medians() -> None:
    baseline, candidate = noisy_pair(np.random.default_rng(7), 9, 1.2)
    medians = np.log(np.median(baseline / candidate, axis=1))
    half = T_975[8] * np.sqrt(medians.var(ddof=1) / 9)
    result = estimate_speedup(baseline, candidate)
    assert math.log(result.high / result.estimate) == pytest.approx(half, rel=1e-3)
    assert math.log(result.estimate / result.low) == pytest.approx(half, rel=1e-3)


def test_a_constant_ratio_leaves_no_uncertainty() -> None:
    candidate = np.linspace(30, 300, 24).reshape(8, 3)
    result = estimate_speedup(1.5 * candidate, candidate)
    assert (result.low, result.estimate, result.high) == pytest.approx((1.5, 1.5, 1.5), rel=1e-12)


def test_identical_arms_are_exactly_one() -> None:
    times = np.random.default_rng(0).uniform(10, 50, (10, 3))
    result = estimate_speedup(times, times)
    assert result == Speedup(1.0, 1.0, 1.0)
    assert judge(result) == "indistinguishable"
    assert noise_floor(result) == 0


def test_swapping_the_arms_gives_the_reciprocal() -> None:
    baseline, candidate = noisy_pair(np.random.default_rng(1), 11, 1.2)
    forth, back = estimate_speedup(baseline, candidate), estimate_speedup(candidate, baseline)
    assert back.estimate == pytest.approx(1 / forth.estimate, rel=1e-12)
    assert (back.low, back.high) == pytest.approx((1 / forth.high, 1 / forth.low), rel=1e-12)


def test_the_unit_of_time_does_not_matter() -> None:
    baseline, candidate = noisy_pair(np.random.default_rng(3), 10, 0.8)
    in_ms, in_ns = estimate_speedup(baseline, candidate), estimate_speedup(1e6 * baseline, 1e6 * candidate)
    assert (in_ns.estimate, in_ns.low, in_ns.high) == pytest.approx((in_ms.estimate, in_ms.low, in_ms.high))


@pytest.mark.parametrize("sessions", [MIN_SESSIONS, 10, 20])
def test_the_interval_covers_the_truth_in_about_95_percent_of_trials(sessions: int) -> None:
    rng, trials, truth = np.random.default_rng(4), 1000, 1.3
    results = [estimate_speedup(*noisy_pair(rng, sessions, truth)) for _ in range(trials)]
    covered = sum(result.low <= truth <= result.high for result in results) / trials
    # Three binomial standard errors at 1000 trials are 2.1 points.
    assert 0.929 <= covered <= 0.971


@pytest.mark.parametrize("sessions", [MIN_SESSIONS, 10])
def test_equal_arms_are_hardly_ever_told_apart(sessions: int) -> None:
    """What the report promises of two graphs that a runtime makes the same, whatever their luck when loaded."""
    rng, trials = np.random.default_rng(8), 1000
    verdicts = []
    for _ in range(trials):
        null = estimate_speedup(*noisy_pair(rng, sessions, 1.0))
        verdicts.append(judge(estimate_speedup(*noisy_pair(rng, sessions, 1.0)), noise_floor(null)))
    assert verdicts.count("indistinguishable") / trials >= 0.98


@pytest.mark.parametrize("freedom", T_975)
def test_student_t_is_the_printed_table(freedom: int) -> None:
    assert student_t(freedom) == pytest.approx(T_975[freedom], rel=2e-3)


@pytest.mark.parametrize(
    ("baseline", "candidate"),
    [
        (np.ones((0, 3)), np.ones((0, 3))),
        (np.ones((MIN_SESSIONS, 0)), np.ones((MIN_SESSIONS, 0))),
        (np.ones((MIN_SESSIONS - 1, 3)), np.ones((MIN_SESSIONS - 1, 3))),
        (np.ones((MIN_SESSIONS, 3)), np.ones((MIN_SESSIONS + 1, 3))),
        (np.ones(12), np.ones(12)),
    ],
)
def test_times_that_do_not_match_are_refused(baseline: Array, candidate: Array) -> None:
    with pytest.raises(ValueError, match="same 4 or more sessions"):
        estimate_speedup(baseline, candidate)


@pytest.mark.parametrize("time", [0.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize("arm", [0, 1])
def test_impossible_times_are_refused(time: float, arm: int) -> None:
    pair = np.ones((2, MIN_SESSIONS, 3))
    pair[arm, 3, 1] = time
    with pytest.raises(ValueError, match="positive and finite"):
        estimate_speedup(*pair)


@pytest.mark.parametrize(
    ("null", "floor"),
    [
        (Speedup(1.0, 1.0, 1.0), 0.0),
        (Speedup(1.0, 1 / 1.02, 1.02), math.log(1.02)),
        (Speedup(1.03, 1.01, 1.05), math.log(1.05)),  # half-width 0.019 plus offset 0.030
        (Speedup(0.97, 0.95, 0.99), -math.log(0.95)),
    ],
)
def test_noise_floor_counts_width_and_offset(null: Speedup, floor: float) -> None:
    assert noise_floor(null) == pytest.approx(floor, abs=1e-12)


@pytest.mark.parametrize(
    ("effect", "null", "verdict"),
    [
        (Speedup(1.20, 1.15, 1.25), Speedup(1.00, 0.99, 1.01), "gain"),
        (Speedup(0.80, 0.75, 0.85), Speedup(1.00, 0.99, 1.01), "loss"),
        (Speedup(1.20, 0.98, 1.40), Speedup(1.00, 0.99, 1.01), "indistinguishable"),  # interval holds 1
        (Speedup(1.20, 1.00, 1.40), Speedup(1.00, 0.99, 1.01), "indistinguishable"),  # 1 on its edge
        (Speedup(1.20, 1.15, 1.25), Speedup(1.00, 0.80, 1.25), "indistinguishable"),  # null wider than effect
        (Speedup(0.90, 0.88, 0.92), Speedup(1.00, 0.85, 1.17), "indistinguishable"),
        (Speedup(1.04, 1.03, 1.05), Speedup(1.04, 1.03, 1.05), "indistinguishable"),  # null off by as much
        (Speedup(1.04, 1.03, 1.05), Speedup(0.96, 0.95, 0.97), "indistinguishable"),  # either way
        (Speedup(1.04, 1.03, 1.05), Speedup(1.01, 1.00, 1.02), "gain"),
    ],
)
def test_verdicts(effect: Speedup, null: Speedup, verdict: str) -> None:
    assert judge(effect, noise_floor(null)) == verdict


def test_a_null_control_that_tells_equals_apart_says_so() -> None:
    assert judge(Speedup(1.04, 1.03, 1.05)) == "gain"

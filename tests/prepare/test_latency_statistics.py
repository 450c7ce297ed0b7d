"""The estimate against closed forms, the interval against the truth it should cover, verdicts by table."""

import math
from statistics import NormalDist

import numpy as np
import pytest
from numpy.typing import NDArray

from service.prepare.latency_statistics import (
    MIN_ROUNDS,
    Speedup,
    bootstrap_medians,
    estimate_speedup,
    judge,
    noise_floor,
    tail_probability,
)

Array = NDArray[np.float64]


def noisy_pair(rng: np.random.Generator, rounds: int, speedup: float) -> tuple[Array, Array]:
    """Times whose median ratio is ``speedup``: a slow drift both arms share, and spikes that hit either."""
    drift = np.exp(0.3 * np.sin(np.arange(rounds) / 5))
    noise = np.exp(0.03 * rng.standard_normal((2, rounds)))
    spikes = np.where(rng.random((2, rounds)) < 0.05, 3.0, 1.0)
    baseline, candidate = 40 * drift * noise * spikes
    return speedup * baseline, candidate


def test_estimate_is_the_geometric_median_of_the_ratios() -> None:
    candidate = np.linspace(10, 80, 12)
    baseline = candidate * np.array([1.0, 1.0, 100.0, 2.0, 0.1, 4.0, 1000.0, 2.0, 4.0, 4.0, 1.0, 4.0])
    assert estimate_speedup(baseline, candidate).estimate == pytest.approx(math.sqrt(2 * 4), rel=1e-12)


def test_a_constant_ratio_leaves_no_uncertainty() -> None:
    candidate = np.linspace(30, 300, 25)
    result = estimate_speedup(1.5 * candidate, candidate)
    assert (result.low, result.estimate, result.high) == pytest.approx((1.5, 1.5, 1.5), rel=1e-12)


def test_identical_arms_are_exactly_one() -> None:
    times = np.random.default_rng(0).uniform(10, 50, 30)
    result = estimate_speedup(times, times)
    assert result == Speedup(1.0, 1.0, 1.0)
    assert judge(result) == "indistinguishable"
    assert noise_floor(result) == 0


def test_swapping_the_arms_gives_the_reciprocal() -> None:
    baseline, candidate = noisy_pair(np.random.default_rng(1), 31, 1.2)
    forth, back = estimate_speedup(baseline, candidate), estimate_speedup(candidate, baseline)
    assert back.estimate == pytest.approx(1 / forth.estimate, rel=1e-12)
    assert (back.low, back.high) == pytest.approx((1 / forth.high, 1 / forth.low), rel=1e-12)


def test_the_same_times_give_the_same_interval() -> None:
    baseline, candidate = noisy_pair(np.random.default_rng(2), 30, 1.1)
    assert estimate_speedup(baseline, candidate) == estimate_speedup(baseline, candidate)


def test_the_unit_of_time_does_not_matter() -> None:
    baseline, candidate = noisy_pair(np.random.default_rng(3), 30, 0.8)
    in_ms, in_ns = estimate_speedup(baseline, candidate), estimate_speedup(1e6 * baseline, 1e6 * candidate)
    assert (in_ns.estimate, in_ns.low, in_ns.high) == pytest.approx((in_ms.estimate, in_ms.low, in_ms.high))


@pytest.mark.parametrize("rounds", [MIN_ROUNDS, 30, 60])
def test_the_interval_covers_the_truth_in_about_95_percent_of_trials(rounds: int) -> None:
    rng, trials, truth = np.random.default_rng(4), 300, 1.3
    results = [estimate_speedup(*noisy_pair(rng, rounds, truth)) for _ in range(trials)]
    covered = sum(result.low <= truth <= result.high for result in results) / trials
    # Two binomial standard errors at 300 trials are 2.5 points.
    assert 0.925 <= covered <= 0.975


@pytest.mark.parametrize(("blocks", "student_t"), [(6, 2.570582), (10, 2.262157), (31, 2.042272)])
def test_the_interval_widens_as_students_t_does(blocks: int, student_t: float) -> None:
    expected = NormalDist().cdf(-student_t * math.sqrt(blocks / (blocks - 1)))
    assert tail_probability(blocks) == pytest.approx(expected, abs=3e-4)
    assert tail_probability(10**6) == pytest.approx(0.025, rel=1e-4)


def test_the_bootstrap_matches_the_large_sample_error_of_a_median() -> None:
    # A normal sample's median has standard error sqrt(pi / 2) sigma / sqrt(n).
    values = np.random.default_rng(5).standard_normal(4001)
    expected = math.sqrt(math.pi / 2 / values.size)
    assert bootstrap_medians(values).std() == pytest.approx(expected, rel=0.2)


def test_neighbours_that_agree_widen_the_interval() -> None:
    rng = np.random.default_rng(6)
    innovations, series = rng.standard_normal(400), np.zeros(400)
    for index in range(1, series.size):
        series[index] = 0.8 * series[index - 1] + innovations[index]
    shuffled = rng.permutation(series)
    assert bootstrap_medians(series).std() > 1.3 * bootstrap_medians(shuffled).std()


def test_every_round_weighs_the_same_in_the_bootstrap() -> None:
    # Were the ends drawn less often, a median that depends on them would be off centre.
    for place in (0, 14, 29):
        values = np.zeros(30)
        values[place] = 1.0
        assert set(np.unique(bootstrap_medians(values))) <= {0.0, 0.5, 1.0}
    steps = np.repeat([0.0, 1.0], 15)
    assert bootstrap_medians(steps).mean() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(
    ("baseline", "candidate"),
    [
        (np.ones(0), np.ones(0)),
        (np.ones(MIN_ROUNDS - 1), np.ones(MIN_ROUNDS - 1)),
        (np.ones(MIN_ROUNDS), np.ones(MIN_ROUNDS + 1)),
        (np.ones((MIN_ROUNDS, 1)), np.ones((MIN_ROUNDS, 1))),
    ],
)
def test_lists_that_do_not_match_are_refused(baseline: Array, candidate: Array) -> None:
    with pytest.raises(ValueError, match="same 12 or more rounds"):
        estimate_speedup(baseline, candidate)


@pytest.mark.parametrize("time", [0.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize("arm", [0, 1])
def test_impossible_times_are_refused(time: float, arm: int) -> None:
    pair = np.ones((2, MIN_ROUNDS))
    pair[arm, 3] = time
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

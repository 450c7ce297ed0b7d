"""A baseline on pictures whose law is known: the rate it keeps, the drifts it sees, what it refuses.

The features are a few common factors with heavy tails plus noise of each feature's own, as those of photographs are.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from service.drift.baseline import LEFT_OUT, MIN_PICTURES, REACH, WINDOW, Baseline, fit_baseline, safe_threshold
from service.drift.shrinkage import shrunk_covariance
from service.drift.taught import TaughtFaults

WIDTH = 60
RATE = 0.01
Draw = Callable[[int], NDArray[np.float64]]


def photographs(seed: int) -> Draw:
    """A source of pictures' features (n, WIDTH) in units and levels that differ by feature."""
    rng = np.random.default_rng(seed)
    loadings, own = rng.normal(size=(6, WIDTH)), rng.uniform(0.3, 1, WIDTH)
    unit, level = 10.0 ** rng.uniform(-1, 1, WIDTH), rng.normal(0, 5, WIDTH)

    def draw(count: int) -> NDArray[np.float64]:
        common = rng.standard_t(4, (count, 6)) @ loadings
        return level + unit * (common + own * rng.standard_t(5, (count, WIDTH)))

    return draw


@pytest.fixture(scope="module")
def source() -> Draw:
    return photographs(0)


@pytest.fixture(scope="module")
def calibration(source: Draw) -> NDArray[np.float64]:
    return source(200)


@pytest.fixture(scope="module")
def baseline(calibration: NDArray[np.float64]) -> Baseline:
    return fit_baseline(calibration, RATE, np.random.default_rng(1))


def alarms(baseline: Baseline, windows: list[NDArray[np.float64]]) -> float:
    return float(np.mean([baseline.score(window) > baseline.threshold for window in windows]))


def test_the_fit_is_of_all_pictures(baseline: Baseline, calibration: NDArray[np.float64]) -> None:
    np.testing.assert_allclose(baseline.center, calibration.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(baseline.scale, calibration.std(axis=0), rtol=1e-12)
    assert (baseline.pictures, baseline.rate) == (200, RATE)


def test_whitening_takes_correlation_away(baseline: Baseline, source: Draw) -> None:
    """Shrinkage leaves some; of new pictures' correlation, one of a thousand pictures in 0.1 is chance."""
    standardised = (source(4000) - baseline.center) / baseline.scale
    before, after = (np.corrcoef(x.T) - np.eye(WIDTH) for x in (standardised, standardised @ baseline.whitening))
    assert np.square(after).mean() < 0.1 * np.square(before).mean()
    np.testing.assert_allclose(baseline.whitening, baseline.whitening.T, atol=1e-12)


def test_a_score_equals_a_loop(baseline: Baseline, source: Draw) -> None:
    window = source(20)
    window[3] += 50 * baseline.scale  # far enough to be shortened
    total = np.zeros(WIDTH)
    for picture in window:
        whitened = baseline.whitening @ ((picture - baseline.center) / baseline.scale)
        length = math.sqrt(sum(float(x) ** 2 for x in whitened) / WIDTH)
        total += whitened * min(1.0, REACH / length) / 20
    expected = math.sqrt(sum(float(x) ** 2 for x in total) / WIDTH) / math.sqrt(1 / 20 + 1 / 200)
    assert baseline.score(window) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("pictures", [MIN_PICTURES, 128, 256])
def test_new_ordinary_windows_alarm_no_more_than_five_times_the_rate(pictures: int) -> None:
    """Over several sources and fits, whose false alarms simulations put at 1 to 2 per cent at most."""
    shares = []
    for seed in range(4):
        source = photographs(100 + seed)
        fitted = fit_baseline(source(pictures), RATE, np.random.default_rng(seed))
        shares.append(alarms(fitted, [source(WINDOW) for _ in range(250)]))
    assert np.mean(shares) <= 5 * RATE


def test_a_lower_rate_needs_a_higher_threshold(calibration: NDArray[np.float64]) -> None:
    thresholds = [fit_baseline(calibration, rate, np.random.default_rng(2)).threshold for rate in (0.2, 0.05, 0.001)]
    assert thresholds == sorted(set(thresholds))


@pytest.mark.parametrize(("pictures", "raised"), [(MIN_PICTURES, 0.25 * math.sqrt(0.5)), (4 * MIN_PICTURES, 0.0884)])
def test_the_threshold_is_the_normal_quantile_of_the_logarithms_raised(pictures: int, raised: float) -> None:
    """2.3263 deviations are exceeded by one in a hundred (any table); n windows err by 1 / sqrt(2 n), of which half."""
    scores = np.exp(np.array([-1.0, 1.0, -1.0, 1.0]) + 0.5)
    found = math.log(safe_threshold(scores, 0.01, pictures))
    assert found == pytest.approx(0.5 + 2.3263 * (1 + raised), abs=2e-4)


def test_a_lax_rate_is_kept_from_both_sides(calibration: NDArray[np.float64], source: Draw) -> None:
    """At 20 per cent false alarms are common enough to count, so that a threshold far too high would show too."""
    lax = fit_baseline(calibration, 0.2, np.random.default_rng(3))
    assert 0.02 < alarms(lax, [source(LEFT_OUT) for _ in range(400)]) < 0.3
    assert 0.05 < lax.measured_rate <= 0.2


def test_half_windows_keep_the_rate_and_score_alike(baseline: Baseline, source: Draw) -> None:
    full, half = [source(WINDOW) for _ in range(250)], [source(LEFT_OUT) for _ in range(250)]
    assert alarms(baseline, half) <= 5 * RATE
    means = [float(np.mean([baseline.score(window) for window in windows])) for windows in (full, half)]
    assert means[0] == pytest.approx(means[1], rel=0.1)


def test_a_drift_along_features_that_go_together_is_seen(baseline: Baseline, source: Draw) -> None:
    """Half a standard deviation in every feature with alternating sign: nothing that ordinary pictures do."""
    drift = 0.5 * baseline.scale * np.where(np.arange(WIDTH) % 2, 1, -1)
    assert alarms(baseline, [source(WINDOW) + drift for _ in range(50)]) == 1


def test_one_odd_picture_is_no_drift_but_a_window_of_them_is(baseline: Baseline, source: Draw) -> None:
    odd = baseline.center + 1000 * baseline.scale * np.where(np.arange(WIDTH) % 2, 1, -1)
    windows = [np.vstack([source(WINDOW - 1), odd]) for _ in range(200)]
    assert alarms(baseline, windows) < 0.1
    assert baseline.score(np.tile(odd, (WINDOW, 1))) > 2 * baseline.threshold


def test_a_score_has_an_upper_limit(baseline: Baseline) -> None:
    largest = baseline.score(np.full((WINDOW, WIDTH), 1e6))
    assert largest == pytest.approx(REACH / math.sqrt(1 / WINDOW + 1 / 200), rel=1e-9)


def test_fewer_pictures_give_the_score_a_wider_error(baseline: Baseline, source: Draw) -> None:
    window = source(WINDOW)
    fewer = dataclasses.replace(baseline, pictures=64)
    ratio = math.sqrt((1 / WINDOW + 1 / 200) / (1 / WINDOW + 1 / 64))
    assert fewer.score(window) == pytest.approx(baseline.score(window) * ratio, rel=1e-9)


def test_units_do_not_matter(calibration: NDArray[np.float64], baseline: Baseline, source: Draw) -> None:
    rng = np.random.default_rng(4)
    unit, level = 10.0 ** rng.uniform(0, 3, WIDTH), rng.normal(0, 0.1, WIDTH)
    other = fit_baseline(calibration * unit + level, RATE, np.random.default_rng(1))
    assert other.threshold == pytest.approx(baseline.threshold, rel=1e-6)
    window = source(WINDOW)
    assert other.score(window * unit + level) == pytest.approx(baseline.score(window), rel=1e-6)


def test_the_same_generator_gives_the_same_threshold(calibration: NDArray[np.float64], baseline: Baseline) -> None:
    assert fit_baseline(calibration, RATE, np.random.default_rng(1)).threshold == baseline.threshold


def test_a_feature_that_never_varied_weighs_nothing_until_it_moves(
    calibration: NDArray[np.float64], source: Draw
) -> None:
    def with_constant(features: NDArray[np.float64], value: float) -> NDArray[np.float64]:
        return np.column_stack([features, np.full(len(features), value)])

    fitted = fit_baseline(with_constant(calibration, 0.25), RATE, np.random.default_rng(5))
    same = alarms(fitted, [with_constant(source(WINDOW), 0.25 * (1 + 1e-7)) for _ in range(100)])
    moved = alarms(fitted, [with_constant(source(WINDOW), 1.0) for _ in range(100)])
    assert same <= 5 * RATE
    assert moved == 1


@pytest.mark.filterwarnings("error")
def test_nothing_finite_leads_to_infinity_or_not_a_number(baseline: Baseline) -> None:
    rng = np.random.default_rng(6)
    for _ in range(200):
        size = (int(rng.integers(1, WINDOW + 1)), WIDTH)
        window = rng.choice([-1, 1], size) * 10.0 ** rng.uniform(-308, 308, size)
        assert math.isfinite(baseline.score(window))
    wild = rng.choice([-1, 1], (MIN_PICTURES, 5)) * 10.0 ** rng.uniform(-308, 308, (MIN_PICTURES, 5))
    fitted = fit_baseline(wild, RATE, rng)
    assert math.isfinite(fitted.threshold)
    assert math.isfinite(fitted.score(wild[:WINDOW]))


@pytest.mark.parametrize("shape", [(0, WIDTH), (WINDOW + 1, WIDTH), (WINDOW, WIDTH - 1), (WIDTH,)])
def test_a_window_of_another_shape_is_refused(baseline: Baseline, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected 1 to 32 pictures of 60 features"):
        baseline.score(np.zeros(shape))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_features_that_are_not_finite_are_refused(
    baseline: Baseline, calibration: NDArray[np.float64], bad: float
) -> None:
    window, pictures = calibration[:WINDOW].copy(), calibration.copy()
    window[5, 5] = pictures[5, 5] = bad
    with pytest.raises(ValueError, match="finite"):
        baseline.score(window)
    with pytest.raises(ValueError, match="finite"):
        fit_baseline(pictures, RATE, np.random.default_rng(0))


def test_too_few_pictures_are_refused(calibration: NDArray[np.float64]) -> None:
    with pytest.raises(ValueError, match=f"at least {MIN_PICTURES} pictures"):
        fit_baseline(calibration[: MIN_PICTURES - 1], RATE, np.random.default_rng(0))


@pytest.mark.parametrize("rate", [0.0, 0.5, -0.01, math.nan])
def test_a_rate_that_makes_no_sense_is_refused(calibration: NDArray[np.float64], rate: float) -> None:
    with pytest.raises(ValueError, match="rate"):
        fit_baseline(calibration, rate, np.random.default_rng(0))


def test_pictures_that_are_all_alike_are_refused() -> None:
    with pytest.raises(ValueError, match="do not vary"):
        fit_baseline(np.ones((MIN_PICTURES, 5)), RATE, np.random.default_rng(0))


def taught(source: Draw, calibration: NDArray[np.float64], sizes: tuple[float, ...], seed: int = 7) -> TaughtFaults:
    """Faults that move ``calibration`` along directions of their own by so many standard deviations per feature."""
    rng = np.random.default_rng(seed)
    moves = np.array(sizes)[:, None] * rng.choice([-1, 1], (len(sizes), WIDTH)) * calibration.std(axis=0)
    changes = moves * rng.uniform(0.5, 1.5, (len(calibration), len(sizes), 1))
    return TaughtFaults(tuple(f"fault {number}" for number in range(len(sizes))), np.arange(len(calibration)), changes)


@pytest.fixture(scope="module")
def faults(source: Draw, calibration: NDArray[np.float64]) -> TaughtFaults:
    return taught(source, calibration, (0.04,) * 4)


@pytest.fixture(scope="module")
def aware(calibration: NDArray[np.float64], faults: TaughtFaults) -> Baseline:
    return fit_baseline(calibration, RATE, np.random.default_rng(1), faults)


def test_a_projection_is_fishers_discriminant_in_standard_errors(
    aware: Baseline, calibration: NDArray[np.float64], faults: TaughtFaults, source: Draw
) -> None:
    window = source(20) + faults.changes[:, 2].mean(axis=0)
    standardised = (window - calibration.mean(axis=0)) / calibration.std(axis=0)
    covariance = shrunk_covariance((calibration - calibration.mean(axis=0)) / calibration.std(axis=0))
    change = faults.changes[:, 2].mean(axis=0) / calibration.std(axis=0)
    discriminant = np.linalg.solve(covariance, change) / math.sqrt(change @ np.linalg.solve(covariance, change))
    lengths = np.sqrt([x @ np.linalg.solve(covariance, x) / WIDTH for x in standardised])
    expected = np.mean(standardised @ discriminant * np.minimum(1, REACH / lengths)) / math.sqrt(1 / 20 + 1 / 200)
    found = aware.foremost_fault(window)
    assert found is not None and found[0] == "fault 2"
    assert found[1] == pytest.approx(expected, rel=1e-9)
    way = expected / found[2]
    assert aware.score(window) == pytest.approx(aware.usual + way * (aware.threshold - aware.usual), rel=1e-9)


def test_a_small_change_of_a_known_kind_is_seen_where_the_distance_sees_none(
    baseline: Baseline, aware: Baseline, faults: TaughtFaults, source: Draw
) -> None:
    move = faults.changes[:, 1].mean(axis=0)
    windows = [source(WINDOW) + move for _ in range(100)]
    assert alarms(baseline, windows) < 0.5
    assert alarms(aware, windows) > 0.95
    assert {found[0] for window in windows if (found := aware.foremost_fault(window))} == {"fault 1"}


def test_part_of_a_known_fault_outranks_what_is_usual(aware: Baseline, faults: TaughtFaults, source: Draw) -> None:
    """Even where it raises no alarm."""
    move = 0.6 * faults.changes[:, 1].mean(axis=0)
    ordinary, moved = (np.array([aware.score(source(WINDOW) + by) for _ in range(200)]) for by in (0, move))
    assert (moved <= aware.threshold).mean() > 0.1
    assert (ordinary[:, None] < moved).mean() > 0.97


def test_half_of_ordinary_windows_are_farther_than_usual(baseline: Baseline, source: Draw) -> None:
    assert 0.3 < np.mean([baseline.score(source(LEFT_OUT)) > baseline.usual for _ in range(200)]) < 0.7


@pytest.mark.parametrize("pictures", [MIN_PICTURES, 256])
def test_known_faults_leave_the_rate_of_false_alarms_as_it_is(pictures: int) -> None:
    shares = []
    for seed in range(4):
        source = photographs(200 + seed)
        calibration = source(pictures)
        faults = taught(source, calibration, (0.02,) * 8, seed)
        fitted = fit_baseline(calibration, RATE, np.random.default_rng(seed), faults)
        shares.append(alarms(fitted, [source(WINDOW) for _ in range(250)]))
    assert np.mean(shares) <= 5 * RATE


def test_a_fault_that_changes_nothing_raises_no_alarm(calibration: NDArray[np.float64], source: Draw) -> None:
    nothing = TaughtFaults(("nothing",), np.arange(len(calibration)), np.zeros((len(calibration), 1, WIDTH)))
    fitted = fit_baseline(calibration, RATE, np.random.default_rng(1), nothing)
    assert alarms(fitted, [source(WINDOW) for _ in range(100)]) <= 5 * RATE
    assert fitted.foremost_fault(source(WINDOW) + 100) is None


def test_changes_of_pictures_left_out_do_not_count() -> None:
    changes = np.arange(12.0).reshape(3, 2, 2)
    faults = TaughtFaults(("a", "b"), np.array([4, 7, 9]), changes)
    np.testing.assert_array_equal(faults.mean_changes(np.array([7, 8])), (changes[0] + changes[2]) / 2)


@pytest.mark.parametrize("spoil", ["names", "rows", "features"])
def test_faults_that_do_not_fit_are_refused(calibration: NDArray[np.float64], faults: TaughtFaults, spoil: str) -> None:
    wrong = {
        "names": TaughtFaults(faults.names[1:], faults.rows, faults.changes),
        "rows": TaughtFaults(faults.names, faults.rows[:LEFT_OUT], faults.changes[:LEFT_OUT]),
        "features": TaughtFaults(faults.names, faults.rows, faults.changes[:, :, 1:]),
    }[spoil]
    with pytest.raises(ValueError, match="changes of more than 16 pictures"):
        fit_baseline(calibration, RATE, np.random.default_rng(0), wrong)

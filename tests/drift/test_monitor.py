"""The monitor over invented readings: windows, calibration from the first pictures, alarm, onset and figures."""

from dataclasses import replace

import numpy as np
import pytest

from service.drift.baseline import WINDOW
from service.drift.calibration import Calibration, calibrate
from service.drift.features import Samples
from service.drift.layers import WatchedLayers
from service.drift.lesson import FAULTS_EVERY, FIRST_PICTURES, Lesson
from service.drift.monitor import DriftMonitor, NamesFaults
from service.drift.taught import TaughtFaults
from tests.drift.readings import CHANNELS, DEAD, MEAN, STD, Invented, readings, watched


def stack(rows: list[Invented]) -> Samples:
    return Samples(*(np.stack([getattr(row, name) for row in rows]) for name in ("means", "variances", "figures")))


def name_nothing(features: np.ndarray) -> list[str]:
    return []


def refuse(lesson: Lesson, created_at: str) -> tuple[Calibration, NamesFaults]:
    raise AssertionError("The calibration is known already.")


def fail(lesson: Lesson, created_at: str) -> tuple[Calibration, NamesFaults]:
    raise FloatingPointError("a fault of our own")


def learn(lesson: Lesson, created_at: str) -> tuple[Calibration, NamesFaults]:
    changes = lesson.faults[:, 1:] - lesson.faults[:, :1]
    taught = TaughtFaults(("red and blue swapped",), lesson.rows, changes)
    return calibrate(lesson.samples, watched().channels, 0.01, created_at, taught), lambda _: ["Learnt."]


def monitor_of(calibration: Calibration, name_faults: NamesFaults = name_nothing) -> DriftMonitor:
    return DriftMonitor(watched(), (calibration, name_faults), refuse)


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    return calibrate(stack(readings(256, seed=0)), watched().channels, 0.01, "2026-01-01T00:00:00+00:00")


def with_fault(row: Invented) -> np.ndarray:
    """Features (2, F) without and with the one known fault: the mean of b.bn's channel 1 moves by a deviation."""
    moved = Invented(row.means + STD * (np.arange(CHANNELS) == 4), row.variances, row.figures)
    return stack([row, moved]).features(watched().channels)


def feed(monitor: DriftMonitor, rows: list[Invented], start: float = 0.0) -> float:
    """One picture a second; gives the time after the last."""
    for second, row in enumerate(rows):
        monitor.add(row, start + second, with_fault(row) if monitor.wants_faults else None)
    return start + len(rows)


def test_nothing_is_known_before_the_first_full_window(calibration: Calibration) -> None:
    monitor = monitor_of(calibration)
    feed(monitor, readings(WINDOW - 1, seed=1))
    report = monitor.report()
    assert (report.state, report.sampled, report.windows, report.layers) == ("watching", WINDOW - 1, (), ())
    assert report.training is report.baseline is report.onset is None


def test_windows_share_no_picture(calibration: Calibration) -> None:
    monitor = monitor_of(calibration)
    feed(monitor, readings(3 * WINDOW + 5, seed=1), start=1000.0)
    spans = [(window.begun, window.ended) for window in monitor.report().windows]
    assert spans == [(1000.0 + WINDOW * i, 1000.0 + WINDOW * (i + 1) - 1) for i in range(3)]


def test_the_score_is_the_baselines(calibration: Calibration) -> None:
    monitor, rows = monitor_of(calibration), readings(WINDOW, seed=2)
    feed(monitor, rows)
    (window,) = monitor.report().windows
    assert window.score == calibration.baseline.score(stack(rows).features(watched().channels))


def test_the_figures_of_the_last_window_against_numpy(calibration: Calibration) -> None:
    monitor, rows = monitor_of(calibration), readings(WINDOW, seed=3, shift=0.2)
    feed(monitor, readings(WINDOW, seed=2))
    feed(monitor, rows)
    report = monitor.report()
    means, variances = np.stack([row.means for row in rows]), np.stack([row.variances for row in rows])
    m, v = means.mean(0), variances.mean(0) + means.var(0)
    alive = np.array([c for c in range(CHANNELS) if c != DEAD])
    z = (m - MEAN)[alive] / STD[alive]
    ratio, inverse = v[alive] / STD[alive] ** 2, STD[alive] ** 2 / v[alive]
    kl = (ratio + z**2 + inverse + (m - MEAN)[alive] ** 2 / v[alive]) / 2 - 1
    w2 = (m - MEAN)[alive] ** 2 + (np.sqrt(v[alive]) - STD[alive]) ** 2
    assert report.training is not None and report.training.channels == 6
    assert report.training.z_rms == pytest.approx(np.sqrt((z**2).mean()), rel=1e-9)
    assert report.training.log_variance_ratio == pytest.approx(np.median(np.abs(np.log(ratio))), rel=1e-9)
    assert report.training.symmetric_kl == pytest.approx(kl.mean(), rel=1e-9)
    assert report.training.wasserstein2 == pytest.approx(np.sqrt(w2.mean()), rel=1e-9)
    first, second = (layer.training for layer in report.layers)
    assert first is not None and first.symmetric_kl == pytest.approx(kl[:2].mean(), rel=1e-9)
    assert second is not None and second.z_rms == pytest.approx(np.sqrt((z[2:] ** 2).mean()), rel=1e-9)
    clean = np.stack([row.means for row in readings(256, seed=0)])
    assert report.baseline is not None
    spread = np.stack([row.variances for row in readings(256, seed=0)]).mean(0) + clean.var(0)
    against = (m - clean.mean(0))[alive] / np.sqrt(spread[alive])
    assert report.baseline.z_rms == pytest.approx(np.sqrt((against**2).mean()), rel=1e-9)


def test_a_drift_is_dated_from_its_first_window_and_ends_after_three_clear_ones(calibration: Calibration) -> None:
    monitor = monitor_of(calibration)
    onset = feed(monitor, readings(2 * WINDOW, seed=4), start=500.0)
    assert monitor.report().state == "watching"
    now = feed(monitor, readings(2 * WINDOW, seed=5, shift=1.0), start=onset)
    report = monitor.report()
    assert (report.state, report.onset) == ("drifting", onset)
    assert [window.alarm for window in report.windows] == [False, False, True, True]
    assert report.problems
    for clear in range(1, 4):
        now = feed(monitor, readings(WINDOW, seed=5 + clear), start=now)
        report = monitor.report()
        assert report.problems == ()
        assert report.state == ("watching" if clear == 3 else "drifting")
    assert report.onset is None


def test_problems_name_the_layer_channel_and_direction(calibration: Calibration) -> None:
    rows = readings(WINDOW, seed=6)
    low = [Invented(row.means - 3 * STD * (np.arange(CHANNELS) == 4), row.variances, row.figures) for row in rows]
    monitor = monitor_of(calibration)
    feed(monitor, low)
    (problem,) = monitor.report().problems
    assert problem.startswith("b.bn moved furthest") and "channel 1 most" in problem and "below" in problem


def test_dark_pictures_are_called_dark(calibration: Calibration) -> None:
    monitor = monitor_of(calibration)
    feed(monitor, readings(WINDOW, seed=7, shift=1.0, darkness=0.4))
    assert any("darker" in problem for problem in monitor.report().problems)


def test_a_known_fault_is_named_and_how_far_the_window_went_its_way() -> None:
    changes = np.zeros((256, 2, 24))
    changes[:, 0, 3], changes[:, 1, 4] = STD[4], STD[5]  # the means of b.bn's channels 1 and 2
    faults = TaughtFaults(("red and blue swapped", "darker than before"), np.arange(256), changes)
    calibration = calibrate(stack(readings(256, seed=0)), watched().channels, 0.01, "", faults)
    rows = readings(WINDOW, seed=14)
    moved = [Invented(row.means + 0.4 * STD * (np.arange(CHANNELS) == 4), row.variances, row.figures) for row in rows]
    features = stack(moved).features(watched().channels)
    fault = calibration.baseline.foremost_fault(features)
    assert fault is not None and fault[0] == "red and blue swapped" and fault[1] > fault[2]
    monitor = monitor_of(calibration)
    feed(monitor, moved)
    assert (
        f"The features moved {fault[1]:.1f} standard errors in the direction of a known fault, red and blue swapped; "
        f"the alarm begins at {fault[2]:.1f}." in monitor.report().problems
    )


def test_without_a_file_the_first_pictures_are_the_calibration() -> None:
    monitor = DriftMonitor(watched(), None, learn)
    first = readings(FIRST_PICTURES, seed=8)
    now = feed(monitor, first[:-1])
    report = monitor.report()
    assert (report.state, report.source, report.calibrated) == ("calibrating", "first_pictures", None)
    assert len(report.windows) == FIRST_PICTURES // WINDOW - 1 and report.windows[-1].score is None
    assert report.training is not None, "the training law needs no calibration"
    now = feed(monitor, first[-1:], start=now)
    report = monitor.report()
    taken = np.arange(0, FIRST_PICTURES, FAULTS_EVERY)
    expected, _ = learn(Lesson(stack(first), np.stack([with_fault(first[row]) for row in taken]), taken), "")
    assert report.state == "watching" and report.calibrated is not None
    assert report.calibrated.baseline.threshold == expected.baseline.threshold
    np.testing.assert_array_equal(report.calibrated.baseline.directions, expected.baseline.directions)
    feed(monitor, readings(WINDOW, seed=9, shift=1.0), start=now)
    report = monitor.report()
    assert report.state == "drifting" and report.problems[0] == "Learnt."


def test_only_the_first_pictures_are_wanted_with_faults_and_of_these_every_so_many() -> None:
    monitor, wanted = DriftMonitor(watched(), None, learn), []
    for number, row in enumerate(readings(FIRST_PICTURES + WINDOW, seed=8)):
        wanted += [number] if monitor.wants_faults else []
        feed(monitor, [row], start=float(number))
    assert wanted == list(range(0, FIRST_PICTURES, FAULTS_EVERY))


def test_a_known_fault_too_small_to_be_seen_otherwise_is_seen_by_what_the_first_pictures_taught() -> None:
    first, rows = readings(FIRST_PICTURES, seed=8), readings(WINDOW, seed=14)
    moved = [Invented(row.means + 0.2 * STD * (np.arange(CHANNELS) == 4), row.variances, row.figures) for row in rows]
    monitor = DriftMonitor(watched(), None, learn)
    feed(monitor, first + rows + moved)
    report = monitor.report()
    assert [window.alarm for window in report.windows[-2:]] == [False, True]
    assert any("in the direction of a known fault, red and blue swapped" in problem for problem in report.problems)
    untaught = calibrate(stack(first), watched().channels, 0.01, "").baseline
    assert untaught.score(stack(moved).features(watched().channels)) < untaught.threshold


def test_a_few_pictures_over_and_over_are_no_calibration_but_the_next_ones_may_be() -> None:
    monitor = DriftMonitor(watched(), None, learn)
    feed(monitor, readings(4, seed=0) * (FIRST_PICTURES // 4) + readings(WINDOW, seed=1))
    report = monitor.report()
    assert (report.state, report.calibrated, report.gathered) == ("calibrating", None, WINDOW)
    assert report.failure is not None and "Only 4 of 256 pictures differ" in report.failure
    feed(monitor, readings(FIRST_PICTURES - WINDOW, seed=2))
    report = monitor.report()
    assert (report.state, report.failure, report.gathered) == ("watching", None, 0)


def test_the_history_is_bounded(calibration: Calibration) -> None:
    monitor, rows = monitor_of(calibration), readings(WINDOW, seed=10)
    for _ in range(258):
        feed(monitor, rows)
    report = monitor.report()
    assert (report.sampled, len(report.windows)) == (258 * WINDOW, 256)


def test_a_window_is_compared_once_however_often_it_is_asked_for(calibration: Calibration) -> None:
    named: list[int] = []

    def name_faults(features: np.ndarray) -> list[str]:
        named.append(len(features))
        return ["A fault."]

    monitor = monitor_of(calibration, name_faults)
    now = feed(monitor, readings(WINDOW, seed=11, shift=1.0))
    first = monitor.report()
    now = feed(monitor, readings(3, seed=12), start=now)  # no full window
    again = monitor.report()
    assert (first.sampled, again.sampled) == (WINDOW, WINDOW + 3)
    assert first.problems == again.problems and first.problems[0] == "A fault."
    assert again.layers is first.layers and named == [WINDOW]
    feed(monitor, readings(WINDOW - 3, seed=13, shift=2.0), start=now)
    second = monitor.report()
    assert named == [WINDOW, WINDOW]
    assert second.baseline is not None and first.baseline is not None
    assert second.baseline.z_rms > first.baseline.z_rms


def test_no_report_counts_the_last_picture_of_a_window_without_the_window(calibration: Calibration) -> None:
    monitor = monitor_of(calibration)
    seen: list[tuple[int, int]] = []

    class Curious(Invented):
        """A reading that looks at the report whenever it is read, as another thread may."""

        def __getattribute__(self, name: str) -> np.ndarray:
            report = monitor.report()
            seen.append((report.sampled, len(report.windows)))
            return super().__getattribute__(name)

    rows = readings(2 * WINDOW, seed=1)
    feed(monitor, [Curious(row.means, row.variances, row.figures) for row in rows])
    assert (2 * WINDOW - 1, 1) in seen
    assert {windows for sampled, windows in seen if sampled // WINDOW != windows} == set()


def test_without_any_batchnorm_there_is_no_law_but_the_calibration_holds(calibration: Calibration) -> None:
    layers = tuple(replace(layer, law=None) for layer in watched().layers)
    monitor = DriftMonitor(WatchedLayers(layers, watched().channels), (calibration, name_nothing), refuse)
    now = feed(monitor, readings(WINDOW, seed=1))
    quiet = monitor.report()
    feed(monitor, readings(WINDOW, seed=5, shift=1.0), start=now)
    report = monitor.report()
    assert quiet.training is None and report.training is None
    assert quiet.baseline is not None and report.baseline is not None
    assert report.baseline.z_rms > quiet.baseline.z_rms
    assert [(layer.training, layer.baseline is None) for layer in report.layers] == [(None, False)] * 2
    assert report.state == "drifting" and report.problems


def test_whatever_goes_wrong_while_learning_is_told() -> None:
    monitor, first = DriftMonitor(watched(), None, fail), readings(FIRST_PICTURES, seed=8)
    feed(monitor, first[:-1])
    with pytest.raises(FloatingPointError):
        feed(monitor, first[-1:])
    report = monitor.report()
    assert report.failure == "FloatingPointError: a fault of our own. The next 256 are tried."
    assert (report.state, report.gathered) == ("calibrating", 0)

"""Keeps windows of sampled pictures, holds each against the training law and the calibration, and dates a drift."""

import threading
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from service.drift.baseline import WINDOW
from service.drift.calibration import DEFAULT_RATE, Calibration, calibrate
from service.drift.distances import LayerDistances, Normal, channel_distances, layer_distances, pool
from service.drift.features import Samples
from service.drift.layers import WatchedLayer, WatchedLayers
from service.drift.onset import Onset
from service.drift.words import describe_pictures
from service.errors import CalibrationUnusable

FIRST_PICTURES = 256
"""Sampled pictures that make the calibration where no file holds one."""
_KEPT_WINDOWS = 256

State = Literal["calibrating", "watching", "drifting"]
Source = Literal["file", "first_pictures"]


class NamesFaults(Protocol):
    """Says in words what the features (W, F) of a window's pictures show to be wrong with how they were made."""

    def __call__(self, features: NDArray[np.float64]) -> list[str]: ...


class Measured(Protocol):
    """One picture's reading, float64: ``means`` and ``variances`` (C,), ``figures`` (12,)."""

    @property
    def means(self) -> NDArray[np.float64]: ...

    @property
    def variances(self) -> NDArray[np.float64]: ...

    @property
    def figures(self) -> NDArray[np.float64]: ...


@dataclass(frozen=True)
class WindowScore:
    """One full window. ``begun`` and ``ended`` are the seconds since 1970 of its first and last picture.

    ``score`` is None while there is no calibration.
    """

    begun: float
    ended: float
    score: float | None
    alarm: bool


@dataclass(frozen=True)
class LayerReport:
    """One probed layer over the last full window."""

    name: str
    training: LayerDistances | None
    baseline: LayerDistances | None


@dataclass(frozen=True)
class Report:
    """Where things stand.

    Attributes:
        sampled: pictures measured so far.
        source: where the calibration comes from, or will come from.
        calibrated: the calibration in use, None while it is being gathered.
        onset: seconds since 1970 at which the first window of the present drift began.
        windows: the last full windows, oldest first.
        layers, training, baseline: of the last full window, by layer and over all layers; empty or None before it.
        problems: what is wrong, in words; empty unless there is a drift.
        gathered: pictures kept for the calibration so far.
        failure: why the last pictures gathered gave no calibration, if they did not.
    """

    state: State
    sampled: int
    source: Source
    calibrated: Calibration | None
    onset: float | None
    windows: tuple[WindowScore, ...]
    layers: tuple[LayerReport, ...]
    training: LayerDistances | None
    baseline: LayerDistances | None
    problems: tuple[str, ...]
    gathered: int
    failure: str | None


class DriftMonitor:
    """Watches one model's pictures. One thread adds them; any may read."""

    def __init__(
        self, watched: WatchedLayers, calibration: Calibration | None, faults: NamesFaults | None = None
    ) -> None:
        """Start without pictures.

        Args:
            calibration: from its file; None makes the first ``FIRST_PICTURES`` pictures the calibration.
            faults: names what was done to pictures; None where that was never learnt.
        """
        self._faults = faults
        self._watched, self._calibration = watched, calibration
        self._source: Source = "first_pictures" if calibration is None else "file"
        self._lock = threading.Lock()
        self._first: list[Measured] = []
        self._window: list[tuple[float, Measured]] = []
        self._windows: deque[WindowScore] = deque(maxlen=_KEPT_WINDOWS)
        self._last: Samples | None = None
        self._onset, self._sampled = Onset(), 0
        self._failure: str | None = None

    def add(self, reading: Measured, when: float) -> None:
        """Take in one picture; ``when`` is seconds since 1970."""
        calibration = self._gather(reading, when)
        with self._lock:
            self._calibration = calibration
            self._sampled += 1
        self._window.append((when, reading))
        if len(self._window) == WINDOW:
            self._close_window()

    def _gather(self, reading: Measured, when: float) -> Calibration | None:
        """The calibration after this picture. Only the sampling thread gets here, and readers need not wait for it."""
        if self._calibration is not None:
            return self._calibration
        self._first.append(reading)
        if len(self._first) < FIRST_PICTURES:
            return None
        first, self._first = self._first, []
        try:
            found = calibrate(_stack(first), self._watched.channels, DEFAULT_RATE, _utc(when))
        except CalibrationUnusable as error:
            self._failure = f"{error} The next {FIRST_PICTURES} are tried."
            return None
        self._failure = None
        return found

    def _close_window(self) -> None:
        begun, ended = self._window[0][0], self._window[-1][0]
        samples = _stack([reading for _, reading in self._window])
        self._window = []
        score, alarm = None, False
        if self._calibration is not None:
            baseline = self._calibration.baseline
            score = baseline.score(samples.features(self._watched.channels))
            alarm = score > baseline.threshold
        # Computed before the lock is taken: this thread has the least priority, and readers wait for the lock.
        with self._lock:
            if self._calibration is not None and score is not None:
                self._onset.update(score, self._calibration.baseline.threshold, begun)
            self._last = samples
            self._windows.append(WindowScore(begun, ended, score, alarm))

    @property
    def calibration(self) -> Calibration | None:
        """What windows are compared with; None while it is being gathered."""
        return self._calibration

    def report(self) -> Report:
        """Where things stand now."""
        with self._lock:
            calibration, last, onset = self._calibration, self._last, self._onset.since
            windows, sampled, failure = tuple(self._windows), self._sampled, self._failure
        observed = None if last is None else pool(last.means, last.variances)
        clean = None if calibration is None else calibration.law
        layers = () if observed is None else compare_layers(self._watched, observed, clean)
        state: State = "calibrating" if calibration is None else "watching" if onset is None else "drifting"
        problems: list[str] = []
        if calibration is not None and last is not None and windows[-1].alarm:
            problems = _problems(self._watched, last, calibration)
            if self._faults is not None:
                problems = self._faults(last.features(self._watched.channels)) + problems
        return Report(
            state=state,
            sampled=sampled,
            source=self._source,
            calibrated=calibration,
            onset=onset,
            windows=windows,
            layers=layers,
            training=None if observed is None else compare_with_training(self._watched, observed),
            baseline=None if observed is None or clean is None else layer_distances(observed, clean),
            problems=tuple(problems),
            gathered=len(self._first),
            failure=failure,
        )


def compare_with_training(watched: WatchedLayers, observed: Normal) -> LayerDistances:
    """All probed layers together against the training law. ``worst_channels`` counts over all of them."""
    return layer_distances(watched.lawful(observed), watched.law)


def compare_layers(watched: WatchedLayers, observed: Normal, clean: Normal | None) -> tuple[LayerReport, ...]:
    """Each probed layer of a law of all probed channels, against training and, where there is one, calibration."""

    def compare(layer: WatchedLayer) -> LayerReport:
        part = layer.part(observed)
        training = None if layer.law is None else layer_distances(part, layer.law)
        return LayerReport(layer.name, training, None if clean is None else layer_distances(part, layer.part(clean)))

    return tuple(compare(layer) for layer in watched.layers)


def _problems(watched: WatchedLayers, last: Samples, calibration: Calibration) -> list[str]:
    found = describe_pictures(last.figures, calibration.trait_law)
    observed = pool(last.means, last.variances)
    reports = compare_layers(watched, observed, calibration.law)
    layer, report = max(
        zip(watched.layers, reports, strict=True),
        key=lambda pair: pair[1].baseline.symmetric_kl if pair[1].baseline else 0,
    )
    if report.baseline is None or not report.baseline.worst_channels:
        return found
    channel = report.baseline.worst_channels[0]
    distances = channel_distances(layer.part(observed), layer.part(calibration.law))
    z, ratio = float(distances.z[channel]), float(np.exp(distances.log_variance_ratio[channel]))
    return [
        *found,
        f"{layer.name} moved furthest from the calibration; its channel {channel} most: its mean lies {abs(z):.2g} "
        f"standard deviations {'below' if z < 0 else 'above'}, its variance is {ratio:.2g} times as large.",
    ]


def _stack(readings: list[Measured]) -> Samples:
    return Samples(
        np.stack([reading.means for reading in readings]),
        np.stack([reading.variances for reading in readings]),
        np.stack([reading.figures for reading in readings]),
    )


def _utc(when: float) -> str:
    return datetime.fromtimestamp(when, UTC).isoformat(timespec="seconds")

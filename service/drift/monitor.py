"""Keeps windows of sampled pictures, holds each against the training law and the calibration, and dates a drift."""

import threading
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from service.drift.baseline import WINDOW
from service.drift.calibration import Calibration
from service.drift.distances import LayerDistances, Normal, channel_distances, layer_distances, pool
from service.drift.features import Measured, Samples
from service.drift.layers import WatchedLayer, WatchedLayers
from service.drift.lesson import FIRST_PICTURES, FirstPictures, Lesson
from service.drift.onset import Onset
from service.drift.words import describe_fault, describe_pictures
from service.errors import CalibrationUnusable, fault_in_words

_KEPT_WINDOWS = 256

State = Literal["calibrating", "watching", "drifting"]
Source = Literal["file", "first_pictures"]


class NamesFaults(Protocol):
    """Says in words what the features (W, F) of a window's pictures show to be wrong with how they were made."""

    def __call__(self, features: NDArray[np.float64]) -> list[str]: ...


class Learns(Protocol):
    """Learns from the first pictures what a calibration file would hold.

    Raises:
        CalibrationUnusable: they do not do.
    """

    def __call__(self, lesson: Lesson, created_at: str) -> tuple[Calibration, NamesFaults]: ...


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
        layers: of the last full window; empty before it.
        training, baseline: of the last full window over all layers; None before it. ``training`` is None too where no
            layer has a training law, ``baseline`` where there is no calibration.
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


class _Comparison(NamedTuple):
    """What the last full window shows: the same until the next one is full or another calibration is in use."""

    layers: tuple[LayerReport, ...]
    training: LayerDistances | None
    baseline: LayerDistances | None
    problems: tuple[str, ...]


class DriftMonitor:
    """Watches one model's pictures. One thread adds them; any may read."""

    def __init__(self, watched: WatchedLayers, known: tuple[Calibration, NamesFaults] | None, learn: Learns) -> None:
        """Start without pictures.

        Args:
            known: the calibration from its file, and what names faults by it; None lets ``learn`` make both out of the
                first ``FIRST_PICTURES`` pictures.
        """
        self._watched, self._learn = watched, learn
        self._calibration: Calibration | None = None
        self._faults: NamesFaults | None = None
        if known is not None:
            self._calibration, self._faults = known
        self._source: Source = "first_pictures" if known is None else "file"
        self._lock = threading.Lock()
        self._first = FirstPictures()
        self._window: list[tuple[float, Measured]] = []
        self._windows: deque[WindowScore] = deque(maxlen=_KEPT_WINDOWS)
        self._last: Samples | None = None
        self._onset, self._sampled = Onset(), 0
        self._failure: str | None = None
        self._version = 0
        self._compared: tuple[int, _Comparison] | None = None

    @property
    def wants_faults(self) -> bool:
        """Whether the next picture is to come with its features with every known fault."""
        return self._calibration is None and self._first.wants_faults

    def add(self, reading: Measured, when: float, faults: NDArray[np.float64] | None = None) -> None:
        """Take in one picture.

        Args:
            when: seconds since 1970.
            faults: (C, F) its features with each known fault, the first of which is none, where they are wanted.
        """
        calibration = self._gather(reading, when, faults)
        self._window.append((when, reading))
        # Computed before the lock is taken: readers wait for the lock.
        closed = self._close_window(calibration) if len(self._window) == WINDOW else None
        # All at once, so that no report counts the last picture of a window without the window.
        with self._lock:
            self._sampled += 1
            if closed is not None or calibration is not self._calibration:
                self._version += 1
            self._calibration = calibration
            if closed is not None:
                window, self._last = closed
                self._windows.append(window)
                if calibration is not None and window.score is not None:
                    self._onset.update(window.score, calibration.baseline.threshold, window.begun)

    def _gather(self, reading: Measured, when: float, faults: NDArray[np.float64] | None) -> Calibration | None:
        """The calibration after this picture. Only the sampling thread gets here, and readers need not wait for it."""
        if self._calibration is not None:
            return self._calibration
        self._first.add(reading, faults)
        if len(self._first) < FIRST_PICTURES:
            return None
        first, self._first = self._first, FirstPictures()
        try:
            found, self._faults = self._learn(first.lesson(), _utc(when))
        except Exception as error:
            self._failure = f"{fault_in_words(error).removesuffix('.')}. The next {FIRST_PICTURES} are tried."
            if not isinstance(error, CalibrationUnusable):
                raise
            return None
        self._failure = None
        return found

    def _close_window(self, calibration: Calibration | None) -> tuple[WindowScore, Samples]:
        begun, ended = self._window[0][0], self._window[-1][0]
        samples = Samples.of([reading for _, reading in self._window])
        self._window = []
        if calibration is None:
            return WindowScore(begun, ended, None, alarm=False), samples
        score = calibration.baseline.score(samples.features(self._watched.channels))
        return WindowScore(begun, ended, score, score > calibration.baseline.threshold), samples

    @property
    def calibration(self) -> Calibration | None:
        """What windows are compared with; None while it is being gathered."""
        return self._calibration

    @property
    def source(self) -> Source:
        """Where the calibration comes from, or will come from."""
        return self._source

    def report(self) -> Report:
        """Where things stand now. Cheap between two windows: what a window shows is worked out once."""
        with self._lock:
            calibration, last, onset = self._calibration, self._last, self._onset.since
            windows, sampled, failure = tuple(self._windows), self._sampled, self._failure
            version, compared = self._version, self._compared
        if compared is None or compared[0] != version:
            # Outside the lock, for which the sampling thread waits. Two readers at once do it twice, to the same end.
            found = self._compare(last, calibration, alarm=bool(windows) and windows[-1].alarm)
            compared = self._compared = (version, found)
        state: State = "calibrating" if calibration is None else "watching" if onset is None else "drifting"
        return Report(
            state=state,
            sampled=sampled,
            source=self._source,
            calibrated=calibration,
            onset=onset,
            windows=windows,
            layers=compared[1].layers,
            training=compared[1].training,
            baseline=compared[1].baseline,
            problems=compared[1].problems,
            gathered=len(self._first),
            failure=failure,
        )

    def _compare(self, last: Samples | None, calibration: Calibration | None, *, alarm: bool) -> _Comparison:
        if last is None:
            return _Comparison((), None, None, ())
        observed = pool(last.means, last.variances)
        clean = None if calibration is None else calibration.law
        problems: list[str] = []
        if calibration is not None and alarm:
            problems = _problems(self._watched, last, calibration)
            if self._faults is not None:
                problems = self._faults(last.features(self._watched.channels)) + problems
        return _Comparison(
            compare_layers(self._watched, observed, clean),
            compare_with_training(self._watched, observed),
            None if clean is None else layer_distances(observed, clean),
            tuple(problems),
        )


def compare_with_training(watched: WatchedLayers, observed: Normal) -> LayerDistances | None:
    """All probed layers together against the training law, None where none has one.

    ``worst_channels`` counts over all that have one.
    """
    compared = watched.beside_law(observed)
    return None if compared is None else layer_distances(*compared)


def compare_layers(watched: WatchedLayers, observed: Normal, clean: Normal | None) -> tuple[LayerReport, ...]:
    """Each probed layer of a law of all probed channels, against training and, where there is one, calibration."""

    def compare(layer: WatchedLayer) -> LayerReport:
        part = layer.part(observed)
        training = None if layer.law is None else layer_distances(part, layer.law)
        return LayerReport(layer.name, training, None if clean is None else layer_distances(part, layer.part(clean)))

    return tuple(compare(layer) for layer in watched.layers)


def _problems(watched: WatchedLayers, last: Samples, calibration: Calibration) -> list[str]:
    found = describe_pictures(last.figures, calibration.trait_law)
    fault = calibration.baseline.foremost_fault(last.features(watched.channels))
    if fault is not None:
        found.append(describe_fault(*fault))
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


def _utc(when: float) -> str:
    return datetime.fromtimestamp(when, UTC).isoformat(timespec="seconds")

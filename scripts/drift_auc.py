"""How well drift is told: clean photographs of a folder against the same spoilt, by windows of 32.

    .venv/bin/python -m scripts.drift_auc --bundle bundles/NAME --data FOLDER

Half of the pictures, chosen at random, are the calibration, which is taught the known faults as `calibrate` does it;
windows are drawn from the other half, clean and spoilt. With --faults-every 2 each second picture teaches the faults,
as where the first pictures served are the calibration; with 0 none does. The figures are means over several such
splits. With --group N, each N pictures that follow each other by name stay in one half: crops of one photograph
resemble each other more than photographs do.

    .venv/bin/python -m scripts.drift_auc --bundle bundles/NAME --data FOLDER --windows-from OTHER

Where there are pictures enough, all of --data is the calibration, and windows are cut from OTHER one after the other.
No two share a picture, so the share over the threshold has an interval. With --spoilt N only the first N pictures are
also spoilt.
"""

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.bundle.store import load_bundle
from service.drift.baseline import WINDOW, Baseline
from service.drift.calibration import DEFAULT_RATE, calibrate
from service.drift.features import Samples
from service.drift.layers import watch_layers
from service.drift.taught import TaughtFaults
from service.evaluation.false_alarms import wilson_interval
from service.heap import map_large_blocks
from service.inference.fault_pictures import measure_versions
from service.inference.images import decode_image
from service.inference.learn import teach_faults
from service.inference.picture_folder import picture_files
from service.inference.probe import Probe, Reading
from service.preprocessing.corruptions import CORRUPTIONS
from service.preprocessing.letterbox import content_tensor, letterbox, plan_letterbox

CLEAN = "clean"
_WINDOWS = 200
_MAX_PIXELS = 200_000_000


@dataclass(frozen=True)
class Measured:
    """N pictures: samples of each version, the channels that count, and features (N, C, F) with each known fault."""

    samples: Mapping[str, Samples]
    channels: NDArray[np.intp]
    faults: NDArray[np.float64]


def measure(bundle_path: Path, folder: Path, *, spoilt: int, taught: bool) -> Measured:
    """Every picture in ``folder``, the first ``spoilt`` also spoilt; with the known faults if they are to be taught."""
    bundle = load_bundle(bundle_path)
    probe, watched, size = Probe(bundle.probe_graph), watch_layers(bundle), bundle.manifest.model.input.height
    paths = picture_files(folder)
    readings: dict[str, list[Reading]] = {name: [] for name in (CLEAN, *CORRUPTIONS)}
    faults = []
    for number, path in enumerate(paths, 1):
        picture = decode_image(path.read_bytes(), max_pixels=_MAX_PIXELS)
        plan = plan_letterbox(picture.shape[1], picture.shape[0], size)
        for name, found in readings.items():
            if name == CLEAN or number <= spoilt:
                version = picture if name == CLEAN else CORRUPTIONS[name](picture)
                found.append(probe.measure(content_tensor(letterbox(version, plan), plan)))
        if taught:
            faults.append(measure_versions(picture, probe, watched, size))
        print(f"\r{number}/{len(paths)}", end="", flush=True)
    print()
    samples = {name: Samples.of(found) for name, found in readings.items() if found}
    return Measured(samples, watched.channels, np.stack(faults) if taught else np.empty(0))


def evaluate_apart(calibrated: Measured, others: Measured, faults_every: int) -> dict[str, tuple[float, int, int]]:
    """By version: area under the curve against clean windows, windows over the threshold, and windows."""
    baseline = _calibrate(calibrated, np.arange(len(calibrated.samples[CLEAN])), faults_every)
    scores = {}
    for name, found in others.samples.items():
        windows = len(found) // WINDOW
        rows = found.features(others.channels)[: windows * WINDOW].reshape(windows, WINDOW, -1)
        scores[name] = np.array([baseline.score(window) for window in rows])
    return {
        name: (_area(scores[CLEAN], found), int((found > baseline.threshold).sum()), len(found))
        for name, found in scores.items()
    }


def evaluate_split(
    measured: Measured, group: int, rng: np.random.Generator, faults_every: int
) -> dict[str, tuple[float, float]]:
    """By version: area under the curve against clean windows (0.5 for clean itself), and share over the threshold."""
    clean = measured.samples[CLEAN]
    groups = np.arange(len(clean)) // group
    order = rng.permutation(groups[-1] + 1)
    seen = np.isin(groups, order[: len(order) // 2])
    baseline = _calibrate(measured, np.flatnonzero(seen), faults_every)
    unseen = np.flatnonzero(~seen)
    windows = [rng.choice(unseen, WINDOW, replace=False) for _ in range(_WINDOWS)]
    scores = {}
    for name, found in measured.samples.items():
        features = found.features(measured.channels)
        scores[name] = np.array([baseline.score(features[window]) for window in windows])
    return {
        name: (_area(scores[CLEAN], found), float((found > baseline.threshold).mean()))
        for name, found in scores.items()
    }


def _calibrate(measured: Measured, chosen: NDArray[np.intp], faults_every: int) -> Baseline:
    clean = measured.samples[CLEAN]
    samples = Samples(clean.means[chosen], clean.variances[chosen], clean.figures[chosen])
    faults: TaughtFaults | None = None
    if faults_every:
        rows = np.arange(0, len(samples), faults_every)
        faults = teach_faults(measured.faults[chosen][rows], rows)
    return calibrate(samples, measured.channels, DEFAULT_RATE, "", faults).baseline


def _area(clean: NDArray[np.float64], spoilt: NDArray[np.float64]) -> float:
    """Probability that a spoilt window scores higher than a clean one (Mann and Whitney's U over its maximum)."""
    above = (clean[:, None] < spoilt[None]).mean()
    return float(above + 0.5 * (clean[:, None] == spoilt[None]).mean())


def main() -> None:
    """Print a row per corruption."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True, help="folder of a bundle")
    parser.add_argument("--data", type=Path, required=True, help="folder of clean photographs")
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--group", type=int, default=1, help="pictures in a row that stay together")
    parser.add_argument("--faults-every", type=int, default=1, help="pictures of which one teaches the known faults")
    parser.add_argument("--windows-from", type=Path, help="folder of other clean photographs, which windows are of")
    parser.add_argument("--spoilt", type=int, default=sys.maxsize, help="how many of those are also spoilt")
    arguments = parser.parse_args()
    map_large_blocks()
    taught = arguments.faults_every > 0
    if arguments.windows_from is not None:
        _print_apart(
            evaluate_apart(
                measure(arguments.bundle, arguments.data, spoilt=0, taught=taught),
                measure(arguments.bundle, arguments.windows_from, spoilt=arguments.spoilt, taught=False),
                arguments.faults_every,
            )
        )
        return
    measured = measure(arguments.bundle, arguments.data, spoilt=sys.maxsize, taught=taught)
    rng = np.random.default_rng(0)
    splits = [evaluate_split(measured, arguments.group, rng, arguments.faults_every) for _ in range(arguments.splits)]
    print(f"{'':<18}{'area':>8}{'least':>8}{'over the threshold':>20}")
    for name in measured.samples:
        areas, shares = zip(*(split[name] for split in splits), strict=True)
        print(f"{name:<18}{np.mean(areas):8.3f}{min(areas):8.3f}{np.mean(shares):20.1%}")


def _print_apart(found: Mapping[str, tuple[float, int, int]]) -> None:
    print(f"{'':<18}{'area':>8}{'over the threshold':>20}{'':>8}{'95 % interval':>20}")
    for name, (area, over, windows) in found.items():
        interval = wilson_interval(over, windows)
        ends = f"{interval.low:.1%} to {interval.high:.1%}"
        print(f"{name:<18}{area:8.3f}{f'{over} of {windows}':>20}{over / windows:8.1%}{ends:>20}")


if __name__ == "__main__":
    main()

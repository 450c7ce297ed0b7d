"""What watches the pictures for drift, wired together."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.bundle.store import Bundle
from service.drift.layers import WatchedLayers, watch_layers
from service.drift.monitor import DriftMonitor
from service.heap import give_back_freed
from service.inference.calibration_file import load_calibration
from service.inference.probe import Probe
from service.inference.sampling import CpuBudget, PictureSampler
from service.lint.report import FaultWords
from service.lint.signatures import Signatures
from service.preprocessing.letterbox import Letterbox, content_tensor


@dataclass(frozen=True)
class DriftWatch:
    """The probe and what it is held against.

    ``signatures`` is None where faults were never learnt, ``sampler`` where live pictures are not sampled.
    """

    probe: Probe
    watched: WatchedLayers
    monitor: DriftMonitor
    signatures: Signatures | None
    sampler: PictureSampler | None
    cpu_share: float

    def close(self) -> None:
        """End the sampling."""
        if self.sampler is not None:
            self.sampler.close()


def start_drift_watch(bundle: Bundle, cpu_share: float, cores: int) -> DriftWatch:
    """Load the probe and the calibration, and start sampling unless ``cpu_share`` is 0.

    Raises:
        EngineError: the probe cannot be loaded.
        CalibrationUnusable: what was learnt beside the bundle is damaged or another bundle's.
    """
    probe, watched = Probe(bundle.probe_graph), watch_layers(bundle)
    learnt = load_calibration(bundle)
    if learnt is None:
        signatures, monitor = None, DriftMonitor(watched, None)
    else:
        signatures, monitor = learnt.faults, DriftMonitor(watched, learnt.drift, FaultWords(learnt.faults))

    def look(plan: Letterbox, square: NDArray[np.uint8], when: float) -> None:
        monitor.add(probe.measure(content_tensor(square, plan)), when)
        give_back_freed()

    sampler = PictureSampler(look, CpuBudget(cpu_share, cores)) if cpu_share > 0 else None
    return DriftWatch(probe, watched, monitor, signatures, sampler, cpu_share)

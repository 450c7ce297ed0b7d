"""What watches the pictures for drift, wired together."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.bundle.store import Bundle
from service.drift.calibration import load_calibration
from service.drift.layers import WatchedLayers, watch_layers
from service.drift.monitor import DriftMonitor
from service.inference.probe import Probe
from service.inference.sampling import CpuBudget, PictureSampler
from service.preprocessing.letterbox import Letterbox, content_tensor


@dataclass(frozen=True)
class DriftWatch:
    """The probe and what it is held against. ``sampler`` is None where live pictures are not sampled."""

    probe: Probe
    watched: WatchedLayers
    monitor: DriftMonitor
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
        CalibrationUnusable: the calibration beside the bundle is damaged or another bundle's.
    """
    probe, watched = Probe(bundle.probe_graph), watch_layers(bundle)
    monitor = DriftMonitor(watched, load_calibration(bundle))

    def look(plan: Letterbox, square: NDArray[np.uint8], when: float) -> None:
        monitor.add(probe.measure(content_tensor(square, plan)), when)

    sampler = PictureSampler(look, CpuBudget(cpu_share, cores)) if cpu_share > 0 else None
    return DriftWatch(probe, watched, monitor, sampler, cpu_share)

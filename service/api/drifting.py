"""What watches the pictures for drift, wired together."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.bundle.store import Bundle
from service.drift.calibration import DEFAULT_RATE, Calibration
from service.drift.layers import WatchedLayers, watch_layers
from service.drift.lesson import Lesson
from service.drift.monitor import DriftMonitor
from service.heap import give_back_freed
from service.inference.calibration_file import Learnt, load_calibration
from service.inference.fault_pictures import measure_fitted_versions
from service.inference.learn import learn
from service.inference.probe import Probe
from service.inference.sampling import CpuBudget, PictureSampler
from service.lint.report import FaultWords
from service.lint.signatures import Signatures
from service.preprocessing.letterbox import Letterbox, content_tensor


class Knowledge:
    """What was learnt from clean pictures: from the file's, or, once there are enough, from the first ones served."""

    def __init__(self, channels: NDArray[np.intp], learnt: Learnt | None) -> None:
        """``channels`` are those that count, as positions among the probed ones."""
        self._channels, self._learnt = channels, learnt

    @property
    def for_drift(self) -> tuple[Calibration, FaultWords] | None:
        """What windows are held against and what names their faults; None while there is neither."""
        return None if self._learnt is None else (self._learnt.drift, FaultWords(self._learnt.faults))

    @property
    def signatures(self) -> Signatures | None:
        """What faults look like; None while that has not been learnt."""
        return None if self._learnt is None else self._learnt.faults

    def learn(self, lesson: Lesson, created_at: str) -> tuple[Calibration, FaultWords]:
        """See ``service.drift.monitor.Learns``."""
        learnt = self._learnt = learn(lesson, self._channels, DEFAULT_RATE, created_at)
        return learnt.drift, FaultWords(learnt.faults)


@dataclass(frozen=True)
class DriftWatch:
    """The probe and what it is held against; ``sampler`` is None where live pictures are not sampled."""

    probe: Probe
    watched: WatchedLayers
    monitor: DriftMonitor
    knowledge: Knowledge
    sampler: PictureSampler | None
    cpu_share: float

    @property
    def processor_s(self) -> float:
        """Processor time that watching live pictures has taken, seconds."""
        return 0.0 if self.sampler is None else self.sampler.processor_s

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
    knowledge, size = Knowledge(watched.channels, load_calibration(bundle)), bundle.manifest.model.input.height
    monitor = DriftMonitor(watched, knowledge.for_drift, knowledge.learn)

    def look(plan: Letterbox, fitted: NDArray[np.uint8], when: float) -> None:
        reading, faults = probe.measure(content_tensor(fitted, plan)), None
        if monitor.wants_faults:
            faults = measure_fitted_versions(fitted, plan, probe, watched, size)
        monitor.add(reading, when, faults)
        give_back_freed()

    sampler = PictureSampler(look, CpuBudget(cpu_share, cores)) if cpu_share > 0 else None
    return DriftWatch(probe, watched, monitor, knowledge, sampler, cpu_share)

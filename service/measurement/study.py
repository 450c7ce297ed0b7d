"""Which series make up a report: quick, or everything that this installation can measure."""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from service.bundle.latency import Device, LatencyReport, NotMeasured, PeakMemory, Series
from service.errors import MeasurementCancelled, MeasurementRefused
from service.machine import describe_machine
from service.measurement import session_peak
from service.measurement.economy import Question
from service.measurement.onnx_file import write_float_input
from service.measurement.peak_memory import measure_peak
from service.measurement.runner import (
    DEFAULT_BUDGET_S,
    DEFAULT_ROUNDS,
    Workload,
    measure_series,
    require_rounds,
    whole_sessions,
)
from service.measurement.runtime_arms import (
    NULL_CONTROL,
    PREPROCESSING_QUESTIONS,
    RUNTIME_QUESTIONS,
    THROUGHPUT_ARMS,
    AllowedDevice,
    GraphArm,
    folding_arms,
    installed_providers,
    measured_devices,
    preprocessing_arms,
    random_images,
)
from service.measurement.throughput import RUNS_PER_CALLER, THROUGHPUT_QUESTIONS, burst_arm
from service.measurement.timed_arm import OptionalArmFailed, TimedArm
from service.measurement.traffic import NoTraffic, Traffic

#: Told what is being measured, rounds done and rounds wanted in all.
Progress = Callable[[str, int, int], None]

ALL_BATCHES = (1, 4, 8)
_TOO_SLOW = "{stage}: this network is too slow here for the {seconds:g} s that all questions may take together."
LEFT_OUT = "Left to the thorough measurement."
_FORBIDDEN = "YOLOFOLD_DEVICE=cpu keeps the measurement on the processor."
_NO_CUDA = "The installed ONNX Runtime has no CUDA provider."
_HOST_ONLY = "A process's resident memory says nothing about the memory of a GPU."
_THROUGHPUT = "How many images per second do concurrent callers get?"
_PEAK_MEMORY = "How much memory does each arm take at most?"
_FOLDING_ON: dict[Device, str] = {"cuda": "What does folding save in ONNX Runtime on CUDA?"}


@dataclass(frozen=True)
class Effort:
    """How much to measure.

    Attributes:
        rounds: of each series, at least 12.
        budget_s: seconds for each series, as in ``measure_series``, and for what had to be made ready for it.
        thorough: also preprocessing, throughput, memory and every device; else folding on the processor only.
        batches: images per run, rising.
    """

    rounds: int = DEFAULT_ROUNDS
    budget_s: float = DEFAULT_BUDGET_S
    thorough: bool = False
    batches: tuple[int, ...] = (1,)

    @property
    def rounds_on_each_device(self) -> int:
        """Those of all series together."""
        return whole_sessions(self.rounds) * (2 if self.thorough else 1) * len(self.batches)


@dataclass(frozen=True)
class Place:
    """What is measured and with what.

    Attributes:
        reference, deployed: the two graphs.
        imgsz: side of their input, pixels.
        threads: threads per run on the processor, at least 1.
        callers: concurrent callers whose throughput is measured, at least 1.
        device: the setting; "cpu" forbids to measure elsewhere.
        threads_chosen: somebody has set them, so callers at once have as many each; else these share the cores out,
            where an engine is served so.
    """

    reference: Path
    deployed: Path
    imgsz: int
    threads: int
    callers: int
    device: AllowedDevice = "auto"
    threads_chosen: bool = False


class MoreArms(Protocol):
    """Arms of another engine, which take turns with those of ONNX Runtime on the processor."""

    @property
    def asked_first(self) -> bool:
        """Where the time does not do for all, their questions come before ONNX Runtime's, not after."""
        ...

    @property
    def questions(self) -> Sequence[Question]:
        """What to compare them by, the more important ones first."""
        ...

    @property
    def not_measured(self) -> Sequence[NotMeasured]:
        """What they cannot answer."""
        ...

    def timed(self, images: NDArray[np.uint8]) -> list[TimedArm]:
        """The arms on images (B, S, S, 3)."""
        ...

    def bursts(self, images: NDArray[np.uint8], callers: int) -> list[TimedArm]:
        """The same for ``callers`` threads at once, or none; see ``in_bursts``."""
        ...

    def programs(self, imgsz: int, batch: int, folder: Path) -> dict[str, list[str]]:
        """By arm, what ``measure_peak`` is to run; ``folder`` may be written to."""
        ...


@dataclass(frozen=True)
class NoMoreArms:
    """ONNX Runtime alone, with the reasons for what that leaves open."""

    not_measured: Sequence[NotMeasured] = ()
    questions: Sequence[Question] = ()
    asked_first: bool = False

    def timed(self, images: NDArray[np.uint8]) -> list[TimedArm]:
        """None."""
        return []

    def bursts(self, images: NDArray[np.uint8], callers: int) -> list[TimedArm]:
        """None."""
        return []

    def programs(self, imgsz: int, batch: int, folder: Path) -> dict[str, list[str]]:
        """None."""
        return {}


def run_study(
    place: Place,
    effort: Effort,
    *,
    more: MoreArms | None = None,
    progress: Progress | None = None,
    traffic: Traffic | None = None,
) -> LatencyReport:
    """Measure latency, and if asked throughput and memory, on every device ONNX Runtime has and ``place`` allows.

    What cannot be measured is named in the report with the reason. Only what every report needs, folding on the
    processor, makes the whole fail.

    Args:
        more: arms of another engine. Where one raises OptionalArmFailed, all of them are left out from there on.
        progress, traffic: what to tell, and to give way to.

    Raises:
        MeasurementRefused: too few rounds are asked for, there is nothing to compare on the processor, or
            ``traffic`` ended it.
    """
    require_rounds(effort.rounds)
    started = time.monotonic()
    study = _Study(place, effort, more or NoMoreArms(), progress or (lambda *_: None), traffic or NoTraffic())
    with tempfile.TemporaryDirectory(prefix="yolofold-") as folder:
        study.run(Path(folder))
    return LatencyReport(
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        imgsz=place.imgsz,
        threads=place.threads,
        duration_s=round(time.monotonic() - started, 3),
        machine=describe_machine(),
        series=study.series,
        memory=study.memory,
        not_measured=study.not_measured,
    )


class _Study:
    """Collects the parts of one report."""

    def __init__(self, place: Place, effort: Effort, more: MoreArms, progress: Progress, traffic: Traffic) -> None:
        self._place, self._effort, self._progress, self._traffic = place, effort, progress, traffic
        self._more = more
        self._making_ready_since = time.monotonic()
        self.series: list[Series] = []
        self.memory: list[PeakMemory] = []
        self.not_measured = list(more.not_measured)
        devices = measured_devices(place.device, installed_providers())
        self._devices = devices if effort.thorough else devices[:1]

    def run(self, folder: Path) -> None:
        """Measure everything; ``folder`` is for temporary files."""
        self._measure_device("cpu", folder)
        for device in self._devices[1:]:
            with self._optional(device, _FOLDING_ON[device]):
                self._measure_device(device, folder)
        if not self._effort.thorough:
            self._leave_out()
        elif "cuda" not in self._devices:
            self._give_reason("cuda", _FOLDING_ON["cuda"], _FORBIDDEN if self._place.device == "cpu" else _NO_CUDA)

    def _measure_device(self, device: Device, folder: Path) -> None:
        place = self._place
        self._traffic.wait_until_quiet()
        self._making_ready_since = time.monotonic()
        arms = folding_arms(place.reference, place.deployed, place.threads, device)
        questions = list(RUNTIME_QUESTIONS)
        if self._effort.thorough:
            outside = self._preprocessing_arms(device, folder)
            arms += outside
            questions += PREPROCESSING_QUESTIONS if outside else ()
        for batch in self._effort.batches:
            self._measure_latency(device, batch, arms, questions)
        if self._effort.thorough:
            for batch in self._effort.batches:
                with self._optional("throughput", f"{_THROUGHPUT} Batch {batch}."):
                    self._measure_throughput(device, batch, arms)
            self._measure_memory(device, arms, folder)

    def _preprocessing_arms(self, device: Device, folder: Path) -> list[GraphArm]:
        """None where the graph cannot be cut, or the cut one not be kept; then with the reason."""
        without = folder / "without_preprocessing.onnx"
        try:
            write_float_input(self._place.deployed, without)
            return preprocessing_arms(without, self._place.threads, device)
        except (MeasurementRefused, OSError) as error:
            for question in PREPROCESSING_QUESTIONS:
                self._give_reason(question.name, question.question, str(error))
            return []

    def _measure_latency(
        self, device: Device, batch: int, graph_arms: list[GraphArm], questions: Sequence[Question]
    ) -> None:
        images = random_images(self._place.imgsz, batch)
        arms = [arm.timed(images) for arm in graph_arms]
        more = self._more.timed(images) if device == "cpu" else []
        self._measure(arms, questions, more, Workload("latency", device, batch))

    def _measure_throughput(self, device: Device, batch: int, graph_arms: list[GraphArm]) -> None:
        images, callers = random_images(self._place.imgsz, batch), self._place.callers
        arms = [burst_arm(arm, images, callers) for arm in graph_arms if arm.name in THROUGHPUT_ARMS]
        more = self._more.bursts(images, callers) if device == "cpu" else []
        workload = Workload("throughput", device, batch, callers, RUNS_PER_CALLER)
        self._measure(arms, THROUGHPUT_QUESTIONS, more, workload)

    def _measure(
        self, arms: Sequence[TimedArm], questions: Sequence[Question], more: Sequence[TimedArm], workload: Workload
    ) -> None:
        """Measure a series with the arms ``more``; where one of those fails, anew without them."""
        asked_of_more = self._more.questions if more else ()
        parts = (asked_of_more, questions) if self._more.asked_first else (questions, asked_of_more)
        try:
            self._measure_series([*more, *arms], [question for part in parts for question in part], workload)
            return
        except OptionalArmFailed as error:
            reason = f"{_stage(workload)}: {error}"
        for question in asked_of_more:
            self._give_reason(question.name, question.question, reason)
        self._more = NoMoreArms()
        self._measure_series(arms, questions, workload)

    def _measure_series(self, arms: Sequence[TimedArm], questions: Sequence[Question], workload: Workload) -> None:
        stage, before = _stage(workload), self._rounds_done
        self._progress(stage, before, self._rounds_wanted)
        budget_s = self._effort.budget_s - (time.monotonic() - self._making_ready_since)
        try:
            measured = measure_series(
                arms,
                workload=workload,
                null_control=NULL_CONTROL,
                questions=questions,
                rounds=self._effort.rounds,
                budget_s=budget_s,
                progress=lambda done, _: self._progress(stage, before + done, self._rounds_wanted),
                traffic=self._traffic,
            )
        finally:
            self._making_ready_since = time.monotonic()
        self.series.append(measured.series)
        reason = _TOO_SLOW.format(stage=stage, seconds=self._effort.budget_s)
        for question in measured.given_up:
            self._give_reason(question.name, question.question, reason)

    @property
    def _rounds_done(self) -> int:
        """Those of finished series count in full, though the budget may have cut some."""
        return whole_sessions(self._effort.rounds) * len(self.series)

    @property
    def _rounds_wanted(self) -> int:
        return self._effort.rounds_on_each_device * len(self._devices)

    def _measure_memory(self, device: Device, graph_arms: list[GraphArm], folder: Path) -> None:
        if device != "cpu":
            self._give_reason("peak_memory", _PEAK_MEMORY, _HOST_ONLY)
            return
        arms = [arm for arm in graph_arms if arm.name != NULL_CONTROL.candidate]
        for batch in sorted({1, self._effort.batches[-1]}):
            programs: dict[str, list[str]] = {}
            with self._optional("peak_memory", f"{_PEAK_MEMORY} Batch {batch}."):
                programs |= self._more.programs(self._place.imgsz, batch, folder)
            programs |= {arm.name: session_peak.program(arm, self._place.imgsz, batch) for arm in arms}
            for arm, program in programs.items():
                self._progress(f"peak memory, batch {batch}", self._rounds_done, self._rounds_wanted)
                with self._optional("peak_memory", f"How much memory does {arm} take at most, batch {batch}?"):
                    self._traffic.wait_until_quiet()
                    self.memory.append(measure_peak(arm, batch, program, self._traffic.require_wanted))

    def _leave_out(self) -> None:
        left = {question.name: question.question for question in PREPROCESSING_QUESTIONS}
        left |= {"throughput": _THROUGHPUT, "peak_memory": _PEAK_MEMORY}
        for name, question in left.items():
            self._give_reason(name, question, LEFT_OUT)

    @contextmanager
    def _optional(self, name: str, question: str) -> Iterator[None]:
        """Report what goes wrong inside as not measured, unless somebody asked for the end."""
        try:
            yield
        except MeasurementCancelled:
            raise
        except (MeasurementRefused, OSError) as error:
            self._give_reason(name, question, str(error))

    def _give_reason(self, name: str, question: str, reason: str) -> None:
        self.not_measured.append(NotMeasured(name=name, question=question, reason=reason))


def _stage(workload: Workload) -> str:
    return f"{workload.kind} on {workload.device}, batch {workload.batch}"

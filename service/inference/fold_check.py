"""The graph that kept its BatchNorm and the deployed one, side by side on one picture."""

import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.bundle.store import Bundle
from service.comparison import Difference, Tolerance, measure_difference, pair_rows
from service.errors import Overloaded
from service.inference.detections import Detections, select_detections
from service.inference.detector import Detector
from service.inference.engine import FLOAT32, Device, InferenceEngine, Precision
from service.inference.onnxruntime_engine import OnnxRuntimeEngine, UnfoldedEngine
from service.inference.self_check import engine_tolerance
from service.preprocessing.letterbox import Letterbox

#: Timed runs of each graph, after one of each that is not.
ROUNDS = 5
_RETRY_AFTER_S = 2


@dataclass(frozen=True)
class EngineName:
    """What ran a graph; see ``InferenceEngine``."""

    provider: str
    runtime: str
    precision: Precision


@dataclass(frozen=True)
class FoldCheckResult:
    """What both graphs answer to one picture of ``width`` x ``height`` upright pixels.

    Attributes:
        reference: detections of the graph that kept its BatchNorm.
        deployed: detections of the graph that is served.
        reference_engine: what ran the former.
        deployed_engine: what ran the latter.
        matched: how many belong together.
        only_in_reference: reference detections without a partner.
        only_in_deployed: deployed detections without a partner.
        borderline: of these two, how many lie so near the threshold that rounding decides.
        difference: largest differences among those matched; boxes in pixels of the picture.
        tolerance: what rounding may amount to between two runs of this engine; boxes in pixels of the picture.
        reference_ms: median time of one run, milliseconds.
        deployed_ms: the same.
        load_ms: time it took to load what did not run already.
    """

    width: int
    height: int
    reference: Detections
    deployed: Detections
    reference_engine: EngineName
    deployed_engine: EngineName
    matched: int
    only_in_reference: int
    only_in_deployed: int
    borderline: int
    difference: Difference
    tolerance: Tolerance
    reference_ms: float
    deployed_ms: float
    load_ms: float

    @property
    def agrees(self) -> bool:
        """Nothing differs by more than rounding."""
        return (
            self.only_in_reference + self.only_in_deployed == self.borderline
            and self.difference.box_px <= self.tolerance.box_px
            and self.difference.score <= self.tolerance.score
        )


class FoldChecker:
    """Lets one check at a time load the reference graph, whose memory is given back when the check ends."""

    def __init__(
        self,
        bundle: Bundle,
        detector: Detector,
        engine: InferenceEngine,
        device: Device,
        make_room: Callable[[], None] = lambda: None,
    ) -> None:
        """Compare ``bundle``'s reference graph, in ONNX Runtime, with its deployed graph in ``engine``.

        Args:
            device: where ONNX Runtime runs; the same as the engine's.
            make_room: called before graphs are loaded, and when they are not needed any more.
        """
        self._bundle, self._detector, self._engine, self._device = bundle, detector, engine, device
        self._make_room = make_room
        self._turn = threading.Lock()

    def require_free(self) -> None:
        """Check whether a turn could be had now.

        Raises:
            Overloaded: another check has not ended.
        """
        if self._turn.locked():
            raise _occupied()

    @contextmanager
    def turn(self) -> Iterator["FoldCheck"]:
        """One check, closed when the block ends.

        Raises:
            Overloaded: another check has not ended.
        """
        if not self._turn.acquire(blocking=False):
            raise _occupied()
        check = FoldCheck(self._bundle, self._detector, self._open_graphs, self._turn.release, self._make_room)
        try:
            yield check
        finally:
            check.close()

    def _open_graphs(self) -> tuple[InferenceEngine, InferenceEngine]:
        """Reference and deployed graph, the latter as it is served unless rounding would hide what folding changes."""
        self._make_room()
        threads = self._engine.threads
        reference = UnfoldedEngine(self._bundle.reference_graph, self._device, threads)
        if self._engine.precision in FLOAT32:
            return reference, self._engine.layouts[0]  # with as many threads as the reference, whatever else runs
        return reference, OnnxRuntimeEngine(self._bundle.deployed_graph, self._device, threads)


class FoldCheck:
    """One comparison in steps short enough for live requests to take turns with them: ``load``, then ``run_round``
    ``ROUNDS`` + 1 times, then ``result``.

    Steps run on worker threads; ``close`` may come from another while one is still running, and then that step
    gives the memory back at its end.
    """

    def __init__(
        self,
        bundle: Bundle,
        detector: Detector,
        open_graphs: Callable[[], tuple[InferenceEngine, InferenceEngine]],
        on_end: Callable[[], None],
        make_room: Callable[[], None],
    ) -> None:
        """Made by ``FoldChecker.turn``; ``on_end`` is called once, when nothing runs any more."""
        self._make_room = make_room
        self._bundle, self._detector, self._open_graphs = bundle, detector, open_graphs
        self._on_end: Callable[[], None] | None = on_end
        self._step_runs = threading.Lock()
        self._is_closed = False
        self._reference: InferenceEngine | None = None
        self._deployed: InferenceEngine | None = None
        self._names: tuple[EngineName, EngineName] | None = None
        self._tolerance = Tolerance(0.0, 0.0)
        self._picture: tuple[Letterbox, NDArray[np.uint8]] | None = None
        self._rows: dict[str, NDArray[np.float32]] = {}
        self._seconds: dict[str, list[float]] = {"reference": [], "deployed": []}
        self._load_s = 0.0

    def load(self, data: bytes) -> None:
        """Decode one image file and load what does not run yet.

        Raises:
            ImageError: the bytes are not an acceptable picture; the subclass says why.
            EngineError: a graph cannot be loaded.
        """
        self._step(lambda: self._load(data))

    def run_round(self) -> None:
        """Run each graph once; which comes first alternates. The first round is not timed.

        Raises:
            EngineError: the runtime failed.
        """
        self._step(self._run_round)

    def result(self, conf: float) -> FoldCheckResult:
        """Compare the detections above ``conf``. What was loaded is not needed any more and freed here."""
        assert self._picture is not None and self._names is not None
        self._reference = self._deployed = None
        self._make_room()
        plan, _ = self._picture
        reference, deployed = (self._select(name, plan, conf) for name in ("reference", "deployed"))
        expected, found = _as_rows(reference), _as_rows(deployed)
        pairing = pair_rows(expected, found)
        tolerance = _in_picture(self._tolerance, plan)
        alone = np.concatenate([expected[pairing.only_expected], found[pairing.only_found]])[:, 4]
        cut = self._cut(conf, reference, deployed)
        return FoldCheckResult(
            *plan.source_wh,
            reference=reference,
            deployed=deployed,
            reference_engine=self._names[0],
            deployed_engine=self._names[1],
            matched=len(pairing),
            only_in_reference=len(pairing.only_expected),
            only_in_deployed=len(pairing.only_found),
            borderline=int((alone <= cut + tolerance.confidence(cut)).sum()),
            difference=measure_difference(expected[pairing.expected], found[pairing.found]),
            tolerance=tolerance,
            reference_ms=statistics.median(self._seconds["reference"]) * 1e3,
            deployed_ms=statistics.median(self._seconds["deployed"]) * 1e3,
            load_ms=self._load_s * 1e3,
        )

    def close(self) -> None:
        """Give the memory of what was loaded back, now or at the end of the step that runs. Never waits."""
        self._is_closed = True
        self._give_back()

    def _step(self, work: Callable[[], None]) -> None:
        try:
            with self._step_runs:
                if not self._is_closed:
                    work()
        finally:
            if self._is_closed:
                self._give_back()

    def _give_back(self) -> None:
        if not self._step_runs.acquire(blocking=False):
            return  # the step that holds it comes here itself
        try:
            self._reference = self._deployed = None
            if self._on_end is not None:
                self._on_end()
                self._on_end = None
        finally:
            self._step_runs.release()

    def _load(self, data: bytes) -> None:
        # The picture first: one that is refused should not cost loading a graph.
        self._picture = self._detector.fit(data)
        started = time.perf_counter()
        self._reference, self._deployed = self._open_graphs()
        self._load_s = time.perf_counter() - started
        self._names = _name(self._reference), _name(self._deployed)
        self._tolerance = engine_tolerance(self._bundle, self._deployed)

    def _run_round(self) -> None:
        assert self._picture is not None and self._reference is not None and self._deployed is not None
        engines = [("reference", self._reference), ("deployed", self._deployed)]
        is_first = not self._rows
        if len(self._seconds["deployed"]) % 2:
            engines.reverse()
        for name, engine in engines:
            started = time.perf_counter()
            self._rows[name] = engine.run(self._picture[1][None])[0]
            if not is_first:
                self._seconds[name].append(time.perf_counter() - started)

    def _select(self, name: str, plan: Letterbox, conf: float) -> Detections:
        return select_detections(self._rows[name], plan, conf=conf, max_det=self._bundle.manifest.model.head.max_det)

    def _cut(self, conf: float, *found: Detections) -> float:
        """The confidence that decides what is answered: a full answer was cut off at its weakest."""
        full = [f for f in found if len(f) == self._bundle.manifest.model.head.max_det]
        return max([conf, *(float(f.confidence.min()) for f in full)])


def _name(engine: InferenceEngine) -> EngineName:
    return EngineName(engine.provider, engine.runtime, engine.precision)


def _occupied() -> Overloaded:
    return Overloaded("Another fold check is running; one runs at a time.", _RETRY_AFTER_S)


def _as_rows(found: Detections) -> NDArray[np.float32]:
    return np.column_stack([found.xyxy, found.confidence, found.class_id]).astype(np.float32)


def _in_picture(tolerance: Tolerance, plan: Letterbox) -> Tolerance:
    """What two runs may differ by, each of which may stray from the exact answer; pixels of the picture."""
    gain = min(side / source for side, source in zip(plan.resized_wh, plan.source_wh, strict=True))
    return Tolerance(2 * tolerance.box_px / gain, 2 * tolerance.score)

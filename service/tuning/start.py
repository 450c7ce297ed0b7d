"""The engine that serves: as the settings say, or as measured; either way it has to pass the start-up check."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from service.bundle.store import Bundle
from service.errors import EngineNotMeasured, fault_in_words
from service.inference.engine import InferenceEngine
from service.inference.engine_choice import open_engine
from service.inference.self_check import StartupCheck, check_engine
from service.machine import look_at_others, usable_cores, was_busy
from service.settings import Settings
from service.tuning.candidates import plain_settings
from service.tuning.fingerprint import take_fingerprint
from service.tuning.memory import ChoiceMemory
from service.tuning.process import measure_apart
from service.tuning.records import CandidateResult, EngineChoice

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choice:
    """A choice and where it comes from.

    Attributes:
        remembered: it was made at an earlier start.
        kept_in: the file that the next start will find it in; None where it could not be kept.
        not_kept: why not; None where it could be.
    """

    made: EngineChoice
    remembered: bool
    kept_in: Path | None
    not_kept: str | None

    @property
    def provisional(self) -> bool:
        """Measured while other work kept the machine busy: it holds only as long as that goes on."""
        return was_busy(self.made.other_cores)

    @property
    def line(self) -> str:
        """For the first lines that ``serve`` prints."""
        made, best = self.made, self.made.chosen
        measured = sum(result.measured for result in made.candidates)
        objective = made.fingerprint.objective
        return (
            f"chosen from {measured} measured for {objective}: {best.images_per_second:.1f} images/s, "
            f"{best.latency_ms:.1f} ms{_against_plain(made)}; {self._origin}"
        )

    @property
    def _origin(self) -> str:
        made = self.made
        busy = f" while the machine was busy ({_other_work(made)})" if self.provisional else ""
        if self.remembered:
            until = f", measured{busy}; it is busy now, too, and the first quiet start measures again" if busy else ""
            return f"remembered from {made.measured_at}{until}"
        origin = f"measured in {made.measured_in_s:.1f} s{busy}"
        if self.kept_in is None:
            return f"{origin}, not kept ({self.not_kept}): every start measures. YOLOFOLD_STATE_DIR may name a folder"
        until = " until the first quiet start, which measures again" if busy else ""
        return f"{origin}, kept in {self.kept_in}{until}"


def _other_work(made: EngineChoice) -> str:
    """How busy the machine was otherwise, in words."""
    return f"{made.other_cores:.1f} cores with other work"


def _against_plain(made: EngineChoice) -> str:
    """How the chosen one compares with fp32 ONNX Runtime on every core, where that was measured."""
    plain = next(iter(made.candidates), None)
    if plain is None or not _comparable(plain) or plain.verdict == "chosen":
        return ""
    best = made.chosen
    assert plain.images_per_second and plain.latency_ms and best.images_per_second and best.latency_ms
    return (
        f" ({best.images_per_second / plain.images_per_second:.2f} and {plain.latency_ms / best.latency_ms:.2f} times "
        "as fast as fp32 ONNX Runtime)"
    )


def _comparable(result: CandidateResult) -> bool:
    return result.measured and result.candidate.kind == ("onnxruntime", "cpu", "fp32")


@dataclass(frozen=True)
class StartedEngine:
    """An engine that passed the start-up check.

    Attributes:
        settings: those of the operator, with ``auto`` settled.
        workers: requests to work on at once.
        choice: None unless the engine was chosen by measurement.
        warning: why none was, though the settings ask for it; None where all is as they say.
    """

    engine: InferenceEngine
    settings: Settings
    workers: int
    check: StartupCheck
    choice: Choice | None
    warning: str | None = None


def start_engine(bundle: Bundle, settings: Settings, cores: int) -> StartedEngine:
    """Load what the settings ask for and check its answer to the stored picture.

    Where the process that measures dies, plain ONNX Runtime serves, as far as the settings allow that: a service that
    a restart cannot bring up is worse than one that is not the fastest. Nothing of that is remembered.

    Args:
        cores: that this process may use.

    Raises:
        SettingsError: the settings of the engine contradict each other.
        EngineError: the network cannot be loaded or run, computes something else here (SelfCheckFailed), or no engine
            could be chosen.
        BundleSchemaError: the stored picture or answer cannot be read.
    """
    if settings.engine != "auto":
        return _start(bundle, settings, settings, cores)
    try:
        return _start_measured(bundle, settings, cores)
    except EngineNotMeasured as error:
        plain = plain_settings(settings)
        if plain is None:
            raise
        warning = f"{error} Meanwhile ONNX Runtime serves in fp32, and the next start measures again."
        log.warning(warning)
    return replace(_start(bundle, settings, plain, cores), warning=warning)


def _start_measured(bundle: Bundle, settings: Settings, cores: int) -> StartedEngine:
    choice = make_choice(bundle, settings, cores)
    try:
        return _start(bundle, settings, choice.made.chosen.candidate.settle(settings), cores, choice)
    except Exception as error:
        if not choice.remembered:
            raise
        log.warning(
            "%s no longer works and is measured anew: %s", choice.made.chosen.candidate.title, fault_in_words(error)
        )
    choice = make_choice(bundle, settings, cores, anew=True)
    return _start(bundle, settings, choice.made.chosen.candidate.settle(settings), cores, choice)


def settle_engine(bundle: Bundle, settings: Settings) -> Settings:
    """For commands that want the boxes that are served: ``YOLOFOLD_ENGINE=auto`` replaced by what serves ``bundle``
    here, measured if need be. How the cores are shared out changes no boxes and is left as it is.

    Raises:
        EngineError: no engine could be chosen.
    """
    if settings.engine != "auto":
        return settings
    settled = make_choice(bundle, settings, usable_cores()).made.chosen.candidate.settle(settings)
    kept = {name: getattr(settings, name) for name in ("threads", "workers", "max_batch_size")}
    return settled.model_copy(update=kept)


def make_choice(
    bundle: Bundle,
    settings: Settings,
    cores: int,
    *,
    anew: bool = False,
    look: Callable[[], float | None] = look_at_others,
) -> Choice:
    """The choice kept from an earlier start, or else one measured now and kept.

    What was measured on a busy machine should not decide for good, and on one that always is, not every start should
    take the time to measure. So such a choice is used where the machine is busy again, and else replaced.

    Args:
        anew: pass over what is kept.
        look: how many cores other work keeps busy now; asked only about a choice that was measured on a busy machine.

    Raises:
        EngineError: no engine could be chosen.
    """
    fingerprint = take_fingerprint(bundle, settings, cores)
    memory = ChoiceMemory(bundle, settings, fingerprint)
    kept, unusable = (None, None) if anew else memory.recall()
    if kept is not None and was_busy(kept.other_cores) and not was_busy(look()):
        unusable = f"it was measured while the machine was busy ({_other_work(kept)}), which it is not now"
        kept = None
    if kept is not None:
        return Choice(kept, remembered=True, kept_in=memory.path, not_kept=None)
    if unusable:
        log.warning("The engine is chosen anew, since %s is not used: %s", memory.path, unusable)
    made = measure_apart(bundle, settings, fingerprint)
    obstacle = memory.keep(made)
    return Choice(made, remembered=False, kept_in=None if obstacle else memory.path, not_kept=obstacle)


def _start(
    bundle: Bundle, asked: Settings, settled: Settings, cores: int, choice: Choice | None = None
) -> StartedEngine:
    """``asked`` is what the operator set, ``settled`` the same without ``auto``."""
    runs = settled.workers_on(cores)
    engine = open_engine(bundle, settled, cores=cores, workers=runs)
    # A worker that only waits for its run leaves its core to one that decodes. With batches there are such already.
    waits = engine.runs_apart and settled.max_batch_size <= 1
    workers = 2 * runs if waits and not asked.workers else runs
    return StartedEngine(engine, settled, workers, check_engine(bundle, engine), choice)

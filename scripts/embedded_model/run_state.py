"""What a training run keeps beside Ultralytics' own files, so that it can be interrupted, resumed and repeated.

`start.json` says what the run began with; `progress.jsonl` holds one line per checkpoint: its epoch, the seconds of
training behind it and its training steps. Both lie in the run's folder.
"""

from __future__ import annotations

import csv
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from scripts.embedded_model.metrics import Provenance, provenance_of, read_metrics
from scripts.embedded_model.run_files import append_line, read_lines, sha256_of, write_lines, write_whole

LAST = Path("weights", "last.pt")
HISTORY = "bn-history.jsonl"
RESULTS = "results.csv"
METRICS = "metrics.json"
WEIGHTS = "yolo26n-codes.pt"
#: Below the run's folder: what it made, as it is to be shipped.
RELEASE = "release"

_START = "start.json"
_PROGRESS = "progress.jsonl"


class RunRefused(Exception):
    """The command cannot go on with what lies in its folder; the message says what to do."""


@dataclass(frozen=True)
class Start:
    """What a run began with: the SHA-256 of a checkpoint and how that came about, or None for random weights.

    ``one2one_alone`` says that only the one-to-one head is trained.
    """

    sha256: str | None
    earlier: Provenance | None
    one2one_alone: bool = False


@dataclass(frozen=True)
class Progress:
    """Behind one checkpoint: finished epochs, seconds of training over all sessions, steps of the optimizer."""

    epoch: int
    seconds: float
    step: int


def open_run(run: Path, start_from: Path | None, one2one_alone: bool = False) -> Start:
    """What the run began with. A run without a checkpoint begins here and now.

    Args:
        start_from: the checkpoint named by the command, or None. What the run made may have taken its place.
        one2one_alone: whether the command trains that head alone.

    Raises:
        RunRefused: the run began with something else, or does not say with what.
    """
    if start_from is not None and not start_from.is_file():
        raise RunRefused(f"--start-from: there is no file {start_from}.")
    if not (run / LAST).exists():
        return _begin(run, start_from, one2one_alone)
    if not (run / _START).exists():
        raise RunRefused(
            f"{run} holds a checkpoint but no {_START}: an older version of this command made it. If you know that "
            f"it began with what --start-from says (or, without, with random weights), repeat the command with --adopt."
        )
    stored = json.loads((run / _START).read_text())
    earlier = provenance_of(stored["earlier"]) if stored["earlier"] else None
    start = Start(stored["sha256"], earlier, stored.get("one2one_alone", False))
    if start.one2one_alone != one2one_alone:
        raise RunRefused(
            f"The run in {run} began {'with' if start.one2one_alone else 'without'} --one2one-alone. Repeat the "
            "command as it was to go on, or give another --work for another run."
        )
    given, made = (None if file is None else sha256_of(file) for file in (start_from, _made_by(run)))
    if given != start.sha256 and (made is None or given != made):
        raise RunRefused(
            f"The run in {run} began with {_named(start.sha256)}, but --start-from gives {_named(given)}. Give it what "
            "it began with to go on, or another --work for another run."
        )
    return start


def _made_by(run: Path) -> Path | None:
    weights = run / RELEASE / WEIGHTS
    return weights if weights.exists() else None


def _named(sha256: str | None) -> str:
    return "random weights" if sha256 is None else f"weights of SHA-256 {sha256}"


def _begin(run: Path, start_from: Path | None, one2one_alone: bool) -> Start:
    for leftover in (HISTORY, _PROGRESS, RESULTS):
        (run / leftover).unlink(missing_ok=True)
    return _note_start(run, start_from, one2one_alone)


def _note_start(run: Path, start_from: Path | None, one2one_alone: bool) -> Start:
    start = replace(Start(None, None) if start_from is None else _start_at(start_from), one2one_alone=one2one_alone)
    write_whole(run / _START, json.dumps(asdict(start), indent=1) + "\n")
    return start


def _start_at(checkpoint: Path) -> Start:
    sha256, figures = sha256_of(checkpoint), checkpoint.with_name(METRICS)
    if not figures.exists():
        raise RunRefused(f"{figures} is missing: it says how the weights of --start-from came about.")
    metrics = read_metrics(figures)
    if metrics.weights_sha256 not in (None, sha256):
        raise RunRefused(f"{figures} is about other weights than {checkpoint}, which lies beside it.")
    return Start(sha256, metrics.provenance)


def note_progress(run: Path, progress: Progress) -> None:
    """Note what lies behind a checkpoint; call it before the checkpoint itself is written."""
    append_line(run / _PROGRESS, asdict(progress))


def read_progress(run: Path, epoch: int | None) -> Progress:
    """What lies behind the checkpoint of so many epochs (None: the last one noted). Later lines are dropped.

    Raises:
        RunRefused: nothing was noted about it.
    """
    lines = [line for line in read_lines(run / _PROGRESS) if epoch is None or line["epoch"] <= epoch]
    if not lines or (epoch is not None and lines[-1]["epoch"] != epoch):
        raise RunRefused(
            f"{run / _PROGRESS} says nothing about the checkpoint in {run}. Repeat the command with --adopt to take "
            f"its times from {RESULTS}."
        )
    write_lines(run / _PROGRESS, lines)
    return Progress(**lines[-1])


def adopt_run(run: Path, start_from: Path | None, hours: float, one2one_alone: bool = False) -> None:
    """Write the files that a run with a checkpoint lacks because something else than this command made it.

    `start.json` is written from `start_from`, taken on trust, and the progress from Ultralytics' results. Their clock
    restarts with every session, which is only seen where it falls; the steps are those of the BatchNorm history, as
    far as its share of `hours` reaches.

    Raises:
        RunRefused: there are no results to take the times from.
    """
    if not (run / LAST).exists():
        return
    if not (run / _START).exists():
        _note_start(run, start_from, one2one_alone)
    if not (run / _PROGRESS).exists():
        if not (run / RESULTS).exists():
            raise RunRefused(f"{run} holds a checkpoint but no {RESULTS}, which would say how long it took.")
        write_lines(run / _PROGRESS, [asdict(line) for line in _progress_of_results(run, hours)])


def _progress_of_results(run: Path, hours: float) -> list[Progress]:
    samples, found = read_lines(run / HISTORY), []
    base = previous = 0.0
    for row in _results(run):
        now = float(row["time"])
        if now < previous:
            base += previous
        previous = now
        steps = [line["step"] for line in samples if line["share"] * hours * 3600 <= base + now]
        found.append(Progress(int(row["epoch"]), base + now, max(steps, default=0)))
    return found


def epoch_map50(run: Path) -> tuple[float, ...]:
    """mAP50 on the val split after each epoch; of an epoch that was repeated after an interruption, the later one."""
    by_epoch = {int(row["epoch"]): round(float(row["metrics/mAP50(B)"]), 4) for row in _results(run)}
    return tuple(value for _, value in sorted(by_epoch.items()))


def _results(run: Path) -> list[dict[str, str]]:
    with (run / RESULTS).open() as file:
        return list(csv.DictReader(file))

"""Make the embedded model from nothing: draw pictures, train, measure, write the shipped files.

python -m scripts.train_embedded                 # the whole run; repeat the command to resume it
python -m scripts.train_embedded --samples       # only the example pictures
python -m scripts.train_embedded --defaults      # only choose the default head and confidence of the shipped weights
python -m scripts.train_embedded --card          # only write the model card anew from metrics.json

Pictures and a run in --work that older or other code made are refused unless --adopt vouches for them.
Needs the extras prepare, train and evaluate; requirements/dev.txt holds them all.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scripts.embedded_model.defaults import Defaults
    from scripts.embedded_model.metrics import Provenance

# All three must be set before torch and ultralytics are imported: stay offline, install nothing, and let
# idle OpenMP threads sleep instead of spinning on the core that another process needs.
os.environ.setdefault("YOLO_OFFLINE", "true")
os.environ.setdefault("YOLO_AUTOINSTALL", "false")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

REPOSITORY = Path(__file__).resolve().parent.parent
SHIPPED = REPOSITORY / "service" / "weights"
CARD = "MODEL_CARD.md"
FAILURES = "failures.jpg"
DATA_SEED = 2026
VAL_PICTURES = 240
#: That the default head and confidence are chosen on, those of val first. F1 is flat about its maximum: on 240 pictures
#: two runs of nearly the same weights had it at 0.44 and 0.55.
CONFIDENCE_PICTURES = 1200


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--samples", action="store_true", help="only write the example pictures to samples/")
    only.add_argument("--defaults", action="store_true", help="only measure and note the default head and confidence")
    only.add_argument("--card", action="store_true", help="only write the model card from the shipped metrics.json")
    parser.add_argument("--work", type=Path, default=Path("build/embedded-model"), help="pictures and checkpoints")
    parser.add_argument("--hours", type=float, default=1.28, help="length of the training schedule")
    parser.add_argument("--start-from", type=Path, help="checkpoint whose weights a new run begins with")
    parser.add_argument(
        "--average-start", action="store_true", help="ship the mean of what the run ends with and --start-from"
    )
    parser.add_argument(
        "--one2one-alone", action="store_true", help="train the one-to-one head and leave the rest of --start-from"
    )
    parser.add_argument("--pictures", type=int, default=10_000, help="generated training pictures")
    parser.add_argument(
        "--first-picture",
        type=int,
        default=0,
        metavar="INDEX",
        help="of the generated training pictures; past those of an earlier run, all of them are new to its weights",
    )
    parser.add_argument("--held-out", type=int, default=500, help="generated test pictures")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="processes and torch threads")
    parser.add_argument(
        "--note",
        action="append",
        default=[],
        metavar="TEXT",
        help="say this about the run in its provenance and on the card (repeatable); with --card, of the shipped one",
    )
    parser.add_argument(
        "--adopt",
        action="store_true",
        help="take what lies in --work for what this command would have made, whatever made it, and note so there",
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = _parser().parse_args(sys.argv[1:] if argv is None else argv)
    from scripts.embedded_model.data_stamp import DataRefused
    from scripts.embedded_model.run_state import RunRefused

    try:
        _run(options)
    except (DataRefused, RunRefused) as error:
        print(f"train_embedded: {error}", file=sys.stderr)
        return 1
    return 0


def _run(options: argparse.Namespace) -> None:
    from scripts.embedded_model.run_state import RunRefused

    if options.one2one_alone and options.start_from is None:
        raise RunRefused("--one2one-alone: a network of random weights has nothing to leave; give --start-from.")
    if options.card:
        _rewrite_card(options.note)
    elif options.defaults:
        print(_note_defaults(options))
    else:
        from scripts.embedded_model.samples import write_samples

        samples = write_samples(REPOSITORY / "samples")
        if options.samples:
            print(*samples, sep="\n")
        else:
            _build(options)


def _rewrite_card(notes: list[str]) -> None:
    from scripts.embedded_model.card import write_card
    from scripts.embedded_model.metrics import read_metrics, write_metrics
    from scripts.embedded_model.run_state import METRICS

    metrics = read_metrics(SHIPPED / METRICS)
    made = replace(metrics.provenance, notes=(*metrics.provenance.notes, *notes))
    metrics = replace(metrics, provenance=made)
    write_metrics(SHIPPED / METRICS, metrics)
    write_card(SHIPPED / CARD, metrics)


def _note_defaults(options: argparse.Namespace) -> str:
    from scripts.embedded_model.card import write_card
    from scripts.embedded_model.metrics import read_metrics, write_metrics
    from scripts.embedded_model.run_state import METRICS, WEIGHTS

    found = _measure_defaults(SHIPPED / WEIGHTS, options.work.resolve(), options)
    metrics = replace(read_metrics(SHIPPED / METRICS), default_head=found.head, default_confidence=found.confidence)
    write_metrics(SHIPPED / METRICS, metrics)
    write_card(SHIPPED / CARD, metrics)
    head, confidence = found.head, found.confidence
    return f"{head.value}: {head.chosen}\n{confidence.value:g}: {confidence.chosen}"


def _measure_defaults(weights: Path, work: Path, options: argparse.Namespace) -> Defaults:
    from scripts.embedded_model.dataset import write_dataset
    from scripts.embedded_model.defaults import measure_defaults

    pictures = {"val": CONFIDENCE_PICTURES}
    data = write_dataset(work / "confidence-data", DATA_SEED, pictures, options.threads, options.adopt)
    return measure_defaults(weights, data, work)


def _build(options: argparse.Namespace) -> None:
    from scripts.embedded_model.dataset import write_dataset
    from scripts.embedded_model.run_files import put_in_place
    from scripts.embedded_model.run_state import HISTORY, METRICS, RELEASE, WEIGHTS, adopt_run, open_run
    from scripts.embedded_model.training import RUN_NAME, train

    work = options.work.resolve()
    run = work / RUN_NAME
    if options.adopt:
        adopt_run(run, options.start_from, options.hours, options.one2one_alone)
    begun = open_run(run, options.start_from, options.one2one_alone)  # before the pictures, which take their time
    _averaged_with(begun.sha256, options)
    data = write_dataset(
        work / "data", DATA_SEED, _counts(options), options.threads, options.adopt, options.first_picture
    )
    train(data, work, options.hours, options.threads, options.start_from, options.one2one_alone)
    _measure(run, data, options)
    names = (WEIGHTS, METRICS, CARD) + (() if options.one2one_alone else (HISTORY,))
    places = {run / RELEASE / name: SHIPPED / name for name in names}
    put_in_place(places | {run / RELEASE / FAILURES: REPOSITORY / "docs" / FAILURES})


def _counts(options: argparse.Namespace) -> dict[str, int]:
    return {"train": options.pictures, "val": VAL_PICTURES, "test": options.held_out}


def _measure(run: Path, data: Path, options: argparse.Namespace) -> None:
    """Export, measure and describe the weights of a finished run, all in the release folder of the run."""
    from scripts.embedded_model.card import write_card
    from scripts.embedded_model.checkpoint import export_checkpoint
    from scripts.embedded_model.evaluation import CONFIDENCE, HEADS, SIZES, evaluate
    from scripts.embedded_model.metrics import Metrics, machine, write_metrics
    from scripts.embedded_model.run_files import sha256_of
    from scripts.embedded_model.run_state import HISTORY, LAST, METRICS, RELEASE, WEIGHTS

    release = run / RELEASE
    made, weights = _provenance(run, options), release / WEIGHTS
    export_checkpoint(run / LAST, weights, _averaged_with(made.start_sha256, options))
    defaults = _measure_defaults(weights, run.parent, options)
    metrics = Metrics(
        weights_sha256=sha256_of(weights),
        machine=machine(),
        provenance=made,
        default_head=defaults.head,
        default_confidence=defaults.confidence,
        confidence_of_counts=CONFIDENCE,
        reports=tuple(evaluate(weights, data, head, size) for head in HEADS for size in SIZES),
    )
    write_metrics(release / METRICS, metrics)
    write_card(release / CARD, metrics)
    shutil.copyfile(run / HISTORY, release / HISTORY)
    _draw_failures(weights, data.parent, release / FAILURES)


def _averaged_with(start_sha256: str | None, options: argparse.Namespace) -> Path | None:
    """The checkpoint that the run started from, if it is wanted once more.

    Raises:
        RunRefused: it is not what the command gives.
    """
    from scripts.embedded_model.run_files import sha256_of
    from scripts.embedded_model.run_state import RunRefused

    if not options.average_start:
        return None
    start: Path | None = options.start_from
    if start is None or sha256_of(start) != start_sha256:
        raise RunRefused("--average-start: --start-from must give the weights that the run began with.")
    return start


def _provenance(run: Path, options: argparse.Namespace) -> Provenance:
    from scripts.embedded_model.metrics import Provenance
    from scripts.embedded_model.run_state import epoch_map50, open_run, read_progress
    from scripts.embedded_model.training import BASE_SIZE, TRAIN_SEED

    start, behind = open_run(run, options.start_from, options.one2one_alone), read_progress(run, None)
    return Provenance(
        command=recorded_command(options),
        data_seed=DATA_SEED,
        train_seed=TRAIN_SEED,
        pictures=_counts(options),
        epochs_begun=behind.epoch,
        minutes=round(behind.seconds / 60, 1),
        notes=tuple(options.note),
        earlier=start.earlier,
        start_sha256=start.sha256,
        epoch_map50=() if options.one2one_alone else epoch_map50(run),
        base_size=BASE_SIZE,
        averaged=options.average_start,
        one2one_alone=options.one2one_alone,
    )


def recorded_command(options: argparse.Namespace) -> str:
    """The command with what decides the weights, and without where and how fast it ran and what was said of it."""
    words = ["python -m scripts.train_embedded"]
    for name in ("hours", "pictures", "first_picture", "held_out"):
        if getattr(options, name) != _parser().get_default(name):
            words.append(f"--{name.replace('_', '-')} {getattr(options, name):g}")
    if options.start_from is not None:
        given = options.start_from.resolve()
        words.append(f"--start-from {given.relative_to(REPOSITORY) if given.is_relative_to(REPOSITORY) else given}")
    for name in ("average_start", "one2one_alone"):
        if getattr(options, name):
            words.append(f"--{name.replace('_', '-')}")
    return " ".join(words)


def _draw_failures(checkpoint: Path, data: Path, target: Path) -> None:
    import cv2

    from scripts.embedded_model.evaluation import answer_pictures
    from scripts.embedded_model.failures import draw_sheet, find_failures

    pictures = answer_pictures(checkpoint, data, "one2one", 640)  # as it is served by default
    failures = [failure for path, answered in pictures.items() for failure in find_failures(path, answered)]
    cv2.imwrite(str(target), draw_sheet(failures, pictures), [cv2.IMWRITE_JPEG_QUALITY, 85])


if __name__ == "__main__":
    raise SystemExit(main())

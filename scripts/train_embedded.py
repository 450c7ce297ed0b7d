"""Make the embedded model from nothing: draw pictures, train, measure, write the shipped files.

python -m scripts.train_embedded                 # the whole run; repeat the command to resume it
python -m scripts.train_embedded --samples       # only the example pictures
python -m scripts.train_embedded --confidence    # only choose the default confidence of the shipped weights anew

Needs the extras prepare, train and evaluate; requirements/dev.txt holds them all.
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import sys
from pathlib import Path

# All three must be set before torch and ultralytics are imported: stay offline, install nothing, and let
# idle OpenMP threads sleep instead of spinning on the core that another process needs.
os.environ.setdefault("YOLO_OFFLINE", "true")
os.environ.setdefault("YOLO_AUTOINSTALL", "false")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

REPOSITORY = Path(__file__).resolve().parent.parent
WEIGHTS = REPOSITORY / "service" / "weights"
SHIPPED = WEIGHTS / "yolo26n-codes.pt"
METRICS = "metrics.json"
DATA_SEED = 2026
VAL_PICTURES = 240


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", action="store_true", help="only write the example pictures to samples/")
    parser.add_argument("--confidence", action="store_true", help="only measure and note the default confidence")
    parser.add_argument("--work", type=Path, default=Path("build/embedded-model"), help="pictures and checkpoints")
    parser.add_argument("--hours", type=float, default=1.28, help="length of the training schedule")
    parser.add_argument("--start-from", type=Path, help="checkpoint whose weights a new run begins with")
    parser.add_argument("--pictures", type=int, default=10_000, help="generated training pictures")
    parser.add_argument("--held-out", type=int, default=500, help="generated test pictures")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="processes and torch threads")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    given = sys.argv[1:] if argv is None else argv
    options = _arguments(given)
    if options.confidence:
        print(_note_confidence(options))
        return 0
    from scripts.embedded_model.samples import write_samples

    samples = write_samples(REPOSITORY / "samples")
    if options.samples:
        print(*samples, sep="\n")
        return 0
    _build(options, " ".join(["python -m scripts.train_embedded", *given]))
    return 0


def _note_confidence(options: argparse.Namespace) -> str:
    from scripts.embedded_model.confidence import measure_confidence, note_confidence
    from scripts.embedded_model.dataset import write_dataset

    work = options.work.resolve()
    data = write_dataset(work / "data", DATA_SEED, {"val": VAL_PICTURES}, options.threads)
    found = measure_confidence(SHIPPED, data, work)
    note_confidence(WEIGHTS / METRICS, found)
    return f"{found.value:g}: {found.chosen}"


def _build(options: argparse.Namespace, command: str) -> None:
    from scripts.embedded_model.card import Provenance, read_provenance, write_card, write_metrics
    from scripts.embedded_model.checkpoint import export_checkpoint
    from scripts.embedded_model.confidence import measure_confidence
    from scripts.embedded_model.dataset import write_dataset
    from scripts.embedded_model.evaluation import HEADS, SIZES, evaluate
    from scripts.embedded_model.training import HISTORY, TRAIN_SEED, seconds_spent, train

    work, start = options.work.resolve(), options.start_from
    earlier = None if start is None else read_provenance(start.with_name(METRICS))
    counts = {"train": options.pictures, "val": VAL_PICTURES, "test": options.held_out}
    data = write_dataset(work / "data", DATA_SEED, counts, options.threads)
    last = train(data, work, options.hours, options.threads, start)
    export_checkpoint(last, SHIPPED)
    run = last.parent.parent
    shutil.copyfile(run / HISTORY, WEIGHTS / HISTORY)
    results = run / "results.csv"
    minutes, epochs = seconds_spent(results) / 60, _epochs_begun(results)
    provenance = Provenance(command, DATA_SEED, TRAIN_SEED, counts, epochs, minutes, (), earlier)
    reports = [evaluate(SHIPPED, data, head, size) for head in HEADS for size in SIZES]
    confidence = measure_confidence(SHIPPED, data, work)
    write_metrics(WEIGHTS / METRICS, provenance, reports, confidence)
    write_card(WEIGHTS / "MODEL_CARD.md", provenance, reports, confidence)
    _draw_failures(SHIPPED, data.parent)


def _draw_failures(checkpoint: Path, data: Path) -> None:
    import cv2

    from scripts.embedded_model.evaluation import answer_pictures
    from scripts.embedded_model.failures import draw_sheet, find_failures

    pictures = answer_pictures(checkpoint, data, "one2one", 640)  # as it is served by default
    failures = [failure for path, answered in pictures.items() for failure in find_failures(path, answered)]
    cv2.imwrite(
        str(REPOSITORY / "docs" / "failures.jpg"), draw_sheet(failures, pictures), [cv2.IMWRITE_JPEG_QUALITY, 85]
    )


def _epochs_begun(results: Path) -> int:
    """Epochs that Ultralytics noted for the run, the last of them cut short by the clock."""
    with results.open() as file:
        return int(list(csv.DictReader(file))[-1]["epoch"])


if __name__ == "__main__":
    raise SystemExit(main())

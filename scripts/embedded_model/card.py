"""The model card, written from the figures alone."""

from __future__ import annotations

from pathlib import Path
from textwrap import wrap

from scripts.embedded_model.evaluation import Report
from scripts.embedded_model.metrics import Metrics, Provenance
from scripts.embedded_model.run_files import write_whole
from scripts.embedded_model.symbols import CLASS_NAMES, SYMBOLOGIES

_LINE = 118


def write_card(target: Path, metrics: Metrics) -> None:
    """Write the Markdown model card with the measured tables."""
    write_whole(target, render_card(metrics))


def render_card(metrics: Metrics) -> str:
    """The card's text: the prose of this module and those figures, nothing measured anew."""
    sections = [
        _introduction(),
        _origin(metrics.provenance, metrics.machine),
        _accuracy(metrics.reports, metrics.confidence_of_counts),
        _limits(metrics),
    ]
    return "\n".join(sections)


def _introduction() -> str:
    members = [f"| `{name}` | {_symbologies(i)} |" for i, name in enumerate(CLASS_NAMES)]
    return f"""# yolo26n-codes

A YOLO26n detector (Ultralytics `yolo26n.yaml`, five classes) that finds machine-readable codes.
It locates them and tells their family; it does not read what they say.

| class | symbologies it was trained on |
|---|---|
{chr(10).join(members)}

A box is the axis-aligned hull of the visible code: bars or modules, without the quiet zone and
without the caption under a retail code.

Licence: AGPL-3.0, like Ultralytics YOLO and this repository.
"""


def _symbologies(class_id: int) -> str:
    return ", ".join(s.name for s in SYMBOLOGIES if s.class_id == class_id)


def _origin(made: Provenance, machine: str) -> str:
    runs = _runs(made)
    commands = "\n".join(run.command for run in runs)
    minutes = sum(run.minutes for run in runs)
    return f"""## How it was made

From random weights, on generated pictures only. No photograph and no third-party data set was
used: zxing-cpp writes the symbols, and `scripts/embedded_model` draws everything around them.
Runs: {len(runs)}, {minutes:.0f} minutes in all; a later one starts from the weights of the one before it.

```
{commands}
```

{chr(10).join(_run_lines(number, run) for number, run in enumerate(runs, 1))}
- Machine: {machine}.
  It was shared with other work. The schedule follows the clock, so a repetition draws the same
  pictures byte for byte but ends in other weights.
- Forward passes in bfloat16; loss and BatchNorm statistics in float32.
- The weights at the end of a run are an exponential moving average, stored as float16.
- BatchNorm: running mean and variance are those of training (momentum 0.03, eps 0.001), averaged where weights were.
  Nothing was folded or re-estimated afterwards. `bn-history.jsonl` beside this file shows how they
  settled in the last run that trained the whole network: per stage the mean |running mean|, running variance, |gamma|
  and the norm of the gradient.
"""


def _runs(made: Provenance) -> list[Provenance]:
    """All runs behind the weights, first to last."""
    return ([] if made.earlier is None else _runs(made.earlier)) + [made]


def _run_lines(number: int, run: Provenance) -> str:
    counts = ", ".join(f"{count} {split}" for split, count in run.pictures.items())
    lines = [
        f"- Run {number}: {counts} pictures (data seed {run.data_seed}; each split has its own random stream);",
        f"  seed {run.train_seed}, {run.epochs_begun} epochs begun (the clock ends the last one early), "
        f"{run.minutes:.0f} minutes, input sizes 224 to 640 px.",
    ]
    said = list(run.notes)
    if run.epoch_map50:
        values = ", ".join(f"{value:.2f}" for value in run.epoch_map50)
        said.append(f"Validation mAP50 after its epochs (one2many head, {run.base_size} px): {values}.")
    if run.start_sha256:
        said.append(f"It started from weights with SHA-256 {run.start_sha256}.")
    if run.one2one_alone:
        said.append("It trained the one-to-one head alone; the rest is that of the weights it started from.")
    if run.averaged:
        said.append(
            "Shipped is the mean of these weights and those at the end of the run, BatchNorm's running statistics "
            "included."
        )
    for note in said:
        lines += wrap(note, _LINE, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
    return "\n".join(lines)


def _accuracy(reports: tuple[Report, ...], confidence: float) -> str:
    extents = list(reports[0].recall_by_extent)
    return f"""## Measured accuracy

On the generated test split, which training never saw. The figures say how well the task on
generated pictures was learnt; they are no promise for photographs. The one2one head needs no
non-maximum suppression; the one2many head is followed by it (IoU 0.7).

{chr(10).join(_size_table(report) for report in reports)}
Share of true boxes found (confidence {confidence:g}, IoU 0.5, right class), by the longer side of
the box relative to the longer side of the picture:

| head and input | {" | ".join(extents)} |
|{"---|" * (1 + len(extents))}
{chr(10).join(_recall_row(report) for report in reports)}

False alarms on generated pictures without a code, at the same confidence:

{chr(10).join(_alarm_line(report) for report in reports)}

Failures on the test split, worst first, truth in green and answers in red: missed codes, families
confused, false alarms.

![failures](../../docs/failures.jpg)
"""


def _size_table(report: Report) -> str:
    rows = [
        f"| {name} | {s.precision:.3f} | {s.recall:.3f} | {s.ap50:.3f} | {s.ap50_95:.3f} |"
        for name, s in report.classes.items()
    ]
    return f"""{_name(report)} (letterboxed):

| class | precision | recall | AP50 | AP50-95 |
|---|---|---|---|---|
{chr(10).join(rows)}
| all | | | {report.map50:.3f} | {report.map50_95:.3f} |
"""


def _name(report: Report) -> str:
    return f"{report.head} head, {report.image_size} px"


def _recall_row(report: Report) -> str:
    cells = [f"{r.found}/{r.total} ({r.found / max(r.total, 1):.0%})" for r in report.recall_by_extent.values()]
    return f"| {_name(report)} | {' | '.join(cells)} |"


def _alarm_line(report: Report) -> str:
    alarms = report.false_alarms
    return f"- {_name(report)}: {alarms.boxes} boxes, in {alarms.pictures_with_boxes} of {alarms.pictures} pictures"


def _limits(metrics: Metrics) -> str:
    head, confidence = metrics.default_head, metrics.default_confidence
    return f"""## Limits

- Default head {head.value}: {head.chosen}.
- Default confidence {confidence.value:g}: {confidence.chosen}.
- It has only seen drawings. They imitate what phones do to a picture, and the faces, leaves, crowds
  and house fronts that ordinary pictures show, but coarsely. Expect lower scores on photographs, and
  false alarms on things that nobody drew: machines, food, animals, scripts other than Latin. Choose
  the confidence threshold on pictures of your own.
- The class names the family only: EAN-13 and Code 128 are both `linear`, QR and Micro QR `qr_code`.
- Out of scope: codes thinner than about five pixels at the input size, codes more than half hidden,
  and families it never saw (MaxiCode, DotCode, Han Xin, postal four-state codes).
- Boxes are axis-aligned: a long code that lies diagonally gets a box that is mostly background.
"""

"""The commands. They read the settings, wire the parts together and print; the work is done elsewhere."""

import math
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import orjson
import typer
from rich.console import Console
from rich.markup import escape

from service.bundle.batchnorm import FoldStatus, Stage
from service.bundle.health import SEVERITIES, Severity, WarningCode
from service.bundle.store import MANIFEST, Bundle, bundle_key, find_bundle, load_bundle
from service.errors import (
    BundleError,
    BundleMissing,
    EvaluationError,
    MeasurementRefused,
    RecalibrationError,
    SettingsError,
    WeightsHashMismatch,
    WeightsNotFound,
    YolofoldError,
)
from service.measurement.terminal import series_verdicts
from service.observatory.diff import Side, compare_batchnorm, side_of_bundle
from service.observatory.document import bn_stats_document
from service.observatory.pruning import PruneRule
from service.observatory.selection import Selection, SortKey, SortOrder
from service.observatory.spreadsheet import bn_stats_csv
from service.settings import Settings, load_settings

EXIT_FAILED = 1
EXIT_NO_BUNDLE = 3
#: What `evaluate --against` calls the bundle's own graph with its BatchNorm kept.
UNFOLDED = "unfolded"

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Serve YOLO26 with its BatchNorm folded away. Every option is also a YOLOFOLD_* environment variable.",
)
console = Console(stderr=True)

Weights = Annotated[str | None, typer.Option(help="auto, embedded, an official name or a path. [YOLOFOLD_WEIGHTS]")]
Imgsz = Annotated[int | None, typer.Option(help="Side of the square input, pixels. [YOLOFOLD_IMGSZ]")]
Head = Annotated[str | None, typer.Option(help="auto, one2one or one2many. [YOLOFOLD_HEAD]")]
DefaultConf = Annotated[
    float | None,
    typer.Option(help="Confidence boxes must exceed where a request says nothing. [YOLOFOLD_DEFAULT_CONF]"),
]
BundleDir = Annotated[Path | None, typer.Option(help="Where bundles are kept. [YOLOFOLD_BUNDLE_DIR]")]


def main() -> None:
    """Run a command; a domain error becomes one line on stderr and a non-zero exit."""
    try:
        app()
    except YolofoldError as error:
        _print_error(error)
        sys.exit(EXIT_NO_BUNDLE if isinstance(error, BundleError) else EXIT_FAILED)
    except OSError as error:  # a full disk, a folder that may not be read: the system's own words say it best
        _print_error(error)
        sys.exit(EXIT_FAILED)


def _print_error(error: Exception) -> None:
    console.print(f"[red]{type(error).__name__}[/]: {escape(str(error))}", highlight=False, soft_wrap=True)


@app.command()
def bundle(
    weights: Weights = None,
    imgsz: Imgsz = None,
    head: Head = None,
    default_conf: DefaultConf = None,
    bundle_dir: BundleDir = None,
) -> None:
    """Print the folder of the bundle these settings serve; exit 3 when there is none that can be served."""
    settings = load_settings(weights=weights, imgsz=imgsz, head=head, default_conf=default_conf, bundle_dir=bundle_dir)
    print(_load(settings).path)


@app.command()
def prepare(
    weights: Weights = None,
    imgsz: Imgsz = None,
    head: Head = None,
    default_conf: DefaultConf = None,
    bundle_dir: BundleDir = None,
    force: Annotated[bool, typer.Option(help="Prepare again even if a bundle exists.")] = False,
    latency_rounds: Annotated[
        int | None, typer.Option(min=12, help="Measure this many rounds, without the quick run's time limit.")
    ] = None,
    latency_thorough: Annotated[
        bool,
        typer.Option(
            "--latency-thorough",
            help="Measure all there is, without a time limit: both heads, preprocessing, batches of 1, 4 and 8, "
            "throughput, memory.",
        ),
    ] = False,
) -> None:
    """Read, fold, prove, export and measure a checkpoint, and write the bundle."""
    settings = load_settings(weights=weights, imgsz=imgsz, head=head, default_conf=default_conf, bundle_dir=bundle_dir)
    if not force:
        try:
            reused = f"Reusing {_load(settings).path}. Use --force to prepare it again."
            console.print(reused, highlight=False, markup=False, soft_wrap=True)
            return
        except BundleMissing:
            pass
        except (BundleError, WeightsHashMismatch) as error:
            _print_error(error)
            console.print("It is prepared again.")
    signal.signal(signal.SIGTERM, _exit_orderly)
    from service.machine import usable_cores
    from service.measurement.study import ALL_BATCHES, Effort
    from service.prepare.pipeline import prepare_bundle  # torch, hence only here

    effort = Effort() if latency_rounds is None else Effort(latency_rounds, float("inf"))
    if latency_thorough:
        effort = Effort(effort.rounds, float("inf"), thorough=True, batches=ALL_BATCHES)
    path = prepare_bundle(settings, _RichProgress(), effort, usable_cores())
    _print_summary(load_bundle(path))


@app.command()
def serve(
    weights: Weights = None,
    imgsz: Imgsz = None,
    head: Head = None,
    default_conf: DefaultConf = None,
    bundle_dir: BundleDir = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on. [YOLOFOLD_HOST]")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on, 0 for a free one. [YOLOFOLD_PORT]")] = None,
) -> None:
    """Serve the bundle over HTTP."""
    settings = load_settings(
        weights=weights,
        imgsz=imgsz,
        head=head,
        default_conf=default_conf,
        bundle_dir=bundle_dir,
        host=host,
        port=port,
    )
    bundle = _load(settings)
    from service.api.server import run_server

    run_server(settings, bundle, announce=lambda address, runs_on: _announce(address, runs_on, bundle))


@app.command()
def bench(
    weights: Weights = None,
    imgsz: Imgsz = None,
    head: Head = None,
    default_conf: DefaultConf = None,
    bundle_dir: BundleDir = None,
    rounds: Annotated[int, typer.Option(min=12, help="Rounds of each series; in each, every arm runs once.")] = 30,
    batch: Annotated[
        list[int] | None, typer.Option(min=1, help="Images per run; may be repeated. By default 1, 4 and 8.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the report here.")] = None,
) -> None:
    """Measure on this machine what folding gains in the runtime that serves; the bundle is left as it is."""
    if problem := _missing_folder(json_file):
        raise MeasurementRefused(problem)
    settings = load_settings(weights=weights, imgsz=imgsz, head=head, default_conf=default_conf, bundle_dir=bundle_dir)
    bundle = _load(settings)
    from service.machine import usable_cores
    from service.measurement.bench import bench_bundle
    from service.measurement.study import ALL_BATCHES, Effort
    from service.measurement.terminal import report_lines

    cores = usable_cores()
    batches = tuple(sorted(set(batch))) if batch else ALL_BATCHES
    with console.status("Measuring ...") as status:
        report = bench_bundle(
            bundle,
            Effort(rounds, float("inf"), thorough=True, batches=batches),
            threads=settings.threads_on(cores),
            callers=settings.workers_on(cores),
            progress=lambda stage, done, wanted: status.update(f"Measuring {stage} ... {done}/{wanted}"),
        )
    if json_file is not None:
        json_file.write_text(report.model_dump_json(indent=1) + "\n")
    print(*report_lines(report), sep="\n")


def _missing_folder(report: Path | None) -> str | None:
    """Why a report could not be written, for which nobody should wait until it is done."""
    if report is None or report.parent.is_dir():
        return None
    return f"{report} cannot be written: there is no folder {report.parent.resolve()}."


@app.command()
def calibrate(
    data: Annotated[Path, typer.Option(help="A folder of clean pictures, as the service should receive them.")],
    rate: Annotated[
        float, typer.Option(min=0.0001, max=0.2, help="False alarms wanted, as a share of the windows of 32 pictures.")
    ] = 0.01,
    weights: Weights = None,
    imgsz: Imgsz = None,
    head: Head = None,
    default_conf: DefaultConf = None,
    bundle_dir: BundleDir = None,
) -> None:
    """Learn from clean pictures what drift is held against; a server started afterwards uses it."""
    settings = load_settings(weights=weights, imgsz=imgsz, head=head, default_conf=default_conf, bundle_dir=bundle_dir)
    bundle = _load(settings)
    from datetime import UTC, datetime

    from service.drift.calibration import calibrate as learn
    from service.drift.layers import watch_layers
    from service.inference.calibration_file import Learnt, save_calibration
    from service.inference.calibration_pictures import measure_folder
    from service.inference.fault_pictures import learn_faults
    from service.lint.signatures import describe_signatures

    progress = _RichProgress()
    with progress.step("Measure") as advance:
        samples = measure_folder(bundle, data, settings.max_pixels, advance)
    with progress.step("Calibrate"):
        now = datetime.now(UTC).isoformat(timespec="seconds")
        found = learn(samples, watch_layers(bundle).channels, rate, now)
    with progress.step("Faults") as advance:
        signatures = learn_faults(bundle, data, settings.max_pixels, advance)
    path, baseline = save_calibration(Learnt(found, signatures), bundle), found.baseline
    print(*describe_signatures(signatures), sep="\n")
    print(
        f"{baseline.pictures} pictures; the alarm is raised above a score of {baseline.threshold:.3f}, set for "
        f"{baseline.rate:.2%} false alarms and exceeded by {baseline.measured_rate:.2%} of the windows left out"
    )
    print(path)


@app.command()
def evaluate(
    data: Annotated[
        Path, typer.Option(help="Labelled pictures: a folder in YOLO or COCO layout, a data.yaml or a COCO .json.")
    ],
    negatives: Annotated[
        bool,
        typer.Option(
            "--negatives",
            help="The pictures show no object of the model's classes: report false alarms. --data may be any folder "
            "of pictures then.",
        ),
    ] = False,
    split: Annotated[str | None, typer.Option(help="Part of the data set; by default test, else val.")] = None,
    conf: Annotated[
        float | None, typer.Option(min=0, max=1, help="Report precision and recall above this confidence too.")
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            help="Compare on the same pictures with: `unfolded`, the bundle's own graph in which BatchNorm was kept; "
            "or another bundle, by its folder or by the --weights it was prepared for."
        ),
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write every figure to this file.")] = None,
    weights: Weights = None,
    imgsz: Imgsz = None,
    head: Head = None,
    default_conf: DefaultConf = None,
    bundle_dir: BundleDir = None,
) -> None:
    """Measure a bundle on labelled pictures, through the path that serves it, by COCO's rules."""
    settings = load_settings(weights=weights, imgsz=imgsz, head=head, default_conf=default_conf, bundle_dir=bundle_dir)
    bundle = _load(settings)
    if problem := _missing_folder(json):
        raise EvaluationError(problem)
    from service.evaluation.advice import adoption_advice
    from service.evaluation.evaluate import Request, Subject
    from service.evaluation.evaluate import evaluate as run_evaluation
    from service.evaluation.table import print_report
    from service.machine import usable_cores

    if against is None:
        other = None
    elif against == UNFOLDED:
        other = Subject(bundle, unfolded=True)
    else:
        other = Subject(_load_other(against, bundle, settings))
    request = Request(data, split, negatives, conf, settings.threads_on(usable_cores()))
    report = run_evaluation(Subject(bundle), other, request, settings, _RichProgress())
    print_report(report)
    if (points := report.figures.points) and (advice := adoption_advice(points, settings)):
        print(advice)
    if json is not None:
        json.write_text(report.model_dump_json(indent=1) + "\n", encoding="utf-8")


@app.command()
def recalibrate(
    data: Annotated[Path, typer.Option(help="Folder of unlabelled pictures like those that will be served.")],
    prior: Annotated[
        float,
        typer.Option(min=0, help="How many pictures the old statistics count for; 0 takes the new ones alone."),
    ],
    hold_back: Annotated[
        float,
        typer.Option(min=0, max=0.9, help="Share of the pictures kept apart for the comparison; 0 compares on all."),
    ] = 0.2,
    out: Annotated[
        Path | None, typer.Option(help="Folder that the new bundle becomes; by default one beside the served bundle.")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write every figure to this file.")] = None,
    weights: Weights = None,
    imgsz: Imgsz = None,
    head: Head = None,
    default_conf: DefaultConf = None,
    bundle_dir: BundleDir = None,
) -> None:
    """Estimate BatchNorm's statistics anew on unlabelled pictures, in a bundle beside the served one."""
    settings = load_settings(weights=weights, imgsz=imgsz, head=head, default_conf=default_conf, bundle_dir=bundle_dir)
    served = _load(settings)
    if not math.isfinite(prior):
        raise RecalibrationError(f"--prior {prior} is not a number of pictures.")
    if reason := _missing_folder(json):
        raise RecalibrationError(reason)
    signal.signal(signal.SIGTERM, _exit_orderly)
    from service.machine import usable_cores
    from service.recalibration.recalibrate import Request  # torch, hence only here
    from service.recalibration.recalibrate import recalibrate as run_recalibration
    from service.recalibration.table import print_report

    cores = usable_cores()
    request = Request(data, prior, hold_back, out, settings.threads_on(cores), settings.workers_on(cores))
    report = run_recalibration(served, request, settings, _RichProgress())
    print_report(report)
    if json is not None:
        json.write_text(report.model_dump_json(indent=1) + "\n", encoding="utf-8")


@app.command("bn-stats")
def bn_stats(
    weights: Weights = None,
    imgsz: Imgsz = None,
    head: Head = None,
    default_conf: DefaultConf = None,
    bundle_dir: BundleDir = None,
    layer: Annotated[str | None, typer.Option(help="Everything about this BatchNorm or convolution.")] = None,
    stage: Annotated[Stage | None, typer.Option(help="Only this stage.")] = None,
    status: Annotated[FoldStatus | None, typer.Option(help="Only this status.")] = None,
    warning: Annotated[WarningCode | None, typer.Option(help="Only layers with this warning.")] = None,
    severity: Annotated[Severity | None, typer.Option(help="Only layers with a warning at least this severe.")] = None,
    sort: Annotated[SortKey, typer.Option(help="Order of the layers.")] = "checkpoint",
    order: Annotated[SortOrder, typer.Option(help="Rising or falling.")] = "asc",
    prune_percentile: Annotated[
        float | None, typer.Option(min=0, max=100, help="Count channels up to this percentile of |gamma|.")
    ] = None,
    csv: Annotated[Path | None, typer.Option(help="Write a row per layer to this file.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print what GET /model/bn-stats?detail=full answers.")] = False,
    codes: Annotated[bool, typer.Option("--codes", help="Print every warning there is, and end.")] = False,
) -> None:
    """Print the BatchNorm statistics of a bundle, their warnings and sparklines of |gamma|."""
    from service.observatory import terminal

    if codes:
        terminal.print_warning_kinds(Console())
        return
    bundle = _load(
        load_settings(weights=weights, imgsz=imgsz, head=head, default_conf=default_conf, bundle_dir=bundle_dir)
    )
    selection = Selection(layer, stage, status, warning, severity, sort, order)
    rule = PruneRule() if prune_percentile is None else PruneRule("percentile", prune_percentile)
    if csv is not None:
        csv.write_text(bn_stats_csv(bundle, selection, rule, "summary"), encoding="utf-8", newline="")
    if json:
        document = bn_stats_document(bundle, selection, rule, "full")
        print(orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_INDENT_2).decode())
    elif csv is None:
        terminal.print_bn_stats(Console(), bundle, selection, rule)


@app.command("bn-diff")
def bn_diff(
    first: Annotated[Path, typer.Argument(help="A bundle's folder, or a checkpoint (.pt) that you trust.")],
    second: Annotated[Path, typer.Argument(help="The same, trained on or otherwise changed.")],
    json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")] = False,
) -> None:
    """Compare the BatchNorm layers of two checkpoints: what moved, what was frozen, where they diverged."""
    from service.observatory.terminal import print_bn_diff

    diff = compare_batchnorm(_side(first), _side(second))
    if json:
        print(diff.model_dump_json(indent=1))
    else:
        print_bn_diff(Console(), diff)


def _side(path: Path) -> Side:
    if path.is_dir():
        return side_of_bundle(load_bundle(path))
    if not path.is_file():
        raise WeightsNotFound(f"There is neither a bundle's folder nor a checkpoint at {path}.")
    from service.prepare.checkpoint_stats import read_checkpoint_stats  # torch, hence only here

    stats = read_checkpoint_stats(path)
    return Side(str(path), stats.report.layers, stats.arrays)


def _exit_orderly(signal_number: int, _: object) -> None:
    """Turn SIGTERM into an exception, so that what is half written gets removed."""
    sys.exit(128 + signal_number)


def _load(settings: Settings) -> Bundle:
    key = bundle_key(settings.weights, settings.imgsz, settings.head, settings.default_conf)
    path = find_bundle(settings.bundle_dir, key)
    if path is None:
        raise BundleMissing(
            f"There is no bundle for {key} in {settings.bundle_dir.resolve()}. Run `python -m service prepare`."
        )
    bundle = load_bundle(path)
    if settings.weights_sha256 not in (None, bundle.manifest.weights.sha256):
        raise WeightsHashMismatch(
            f"{path} was prepared from weights with SHA-256 {bundle.manifest.weights.sha256}, but "
            f"{settings.weights_sha256} is demanded."
        )
    if settings.default_conf not in (None, bundle.manifest.model.default_confidence):
        raise SettingsError(
            f"YOLOFOLD_BUNDLE_DIR names the bundle {path}, whose default confidence is "
            f"{bundle.manifest.model.default_confidence:g}, but YOLOFOLD_DEFAULT_CONF is {settings.default_conf:g}."
        )
    return bundle


def _load_other(name: str, bundle: Bundle, settings: Settings) -> Bundle:
    """A second bundle, by its folder or by the weights it was prepared for."""
    path = Path(name) if (Path(name) / MANIFEST).is_file() else None
    if path is None and not (settings.bundle_dir / MANIFEST).is_file():
        path = find_bundle(settings.bundle_dir, bundle_key(name, settings.imgsz, settings.head, settings.default_conf))
    if path is None:
        raise BundleMissing(f"{name} is neither a bundle's folder nor weights that a bundle was prepared for.")
    if path.resolve() == bundle.path.resolve():
        raise EvaluationError(f"{path} is the bundle that is evaluated; compare it with another one.")
    return load_bundle(path)


def _announce(address: str, runs_on: str, bundle: Bundle) -> None:
    manifest = bundle.manifest
    model = manifest.model
    print(
        f"yolofold serves {model.name} {model.version} ({manifest.weights.source} weights, "
        f"{len(model.classes)} classes, {model.input.width} px, "
        f"{bundle.batchnorm.totals.folded} BatchNorm layers folded)\n"
        f"  on {runs_on}\n"
        f"  {address}            the page; {address}/docs for the API\n"
        f"  curl -F file=@samples/parcel.jpg {address}/detect",
        flush=True,
    )
    if manifest.weights.note:
        console.print(f"[yellow]warning[/]: {escape(manifest.weights.note)}", highlight=False, soft_wrap=True)


class _RichProgress:
    """Draws each step with its time."""

    @contextmanager
    def step(self, title: str) -> Iterator[Callable[[int, int], None]]:
        """Show a step while it runs and its seconds when it is done."""
        from time import perf_counter

        start = perf_counter()
        with console.status(f"{title} ...") as status:

            def advance(done: int, total: int) -> None:
                status.update(f"{title} ... {done}/{total}")

            yield advance
        console.print(f"{title:<28}{perf_counter() - start:7.1f} s", highlight=False)


def _print_summary(bundle: Bundle) -> None:
    manifest, totals, certificate = bundle.manifest, bundle.batchnorm.totals, bundle.certificate
    worst = max(certificate.layers, key=lambda layer: layer.relative_error / layer.tolerance, default=None)
    lines = [
        f"Model      {manifest.model.name} {manifest.model.version}, {manifest.weights.source} weights, "
        f"{manifest.model.head.kind} head, suppression: {manifest.model.head.nms}",
        f"BatchNorm  {totals.layers} layers: {totals.folded} folded, {totals.dropped} dropped with the unused head, "
        f"{totals.unfoldable} left; {totals.dead_channels} dead and {totals.eps_dominated_channels} eps-dominated "
        "channels",
        f"Graphs     {manifest.deployed.nodes} nodes served; {manifest.reference.nodes} in the reference, "
        f"{manifest.reference.batch_normalization_nodes} of them BatchNormalization",
    ]
    severities = [warning.severity for warning in bundle.health.warnings]
    counts = ", ".join(f"{severities.count(severity)} {severity}" for severity in SEVERITIES)
    lines.append(f"Health     {counts}; `python -m service bn-stats` says what")
    if worst is not None:
        lines.append(
            f"Proof      passed on {len(certificate.end_to_end)} inputs; worst layer {worst.name} at "
            f"{worst.relative_error / worst.tolerance:.0%} of its bound"
        )
    lines += [f"Latency    {line}" for line in series_verdicts(bundle.latency.series[0])]
    if manifest.weights.note:
        lines.append(f"Note       {manifest.weights.note}")
    lines.append(f"Bundle     {bundle.path}")
    console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)

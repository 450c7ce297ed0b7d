"""``evaluate``: a bundle on labelled pictures."""

from pathlib import Path
from typing import Annotated

import typer

from service.bundle.graph_fold import require_folded_graph
from service.bundle.store import MANIFEST, Bundle, bundle_key, find_bundle, load_bundle
from service.commands.console import StepProgress
from service.commands.options import BundleDir, DefaultConf, Head, Imgsz, Rect, ReportFile, Weights, missing_folder
from service.commands.served_bundle import load_served
from service.errors import BundleMissing, EvaluationError
from service.settings import Settings, load_settings

#: What `--against` calls the bundle's own graph with its BatchNorm kept.
UNFOLDED = "unfolded"


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
    json: ReportFile = None,
    weights: Weights = None,
    imgsz: Imgsz = None,
    rect: Rect = None,
    head: Head = None,
    default_conf: DefaultConf = None,
    bundle_dir: BundleDir = None,
) -> None:
    """Measure a bundle on labelled pictures, through the path that serves it, by COCO's rules."""
    settings = load_settings(
        weights=weights, imgsz=imgsz, rect=rect, head=head, default_conf=default_conf, bundle_dir=bundle_dir
    )
    bundle = load_served(settings)
    if problem := missing_folder(json):
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
    report = run_evaluation(Subject(bundle), other, request, settings, StepProgress())
    print_report(report)
    if (points := report.figures.points) and (advice := adoption_advice(points, settings)):
        print(advice)
    if json is not None:
        json.write_text(report.model_dump_json(indent=1) + "\n", encoding="utf-8")


def _load_other(name: str, bundle: Bundle, settings: Settings) -> Bundle:
    """A second bundle, by its folder or by the weights it was prepared for."""
    path = Path(name) if (Path(name) / MANIFEST).is_file() else None
    if path is None and not (settings.bundle_dir / MANIFEST).is_file():
        key = bundle_key(name, settings.imgsz, settings.head, settings.default_conf, rect=settings.rect)
        path = find_bundle(settings.bundle_dir, key)
    if path is None:
        raise BundleMissing(f"{name} is neither a bundle's folder nor weights that a bundle was prepared for.")
    if path.resolve() == bundle.path.resolve():
        raise EvaluationError(f"{path} is the bundle that is evaluated; compare it with another one.")
    other = load_bundle(path)
    require_folded_graph(other)
    return other

"""What `evaluate` says about the default confidence can be typed as it stands."""

import shlex
from pathlib import Path

from typer.testing import CliRunner

from service.cli import app
from service.evaluation.advice import adoption_advice
from service.evaluation.report import OperatingPoint, OperatingPoints
from service.settings import load_settings


def point(confidence: float, f1: float) -> OperatingPoint:
    counts = {"right": 1, "wrong": 1, "missed": 1}
    return OperatingPoint(
        confidence=confidence, precision=f1, recall=f1, f1=f1, false_boxes_per_empty_picture=None, **counts
    )


def points(default_f1: float, best: OperatingPoint | None) -> OperatingPoints:
    return OperatingPoints(default=point(0.25, default_f1), requested=None, best_f1=best, lenient=best)


def test_the_commands_repeat_the_settings_that_were_chosen() -> None:
    settings = load_settings({}, weights="my models/best.pt", imgsz=320, bundle_dir="elsewhere", rect=True)
    advice = adoption_advice(points(0.7, point(0.315, 0.8)), settings)
    assert advice is not None and "YOLOFOLD_DEFAULT_CONF=0.315" in advice
    options = "--default-conf 0.315 --weights 'my models/best.pt' --imgsz 320 --bundle-dir elsewhere --rect"
    for name in ("prepare", "serve"):
        assert f"\n  python -m service {name} {options}\n" in advice
        shown = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "200"}).output
        assert all(option in shown for option in shlex.split(options) if option.startswith("--"))
    assert load_settings({"YOLOFOLD_DEFAULT_CONF": "0.315"}).default_conf == 0.315


def test_defaults_are_left_out_of_the_commands() -> None:
    advice = adoption_advice(points(0.7, point(0.3, 0.8)), load_settings({}))
    assert advice is not None and "service prepare --default-conf 0.3\n" in advice


def test_a_bundle_named_by_itself_is_not_prepared_into_itself(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    advice = adoption_advice(points(0.7, point(0.3, 0.8)), load_settings({}, bundle_dir=tmp_path))
    assert advice is not None and "YOLOFOLD_DEFAULT_CONF=0.3 " in advice
    assert "prepare the weights of this bundle again" in advice and "python -m" not in advice


def test_without_anything_better_there_is_no_advice() -> None:
    assert adoption_advice(points(0.8, point(0.26, 0.8)), load_settings({})) is None
    assert adoption_advice(points(0.0, None), load_settings({})) is None

"""What the training command writes: the slim checkpoint, the figures and the model card."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

import service.prepare.ultralytics_runtime  # noqa: F401  before any test imports Ultralytics
from scripts.embedded_model.card import render_card
from scripts.embedded_model.checkpoint import export_checkpoint
from scripts.embedded_model.dataset import write_dataset
from scripts.embedded_model.defaults import DefaultConfidence, DefaultHead, Measured, choose_defaults, measure_bundle
from scripts.embedded_model.evaluation import Alarms, ClassScore, Recall, Report
from scripts.embedded_model.metrics import Metrics, Provenance, read_metrics, write_metrics
from scripts.embedded_model.run_files import put_in_place, sha256_of
from scripts.embedded_model.symbols import CLASS_NAMES
from service.errors import WeightsNotFound
from service.prepare import weights

MADE = Provenance("python -m scripts.train_embedded", 2026, 26, {"train": 10, "test": 5}, 3, 1.0)
HEAD = DefaultHead("one2many", "finds more")
CHOSEN = DefaultConfidence(0.31, "highest F1")
SECRET = "/home/somebody/secret-project"


def report(size, ap):
    scores = {name: ClassScore(0.9, 0.8, ap, ap / 2) for name in CLASS_NAMES}
    return Report("one2one", size, ap, ap / 2, scores, {"under 10 %": Recall(3, 4)}, Alarms(7, 2, 3))


def metrics(made=MADE, chosen=CHOSEN):
    return Metrics("ab" * 32, "A machine", made, HEAD, chosen, 0.25, (report(320, 0.6), report(640, 0.8)))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A training checkpoint full of local paths, and its export."""
    from ultralytics.nn.tasks import DetectionModel

    model = DetectionModel("yolo26n.yaml", nc=len(CLASS_NAMES), verbose=False)
    model.pt_path = f"{SECRET}/last.pt"
    folder = tmp_path_factory.mktemp("checkpoint")
    arguments = {"data": f"{SECRET}/data.yaml", "project": SECRET, "save_dir": SECRET, "imgsz": 416}
    saved = {"ema": model.half(), "model": None, "optimizer": {"state": SECRET}, "train_args": arguments}
    torch.save(saved | {"date": "2026-01-01"}, folder / "last.pt")
    export_checkpoint(folder / "last.pt", folder / "slim.pt")
    return model, folder / "slim.pt"


def test_the_export_is_small_and_names_no_machine(exported):
    _, path = exported
    assert path.stat().st_size < 6 * 1024 * 1024
    assert SECRET.encode() not in path.read_bytes()


def test_the_export_keeps_every_tensor_and_the_batchnorm_layers(exported):
    model, path = exported
    slim = torch.load(path, weights_only=False)["model"]
    expected = model.half().state_dict()
    assert slim.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in slim.state_dict().items())
    assert any("running_var" in name for name in expected)


def test_the_export_can_be_the_mean_with_the_start(exported):
    from ultralytics.nn.tasks import DetectionModel

    model, path = exported
    start = DetectionModel("yolo26n.yaml", nc=len(CLASS_NAMES), verbose=False)
    start.model[0].bn.running_var += 3
    torch.save({"model": start, "ema": None}, path.with_name("start.pt"))
    export_checkpoint(path.with_name("last.pt"), path.with_name("mean.pt"), path.with_name("start.pt"))
    mean = torch.load(path.with_name("mean.pt"), weights_only=False)["model"].state_dict()
    ours, theirs = model.float().state_dict(), start.state_dict()
    assert torch.all(mean["model.0.bn.running_var"] == 2.5)
    for name, value in mean.items():
        expected = (ours[name] + theirs[name]) / 2 if value.is_floating_point() else ours[name]
        torch.testing.assert_close(value.float(), expected.float(), rtol=1e-3, atol=1e-6, msg=name)


def test_ultralytics_loads_the_export(exported):
    from ultralytics.models import YOLO

    _, path = exported
    assert type(YOLO(str(path)).model).__name__ == "DetectionModel"


def test_an_export_repeats_itself_byte_for_byte(exported):
    """A repeated command tells by the hash that what lies in place is its own."""
    _, path = exported
    (path.parent / "there").mkdir()
    export_checkpoint(path.with_name("last.pt"), path.parent / "there" / path.name)
    assert sha256_of(path.parent / "there" / path.name) == sha256_of(path)


def test_figures_are_complete_json(tmp_path):
    write_metrics(tmp_path / "metrics.json", metrics())
    figures = json.loads((tmp_path / "metrics.json").read_text())
    assert figures["weights_sha256"] == "ab" * 32
    assert figures["default_head"] == {"value": "one2many", "chosen": "finds more"}
    assert figures["default_confidence"] == {"value": 0.31, "chosen": "highest F1"}
    assert figures["classes"] == list(CLASS_NAMES)
    assert figures["provenance"]["command"] == MADE.command
    assert figures["held_out"][1]["map50"] == 0.8
    assert figures["held_out"][0]["false_alarms"]["boxes"] == 3


def test_figures_are_read_as_they_were_written(tmp_path):
    notes, trained = ("One.", "Two."), (0.25, 0.5)
    made = replace(MADE, notes=notes, earlier=replace(MADE, minutes=7.5), start_sha256="cd" * 32, epoch_map50=trained)
    write_metrics(tmp_path / "metrics.json", metrics(made))
    assert read_metrics(tmp_path / "metrics.json") == metrics(made)


def test_the_card_shows_every_class_at_every_size_and_the_defaults():
    card = render_card(metrics())
    assert card.count("| linear | 0.900 | 0.800 |") == 2
    assert "Default head one2many: finds more." in card
    assert "3 boxes, in 2 of 7 pictures" in card
    assert "Default confidence 0.31: highest F1." in card
    assert "AGPL-3.0" in card


def test_the_card_tells_every_run_in_order():
    first = replace(MADE, command="python first", minutes=5.0, notes=("A note.",))
    second = replace(
        MADE, command="python second", minutes=6.5, earlier=first, epoch_map50=(0.123, 0.456), base_size=640
    )
    card = render_card(metrics(second))
    assert card.index("python first") < card.index("python second")
    assert "A note." in card and "12 minutes in all" in card
    assert "(one2many head, 640 px): 0.12, 0.46." in card


def test_long_notes_are_wrapped_within_their_item():
    card = render_card(metrics(replace(MADE, notes=("word " * 60,))))
    lines = [line for line in card.splitlines() if line.startswith("  word")]
    assert len(lines) >= 3 and max(map(len, lines)) <= 120


def test_another_default_confidence_changes_nothing_else(tmp_path):
    file = tmp_path / "metrics.json"
    write_metrics(file, metrics())
    write_metrics(file, replace(read_metrics(file), default_confidence=DefaultConfidence(0.5, "by taste")))
    assert read_metrics(file) == metrics(chosen=DefaultConfidence(0.5, "by taste"))
    before, after = render_card(metrics()).splitlines(), render_card(read_metrics(file)).splitlines()
    assert [pair for pair in zip(before, after, strict=True) if pair[0] != pair[1]] == [
        ("- Default confidence 0.31: highest F1.", "- Default confidence 0.5: by taste.")
    ]


def test_files_move_into_place_together_or_not_at_all(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_text(f"new {name}")
        (tmp_path / "there").mkdir(exist_ok=True)
        (tmp_path / "there" / name).write_text("old")
    places = {tmp_path / name: tmp_path / "there" / name for name in ("a", "missing", "b")}
    with pytest.raises(FileNotFoundError):
        put_in_place(places)
    assert {(tmp_path / "there" / name).read_text() for name in ("a", "b")} == {"old"}
    del places[tmp_path / "missing"]
    put_in_place(places)
    assert [(tmp_path / "there" / name).read_text() for name in ("a", "b")] == ["new a", "new b"]


def test_the_shipped_figures_are_those_of_the_shipped_weights():
    assert read_metrics(weights.EMBEDDED_FIGURES).weights_sha256 == sha256_of(weights.EMBEDDED)


def test_the_shipped_card_says_what_the_shipped_figures_say():
    """As far as figures decide: the prose after them is about the generator, which may be newer than the weights."""
    prose = "- It has only seen drawings."
    shipped = weights.EMBEDDED.with_name("MODEL_CARD.md").read_text()
    expected = render_card(read_metrics(weights.EMBEDDED_FIGURES))
    assert prose in shipped and shipped.split(prose)[0] == expected.split(prose)[0]


def test_the_shipped_figures_give_the_embedded_model_its_default(monkeypatch, tmp_path):
    figures = json.loads(weights.EMBEDDED_FIGURES.read_text())["default_confidence"]
    assert weights.embedded_confidence() == figures["value"] and 0 < figures["value"] < 1 and figures["chosen"]
    monkeypatch.setattr(weights, "EMBEDDED_FIGURES", tmp_path / "metrics.json")
    for content in ("", "{}", '{"default_confidence": {"value": null}}', '{"default_confidence": {"value": 1.5}}'):
        weights.EMBEDDED_FIGURES.write_text(content)
        with pytest.raises(WeightsNotFound, match="default confidence"):
            weights.embedded_confidence()


def test_the_shipped_figures_give_the_embedded_model_its_head(monkeypatch, tmp_path):
    figures = json.loads(weights.EMBEDDED_FIGURES.read_text())["default_head"]
    assert weights.embedded_head() == figures["value"] and figures["chosen"]
    monkeypatch.setattr(weights, "EMBEDDED_FIGURES", tmp_path / "metrics.json")
    for content in ("", "{}", '{"default_head": {"value": null}}', '{"default_head": {"value": "auto"}}'):
        weights.EMBEDDED_FIGURES.write_text(content)
        with pytest.raises(WeightsNotFound, match="default head"):
            weights.embedded_head()


def test_the_default_confidence_is_that_of_the_evaluation(bundle_path, tmp_path):
    data = write_dataset(tmp_path, 78, {"train": 0, "val": 12, "test": 0}, 1)
    measured = measure_bundle(bundle_path, data, tmp_path)
    points = json.loads((tmp_path / "confidence.json").read_text())["figures"]["points"]
    assert measured.confidence.value == points["lenient"]["confidence"] <= points["best_f1"]["confidence"]
    assert measured.highest_f1 == points["best_f1"]["f1"]
    chosen = measured.confidence.chosen
    assert "one2one head" in chosen and "12 generated val pictures, 640 px" in chosen


@pytest.mark.parametrize(("one", "many", "chosen"), [(0.9, 0.904, "one2one"), (0.9, 0.906, "one2many")])
def test_suppression_has_to_be_worth_it(one, many, chosen):
    """The head that needs none is served unless the other is better by more than chance."""
    confidences = {head: DefaultConfidence(value, head) for head, value in (("one2one", 0.3), ("one2many", 0.4))}
    measured = {
        head: Measured(f1, confidences[head], "on pictures") for head, f1 in (("one2one", one), ("one2many", many))
    }
    defaults = choose_defaults(measured["one2one"], measured["one2many"])
    assert defaults.head.value == chosen and defaults.confidence is confidences[chosen]
    assert f"{one:.3f} for one2one" in defaults.head.chosen and f"{many:.3f} for one2many" in defaults.head.chosen

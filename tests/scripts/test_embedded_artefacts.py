"""What the training command writes: the slim checkpoint, the figures and the model card."""

from __future__ import annotations

import json

import pytest
import torch

import service.prepare.ultralytics_runtime  # noqa: F401  before any test imports Ultralytics
from scripts.embedded_model.card import Provenance, write_card, write_metrics
from scripts.embedded_model.checkpoint import export_checkpoint
from scripts.embedded_model.confidence import DefaultConfidence, best_confidence, note_confidence
from scripts.embedded_model.dataset import write_dataset
from scripts.embedded_model.evaluation import Alarms, ClassScore, Recall, Report
from scripts.embedded_model.symbols import CLASS_NAMES
from service.errors import WeightsNotFound
from service.prepare import weights

MADE = Provenance("python -m scripts.train_embedded", 2026, 26, {"train": 10, "test": 5}, 3, 1.0)
SECRET = "/home/somebody/secret-project"


def report(size, ap):
    scores = {name: ClassScore(0.9, 0.8, ap, ap / 2) for name in CLASS_NAMES}
    return Report("one2one", size, ap, ap / 2, scores, {"under 10 %": Recall(3, 4)}, Alarms(7, 2, 3))


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


def test_ultralytics_loads_the_export(exported):
    from ultralytics.models import YOLO

    _, path = exported
    assert type(YOLO(str(path)).model).__name__ == "DetectionModel"


def test_figures_are_complete_json(tmp_path):
    chosen = DefaultConfidence(0.31, "highest F1")
    write_metrics(tmp_path / "metrics.json", MADE, [report(320, 0.6), report(640, 0.8)], chosen)
    figures = json.loads((tmp_path / "metrics.json").read_text())
    assert figures["default_confidence"] == {"value": 0.31, "chosen": "highest F1"}
    assert figures["classes"] == list(CLASS_NAMES)
    assert figures["provenance"]["command"] == MADE.command
    assert figures["held_out"][1]["map50"] == 0.8
    assert figures["held_out"][0]["false_alarms"]["boxes"] == 3


def test_the_card_shows_every_class_at_every_size_and_recommends_the_best(tmp_path):
    write_card(tmp_path / "card.md", MADE, [report(320, 0.6), report(640, 0.8)], DefaultConfidence(0.31, "highest F1"))
    card = (tmp_path / "card.md").read_text()
    assert card.count("| linear | 0.900 | 0.800 |") == 2
    assert "Recommended: one2one head, 640 px" in card
    assert "3 boxes, in 2 of 7 pictures" in card
    assert "AGPL-3.0" in card


def test_another_default_confidence_changes_nothing_else_in_the_figures(tmp_path):
    file = tmp_path / "metrics.json"
    write_metrics(file, MADE, [report(640, 0.8)], DefaultConfidence(0.25, "the usual one"))
    before = json.loads(file.read_text())
    note_confidence(file, DefaultConfidence(0.31, "highest F1"))
    after = json.loads(file.read_text())
    assert list(after) == list(before)
    assert after.pop("default_confidence") == {"value": 0.31, "chosen": "highest F1"}
    assert after == {key: value for key, value in before.items() if key != "default_confidence"}


def test_the_shipped_figures_give_the_embedded_model_its_default(monkeypatch, tmp_path):
    figures = json.loads(weights.EMBEDDED_FIGURES.read_text())["default_confidence"]
    assert weights.embedded_confidence() == figures["value"] and 0 < figures["value"] < 1 and figures["chosen"]
    monkeypatch.setattr(weights, "EMBEDDED_FIGURES", tmp_path / "metrics.json")
    for content in ("", "{}", '{"default_confidence": {"value": null}}', '{"default_confidence": {"value": 1.5}}'):
        weights.EMBEDDED_FIGURES.write_text(content)
        with pytest.raises(WeightsNotFound, match="default confidence"):
            weights.embedded_confidence()


def test_the_best_confidence_is_that_of_the_evaluation(bundle_path, tmp_path):
    data = write_dataset(tmp_path, 78, {"train": 0, "val": 12, "test": 0}, 1)
    best = best_confidence(bundle_path, data, tmp_path)
    assert 0 < best.value < 1
    assert "12 generated val pictures" in best.chosen and "one2one head, 640 px" in best.chosen

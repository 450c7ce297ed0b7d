"""The examples in the API's description are whole answers of the shape that is answered now."""

import csv
import io
import json
from pathlib import Path
from typing import Any, get_args

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import BaseModel

from scripts.api_examples import TAKERS
from service.api.app import create_app
from service.api.batch_schemas import BatchAnswer
from service.api.drift_schemas import DriftAnswer, ImageDrift
from service.api.examples import ANSWERS, BLOCKS_SHOWN, FOLDER, LAYERS_SHOWN, Answer
from service.api.fold_schemas import FoldAnswer, FoldCheckAnswer
from service.api.lint_schemas import LintAnswer
from service.api.schemas import BatchNormAnswer, DetectAnswer, Health, LatencyAnswer, ModelAnswer
from service.bundle.batchnorm import LayerTree, Stage
from service.bundle.store import Bundle
from service.observatory.diff import BatchNormDiff
from service.observatory.pruning import PruneRule
from service.observatory.selection import Selection
from service.observatory.spreadsheet import bn_stats_csv
from service.settings import load_settings

SHAPES: dict[str, type[BaseModel]] = {
    "detect.json": DetectAnswer,
    "detect_batch.json": BatchAnswer,
    "model.json": ModelAnswer,
    "model_layers.json": LayerTree,
    "bn_stats.json": BatchNormAnswer,
    "bn_diff.json": BatchNormDiff,
    "fold.json": FoldAnswer,
    "fold_check.json": FoldCheckAnswer,
    "drift.json": DriftAnswer,
    "drift_image.json": ImageDrift,
    "lint.json": LintAnswer,
    "latency.json": LatencyAnswer,
    "latency_started.json": LatencyAnswer,
    "latency_cancelled.json": LatencyAnswer,
    "healthz.json": Health,
    "readyz.json": Health,
}
STALE = "; if the answer has changed: python -m scripts.api_examples --bundle bundles/NAME --only {}"
MOST_BYTES = 30_000


@pytest.fixture(scope="module")
def openapi(bundle: Bundle) -> dict[str, Any]:
    return create_app(load_settings({}), bundle).openapi()


def contents(openapi: dict[str, Any], path: str, method: str) -> dict[str, Any]:
    """What the operation answers when it succeeds, by media type."""
    responses = openapi["paths"][path][method]["responses"]
    (success,) = (status for status in responses if status.startswith("2"))
    return responses[success]["content"]


def faults(value: Any, schema: dict[str, Any], openapi: dict[str, Any], where: str = "") -> list[str]:
    """JSON Schema as far as the description uses it, and stricter: every property of an object is there, no other, but
    in problem documents, whose members depend on their kind."""
    if "$ref" in schema:
        return faults(value, openapi["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]], openapi, where)
    if "anyOf" in schema:
        found = [faults(value, option, openapi, where) for option in schema["anyOf"]]
        return [] if [] in found else min(found, key=len)
    if "enum" in schema or "const" in schema:
        allowed = [(type(option), option) for option in schema.get("enum", [schema.get("const")])]
        return [] if (type(value), value) in allowed else [f"{where} is {value!r}"]
    return _faults_of_type(value, schema, openapi, where)


def _faults_of_type(value: Any, schema: dict[str, Any], openapi: dict[str, Any], where: str) -> list[str]:
    kinds = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "null": type(None)}
    kinds |= {"object": dict, "array": list}
    if not isinstance(value, kinds[schema["type"]]) or (isinstance(value, bool) and schema["type"] != "boolean"):
        return [f"{where} is {value!r}"]
    if schema["type"] == "array":
        parts = schema.get("prefixItems", [schema.get("items")] * len(value))
        if len(parts) != len(value):
            return [f"{where} has {len(value)} entries"]
        pairs = [(part, entry, f"{where}[{n}]") for n, (entry, part) in enumerate(zip(value, parts, strict=True))]
    elif "properties" in schema:
        known, open_ended = schema["properties"], schema.get("additionalProperties") is True
        if wrong := set(schema["required"]) - set(value) if open_ended else set(value) ^ set(known):
            return [f"{where}: {sorted(wrong)} missing or surplus"]
        pairs = [(known[name], entry, f"{where}.{name}") for name, entry in value.items() if name in known]
    else:
        values = value.items() if schema["type"] == "object" else ()
        pairs = [(schema["additionalProperties"], entry, f"{where}.{name}") for name, entry in values]
    return [fault for part, entry, at in pairs for fault in faults(entry, part, openapi, at)]


JSON = [
    (path, method, answer) for (path, method), answers in ANSWERS.items() for answer in answers if answer.file in SHAPES
]


@pytest.mark.parametrize(("path", "method", "answer"), JSON, ids=lambda part: getattr(part, "file", ""))
def test_the_example_is_a_whole_answer(openapi: dict[str, Any], path: str, method: str, answer: Answer) -> None:
    content = contents(openapi, path, method)["application/json"]
    (example,) = content["examples"].values()
    hint = STALE.format(answer.file)
    assert not faults(example["value"], content["schema"], openapi), hint
    read = SHAPES[answer.file].model_validate_json(json.dumps(example["value"]), strict=True)
    # What a problem document leaves out is no part of it.
    dumped = read.model_dump(mode="json", by_alias=True, exclude_unset=answer.file == "detect_batch.json")
    assert dumped == example["value"], hint
    assert example["summary"] == answer.request and example.get("description", "") == answer.note


def test_every_answer_that_is_text_has_an_example(openapi: dict[str, Any]) -> None:
    for path, methods in openapi["paths"].items():
        for method in methods:
            for media_type, content in contents(openapi, path, method).items():
                if media_type not in ("image/jpeg", "image/png", "application/openmetrics-text"):
                    assert content.get("examples"), f"{method} {path} lacks an example of {media_type}"


def read(name: str) -> Any:
    return json.loads((FOLDER / name).read_text())


def test_the_examples_show_something() -> None:
    drift, image, lint = read("drift.json"), read("drift_image.json"), read("lint.json")
    assert drift["state"] == "drifting" and drift["problems"] and drift["onset"] == drift["windows"][1]["begun_at"]
    assert drift["sampled"] == len(drift["windows"]) * drift["window"]
    assert image["channels"] and image["score"] > 0
    assert lint["findings"] and lint["confusion"] and lint["effective_pictures"] <= lint["input"]["pictures"]
    assert read("detect.json")["detections"] and read("fold_check.json")["agrees"]
    batch = read("detect_batch.json")
    assert batch["totals"]["images"] == len(batch["results"]) == 2 and batch["totals"]["failed"] == 1
    assert batch["totals"]["detections"] == len(batch["results"][0]["detections"]) > 0
    assert read("latency_started.json")["measured"]["state"] == read("latency_cancelled.json")["measured"]["state"]
    measured = read("latency.json")["measured"]
    assert measured["state"] == "done" and measured["report"]["series"] and measured["report"]["memory"]
    assert (read("healthz.json")["status"], read("readyz.json")["status"]) == ("alive", "ready")


def test_parts_of_an_answer_are_of_what_was_asked_for() -> None:
    """What is cut short says so; what a parameter cuts short is whole."""
    assert len(read("model_layers.json")["blocks"]) == BLOCKS_SHOWN
    assert len(read("bn_diff.json")["layers"]) == LAYERS_SHOWN
    for path in ("/model/layers", "/model/bn-diff"):
        assert ANSWERS[path, "get"][0].note.startswith("Shortened")
    stats, fold = read("bn_stats.json"), read("fold.json")
    assert [layer["name"] for layer in stats["layers"]] == ["model.0.bn"] == [layer["name"] for layer in fold["layers"]]
    assert (
        stats["totals"]["layers"] > 1 and len(stats["layers"][0]["arrays"]["gamma"]) == stats["layers"][0]["channels"]
    )


def test_the_table_has_the_columns_of_today(openapi: dict[str, Any], bundle: Bundle) -> None:
    (example,) = contents(openapi, "/model/bn-stats", "get")["text/csv"]["examples"].values()
    header, row = csv.reader(io.StringIO(example["value"]))
    today = bn_stats_csv(bundle, Selection(), PruneRule(), "summary").splitlines()[0]
    assert ",".join(header) == today, STALE.format("bn_stats.csv")
    named = dict(zip(header, row, strict=True))
    assert named["name"] == "model.0.bn" and named["stage"] in get_args(Stage)


def test_the_metrics_are_some_that_are_answered(openapi: dict[str, Any], server_url: str) -> None:
    (example,) = contents(openapi, "/metrics", "get")["text/plain"]["examples"].values()
    shown = {family.name: family for family in text_string_to_metric_families(example["value"])}
    answered = {f.name: f for f in text_string_to_metric_families(httpx.get(f"{server_url}/metrics").text)}
    assert len(shown) == 4
    for name, family in shown.items():
        assert (family.documentation, family.type) == (answered[name].documentation, answered[name].type)
        assert family.samples


def test_each_file_belongs_to_an_example_that_can_be_taken() -> None:
    files = [answer.file for answers in ANSWERS.values() for answer in answers]
    assert sorted(files) == sorted(path.name for path in FOLDER.iterdir()) == sorted(TAKERS)
    for path in map(Path, FOLDER.iterdir()):
        assert path.stat().st_size <= MOST_BYTES, path

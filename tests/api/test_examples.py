"""The examples in the API's description are whole answers of the shape that is answered now."""

from typing import Any

import pytest
from pydantic import BaseModel

from service.api.app import create_app
from service.api.drift_schemas import DriftAnswer, ImageDrift
from service.api.examples import ANSWERS, FOLDER
from service.api.lint_schemas import LintAnswer
from service.bundle.store import Bundle
from service.settings import load_settings

SHAPES: dict[str, type[BaseModel]] = {"drift": DriftAnswer, "drift_image": ImageDrift, "lint": LintAnswer}


@pytest.fixture(scope="module")
def openapi(bundle: Bundle) -> dict[str, Any]:
    return create_app(load_settings({}), bundle).openapi()


def assert_fits(value: Any, schema: dict[str, Any], openapi: dict[str, Any], where: str = "") -> None:
    """JSON Schema as far as the description uses it, and stricter: every property of an object is there, no other."""
    if "$ref" in schema:
        assert_fits(value, openapi["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]], openapi, where)
    elif "anyOf" in schema:
        kinds = [option for option in schema["anyOf"] if (option.get("type") == "null") == (value is None)]
        assert kinds, f"{where} is {value!r}"
        assert_fits(value, kinds[0], openapi, where)
    elif "enum" in schema or "const" in schema:
        assert value in schema.get("enum", [schema.get("const")]), where
    elif schema["type"] == "object" and "properties" in schema:
        assert set(value) == set(schema["properties"]), where
        for name, part in schema["properties"].items():
            assert_fits(value[name], part, openapi, f"{where}.{name}")
    elif schema["type"] == "object":
        for name, part in value.items():
            assert_fits(part, schema["additionalProperties"], openapi, f"{where}.{name}")
    elif schema["type"] == "array":
        assert isinstance(value, list), where
        for number, part in enumerate(value):
            assert_fits(part, schema["items"], openapi, f"{where}[{number}]")
    else:
        kinds = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "null": type(None)}
        assert isinstance(value, kinds[schema["type"]]), f"{where} is {value!r}"
        assert not isinstance(value, bool) or schema["type"] == "boolean", where


@pytest.mark.parametrize(("path", "method"), ANSWERS)
def test_the_example_is_a_whole_answer(openapi: dict[str, Any], path: str, method: str) -> None:
    content = openapi["paths"][path][method]["responses"]["200"]["content"]["application/json"]
    example = content["example"]
    assert_fits(example, content["schema"], openapi)
    shape = SHAPES[ANSWERS[path, method]]
    assert shape.model_validate(example, strict=True).model_dump(by_alias=True) == example


def test_the_examples_show_something(openapi: dict[str, Any]) -> None:
    drift, image, lint = (
        openapi["paths"][path][method]["responses"]["200"]["content"]["application/json"]["example"]
        for path, method in ANSWERS
    )
    assert drift["state"] == "drifting" and drift["problems"] and drift["onset"] == drift["windows"][1]["begun_at"]
    assert drift["sampled"] == len(drift["windows"]) * drift["window"]
    assert image["channels"] and image["score"] > 0
    assert lint["findings"] and lint["confusion"] and lint["effective_pictures"] <= lint["input"]["pictures"]


def test_no_example_is_left_over() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == set(ANSWERS.values())

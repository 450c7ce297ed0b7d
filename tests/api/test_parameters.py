"""A value that a parameter may not have is refused with the parameter's name and every value that it may have."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from service.api.app import create_app
from service.api.parameters import complain
from service.bundle.store import Bundle
from service.settings import load_settings
from tests.api.serving import assert_problem

IMAGE = {"content-type": "image/jpeg"}


@pytest.fixture(scope="module")
def parameters(bundle: Bundle) -> list[tuple[str, str, dict[str, Any]]]:
    """Method, path and parameter, of every operation."""
    paths = create_app(load_settings({}), bundle).openapi()["paths"]
    return [
        (method, path, parameter)
        for path, methods in paths.items()
        for method, operation in methods.items()
        for parameter in operation.get("parameters", ())
    ]


def values_of(parameter: dict[str, Any]) -> dict[str, Any]:
    """The schema of one value of a parameter that may be null, or a list."""
    schema = parameter["schema"]
    (schema,) = (option for option in schema.get("anyOf", [schema]) if option.get("type") != "null")
    return schema["items"] if schema["type"] == "array" else schema


def beyond(values: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """A value beyond each bound, and the bound."""
    step = 1 if values["type"] == "integer" else 0.001
    if "minimum" in values:
        yield str(values["minimum"] - step), values["minimum"]
    if "maximum" in values:
        yield str(values["maximum"] + step), values["maximum"]
        yield "9" * 5000, values["maximum"]


def test_a_number_out_of_range_is_told_its_range(server_url: str, parameters: list[tuple[str, str, dict]]) -> None:
    bounded = [found for found in parameters if {"minimum", "maximum"} & values_of(found[2]).keys()]
    assert {parameter["name"] for _, _, parameter in bounded} == {
        "conf", "max_det", "prune_threshold", "prune_percentile", "channels", "rounds", "batch",
    }  # fmt: skip
    for method, path, parameter in bounded:
        name, values = parameter["name"], values_of(parameter)
        for value, bound in beyond(values):
            response = httpx.request(method, server_url + path, params={name: value}, headers=IMAGE)
            document = assert_problem(response, 422, "invalid-parameter", field=name, limit=bound)
            words = f"from {values['minimum']} to {values['maximum']}" if "maximum" in values else ", at least 0"
            kind = "whole number" if values["type"] == "integer" else "number"
            assert (
                document["detail"].startswith(f"{name} must be a ")
                and f"{kind}{' ' * (words[0] != ',')}{words}; " in (document["detail"])
            )
            assert document["detail"].endswith(f"'{value[:100]}' was given.")


def test_what_is_no_number_is_told_the_range_as_well(server_url: str, parameters: list[tuple[str, str, dict]]) -> None:
    for method, path, parameter in parameters:
        if "minimum" in values_of(parameter):
            for value in ("x", "", "nan"):
                response = httpx.request(method, server_url + path, params={parameter["name"]: value}, headers=IMAGE)
                document = assert_problem(response, 422, "invalid-parameter", field=parameter["name"])
                assert "limit" not in document and f"; {value!r} was given." in document["detail"]


def test_bounds_themselves_are_allowed(server_url: str, parameters: list[tuple[str, str, dict]]) -> None:
    """An empty body is refused after the parameters; a measurement is not started for this."""
    for method, path, parameter in parameters:
        values = values_of(parameter)
        for bound in ("minimum", "maximum"):
            if bound in values and path != "/model/latency":
                params = {parameter["name"]: values[bound]}
                response = httpx.request(method, server_url + path, params=params, headers=IMAGE)
                assert response.status_code == (200 if method == "get" else 415 if "batch" in path else 400)


def test_a_word_that_is_not_in_the_list_is_told_the_list(
    server_url: str, parameters: list[tuple[str, str, dict]]
) -> None:
    listed = [found for found in parameters if "enum" in values_of(found[2])]
    assert len(listed) == 7
    for method, path, parameter in listed:
        name, words = parameter["name"], values_of(parameter)["enum"]
        response = httpx.request(method, server_url + path, params={name: words[0][:-1]})
        detail = assert_problem(response, 422, "invalid-parameter", field=name)["detail"]
        assert detail.startswith(f"{name} must be one of {', '.join(words)}; '{words[0][:-1]}' was given.")
        assert f" Did you mean '{words[0]}'?" in detail


def test_a_parameter_may_be_repeated_so_often(server_url: str) -> None:
    response = httpx.post(f"{server_url}/model/latency", params={"batch": [1] * 9})
    document = assert_problem(response, 422, "invalid-parameter", field="batch", limit=8)
    assert document["detail"] == "batch may be given 8 times at most; it was given 9 times."


def test_one_that_must_be_given(server_url: str) -> None:
    detail = assert_problem(httpx.get(f"{server_url}/model/bn-diff"), 422, "invalid-parameter", field="other")["detail"]
    assert detail == "other must be given. Folder name of a bundle in YOLOFOLD_BUNDLE_DIR."


@pytest.mark.parametrize(
    ("bounds", "given", "words", "limit"),
    [
        ({"exclusiveMinimum": 0, "maximum": 9}, "0", "a finite number, above 0, at most 9", 0),
        ({"exclusiveMinimum": 0, "maximum": 9}, "9.5", "a finite number, above 0, at most 9", 9),
        ({"minimum": -2, "exclusiveMaximum": 0}, "0", "a finite number, at least -2, below 0", 0),
        ({"minimum": -2, "exclusiveMaximum": 0}, "-3", "a finite number, at least -2, below 0", -2),
        ({}, "x", "a finite number", None),
    ],
)
def test_bounds_that_no_route_has_yet(bounds: dict[str, float], given: str, words: str, limit: float | None) -> None:
    complaint = complain("a", {"type": "number"} | bounds, given)
    assert complaint == (f"a must be {words}; '{given}' was given.", limit)

"""The OpenAPI document says of everything in it what it is."""

from collections.abc import Iterator
from typing import Any

import pytest

from service.api import problems
from service.api.app import create_app
from service.bundle.store import Bundle
from service.settings import load_settings

#: What FastAPI writes where a route says nothing.
FILLER = "Successful Response"


@pytest.fixture(scope="module")
def openapi(bundle: Bundle) -> dict[str, Any]:
    return create_app(load_settings({}), bundle).openapi()


def operations(openapi: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in openapi["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def properties(schema: dict[str, Any], name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for key, value in schema.get("properties", {}).items():
        yield f"{name}.{key}", value


def described_parts(openapi: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Everything that must have a description, and where it is."""
    yield "the document", openapi["info"]
    yield from ((f"tag {tag['name']}", tag) for tag in openapi["tags"])
    for name, schema in openapi["components"]["schemas"].items():
        yield name, schema
        yield from properties(schema, name)
    for name, operation in operations(openapi):
        yield name, operation
        yield from ((f"{name} ?{part['name']}", part) for part in operation.get("parameters", ()))
        for status, response in operation["responses"].items():
            yield f"{name} {status}", response
            yield from ((f"{name} {status} {header}", part) for header, part in response.get("headers", {}).items())
        if "requestBody" in operation:
            yield f"{name} body", operation["requestBody"]
            for media_type, content in operation["requestBody"]["content"].items():
                yield from properties(content["schema"], f"{name} body, {media_type}")


def test_everything_has_a_description(openapi: dict[str, Any]) -> None:
    parts = list(described_parts(openapi))
    missing = [where for where, part in parts if part.get("description", "").strip() in ("", FILLER)]
    assert not missing, f"without a description: {', '.join(missing)}"
    assert len(parts) > 700


def test_a_description_is_a_sentence_of_its_own(openapi: dict[str, Any]) -> None:
    """No fragment that was cut off, and none that has lost what filled a gap in it."""
    for where, part in described_parts(openapi):
        description = part["description"].strip()
        assert description.endswith((".", ").")), f"{where}: {description}"
        assert "{" not in description and "None" not in description, f"{where}: {description}"


def test_each_operation_has_a_name_and_a_tag_that_is_described(openapi: dict[str, Any]) -> None:
    tags = {tag["name"] for tag in openapi["tags"]}
    summaries = [operation["summary"] for _, operation in operations(openapi)]
    assert len(set(summaries)) == len(summaries) == 17
    assert all(set(operation["tags"]) <= tags for _, operation in operations(openapi))


def test_every_kind_of_problem_is_listed_by_an_operation_or_for_all_of_them(openapi: dict[str, Any]) -> None:
    listed = {
        example["value"]["type"]
        for _, operation in operations(openapi)
        for response in operation["responses"].values()
        for example in response.get("content", {}).get(problems.MEDIA_TYPE, {}).get("examples", {}).values()
    }
    kinds = [kind for name, kind in vars(problems).items() if isinstance(kind, problems.Kind) and name[0] != "_"]
    unlisted = {kind for kind in kinds if f"urn:yolofold:{kind.slug}" not in listed}
    description = openapi["info"]["description"]
    assert {kind for kind in kinds if f"{kind.status} `{kind.slug}` " in description} == unlisted
    assert {(400, "malformed-request"), (431, "head-too-large")} < {(kind.status, kind.slug) for kind in unlisted}


def test_every_schema_is_used(openapi: dict[str, Any]) -> None:
    used: set[str] = set()

    def follow(part: Any) -> None:
        if isinstance(part, dict):
            name = str(part.get("$ref", "")).removeprefix("#/components/schemas/")
            if name and name not in used:
                used.add(name)
                follow(openapi["components"]["schemas"][name])
            for value in part.values():
                follow(value)
        elif isinstance(part, list):
            for value in part:
                follow(value)

    follow(openapi["paths"])
    assert used == set(openapi["components"]["schemas"])

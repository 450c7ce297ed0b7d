"""What a query parameter may be, as its route declares it, and what is said of a value that it may not have."""

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from pydantic import TypeAdapter
from pydantic.fields import FieldInfo

from service.nearest import near_matches

#: JSON Schema, as the OpenAPI document has it for the parameter.
Schema = Mapping[str, Any]

_MOST_QUOTED = 100  # characters of a value
_NUMBERS = {"number": "number", "integer": "whole number"}
#: Keys of a schema, how each is told and when a number is beyond it.
_BOUNDS: dict[str, tuple[str, Callable[[float, float], bool]]] = {
    "minimum": ("at least", operator.lt),
    "exclusiveMinimum": ("above", operator.le),
    "maximum": ("at most", operator.gt),
    "exclusiveMaximum": ("below", operator.ge),
}


class Complaint(NamedTuple):
    """Why a value is refused; ``limit`` is the bound that it exceeds, if it does."""

    detail: str
    limit: float | None = None

    def members(self, name: str) -> dict[str, Any]:
        """Further fields of the problem document about the parameter of that name."""
        return {"field": name} | ({} if self.limit is None else {"limit": self.limit})


def declared_parameter(route: APIRoute, name: str) -> FieldInfo:
    """The query parameter of that name, whether the route itself declares it or one of its dependencies."""
    return next(info for found, info in _declared(route.dependant) if found == name)


def schema_of(parameter: FieldInfo) -> Schema:
    """Its values as JSON Schema."""
    described: Any = Annotated[parameter.annotation, parameter]
    return TypeAdapter(described).json_schema()


def complain(name: str, schema: Schema, given: str | Sequence[str]) -> Complaint:
    """What is wrong with a value that does not fit, and every value that would.

    Args:
        given: as it came; all of them where a parameter came too often.
    """
    schema = _only_option(schema)
    if not isinstance(given, str):
        most = schema["maxItems"]
        return Complaint(f"{name} may be given {most} times at most; it was given {len(given)} times.", most)
    value = schema.get("items", schema)
    quoted = given[:_MOST_QUOTED]
    near = near_matches(quoted, value.get("enum", ()))
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return Complaint(f"{name} must be {_allowed(value)}; {quoted!r} was given.{hint}", _exceeded(value, given))


def complain_of_absence(name: str, description: str | None) -> Complaint:
    """What is said where a parameter that must be given was not."""
    return Complaint(f"{name} must be given. {description or ''}".rstrip())


def _declared(dependant: Dependant) -> Iterator[tuple[str, FieldInfo]]:
    for parameter in dependant.query_params:
        yield parameter.name, parameter.field_info
    for dependency in dependant.dependencies:
        yield from _declared(dependency)


def _only_option(schema: Schema) -> Schema:
    """Without the null that stands for "not given"."""
    return next((option for option in schema.get("anyOf", ()) if option["type"] != "null"), schema)


def _allowed(value: Schema) -> str:
    if "enum" in value:
        return f"one of {', '.join(value['enum'])}"
    number = _NUMBERS[value["type"]]
    if "minimum" in value and "maximum" in value:
        return f"a {number} from {value['minimum']} to {value['maximum']}"
    bounds = [f"{word} {value[key]}" for key, (word, _) in _BOUNDS.items() if key in value]
    return ", ".join((f"a finite {number}", *bounds))


def _exceeded(value: Schema, given: str) -> float | None:
    try:
        number = float(given)
    except ValueError:
        return None
    exceeded = (value[key] for key, (_, beyond) in _BOUNDS.items() if key in value and beyond(number, value[key]))
    return next(exceeded, None)

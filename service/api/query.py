"""Query parameters: nothing unknown is silently ignored."""

from collections.abc import Sequence

from fastapi import Request

from service.api.problems import INVALID_PARAMETER, UNKNOWN_PARAMETER, RequestRefused
from service.nearest import near_matches

_MOST_LISTED = 100
_MOST_DIGITS = 9  # of a class id; int() itself refuses thousands of them
_MOST_QUOTED = 100  # characters of a value


class KnownQuery:
    """A dependency that refuses query parameters a route does not have, and repeated single ones."""

    def __init__(self, *single: str, repeatable: Sequence[str] = ()) -> None:
        self._single, self._names = single, (*single, *repeatable)

    async def __call__(self, request: Request) -> None:
        """Raises RequestRefused for the first parameter at fault."""
        for name in request.query_params:
            if name not in self._names:
                raise unknown_parameter(name, self._names)
        for name in self._single:
            if len(request.query_params.getlist(name)) > 1:
                raise repeated_parameter(name)


def unknown_parameter(name: str, known: Sequence[str]) -> RequestRefused:
    """The refusal of a parameter that is not among those that are ``known``."""
    if not known:
        detail = f"There is no query parameter {name!r}; this path takes none."
    else:
        hint = f" Did you mean {near[0]!r}?" if (near := near_matches(name, known)) else ""
        detail = f"There is no query parameter {name!r}.{hint} Known are: {', '.join(known)}."
    return RequestRefused(UNKNOWN_PARAMETER, detail, field=name)


def repeated_parameter(name: str) -> RequestRefused:
    """The refusal of a parameter that was given more than once."""
    return RequestRefused(INVALID_PARAMETER, f"{name} may be given once only.", field=name)


def resolve_classes(given: Sequence[str], names: Sequence[str]) -> list[int]:
    """Class ids for names or ids; a name wins where it could be either.

    Raises:
        RequestRefused: one is neither; the answer lists what there is.
    """
    ids = {name: index for index, name in reversed(list(enumerate(names)))}
    return [ids[value] if value in ids else _class_id(value, names) for value in given]


def _class_id(value: str, names: Sequence[str]) -> int:
    if value.isascii() and value.isdecimal() and len(value) <= _MOST_DIGITS and int(value) < len(names):
        return int(value)
    value = value[:_MOST_QUOTED]
    near = near_matches(value, names)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    listed = ", ".join(names[:_MOST_LISTED]) + (", ..." if len(names) > _MOST_LISTED else "")
    detail = f"There is no class {value!r}.{hint} Classes are the ids 0 to {len(names) - 1}, or: {listed}."
    raise RequestRefused(INVALID_PARAMETER, detail, field="classes")

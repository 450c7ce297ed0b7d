"""Names like the one that was mistyped."""

from collections.abc import Sequence

_SIMILAR = 60  # per cent


def near_matches(name: str, known: Sequence[str], limit: int = 3) -> list[str]:
    """The names most like ``name``, best first: what lies below it (``model.0.bn`` below ``model.0``), what contains
    it, what is spelt like it.
    """
    from rapidfuzz import process  # 2.6 MB, which a service that nobody mistypes a name to does without

    name = name.lower()
    below: list[str] = []
    containing: list[str] = []
    similar: list[str] = []
    for match, score, _ in process.extract(name, known, processor=str.lower, limit=None):
        if match.lower().startswith(f"{name}."):
            below.append(match)
        elif name and name in match.lower():
            containing.append(match)
        elif score >= _SIMILAR:
            similar.append(match)
    return [*below, *containing, *similar][:limit]

"""Names like the one that was mistyped."""

from collections.abc import Sequence

from rapidfuzz import process

_SIMILAR = 60  # per cent


def near_matches(name: str, known: Sequence[str], limit: int = 3) -> list[str]:
    """The names most like ``name``, best first."""
    found = process.extract(name.lower(), known, processor=str.lower, score_cutoff=_SIMILAR, limit=limit)
    return [match for match, _, _ in found]

"""Which of the model's classes a class of a data set is. Names decide, never positions."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from rapidfuzz import process

from service.errors import ClassMismatch

_SIMILAR = 75  # per cent
_MOST_LISTED = 100


def match_classes(names: Mapping[int, str], model: Sequence[str], source: Path) -> dict[int, int]:
    """The model's class id for each class id of a data set.

    The data set may number its classes in another order and know fewer of them.

    Args:
        names: class names of the data set by its own ids.
        model: class names of the model; the position is the id.
        source: the file that names the data set's classes, for the messages.

    Raises:
        ClassMismatch: a class that the model does not have, or a name that stands for two classes.
    """
    for whose, given in ((str(source), list(names.values())), ("The model", list(model))):
        if twice := [name for name, count in Counter(given).items() if count > 1]:
            raise ClassMismatch(
                f"{whose} gives several classes the name {twice[0]!r}, so names cannot tell them apart."
            )
    known = {name: number for number, name in enumerate(model)}
    if foreign := [name for name in names.values() if name not in known]:
        raise ClassMismatch(
            f"{source} names the class {foreign[0]!r}{_nearest(foreign[0], model)}, which is not one of the model's: "
            f"{listed(model)}. Evaluate with a data set of the model's own classes."
        )
    return {number: known[name] for number, name in names.items()}


def _nearest(name: str, model: Sequence[str]) -> str:
    found = process.extractOne(name.lower(), model, processor=str.lower, score_cutoff=_SIMILAR)
    return f" (did it mean {found[0]!r}?)" if found else ""


def listed(names: Sequence[str]) -> str:
    """Names for a message, at most a hundred of them."""
    return ", ".join(names[:_MOST_LISTED]) + (", ..." if len(names) > _MOST_LISTED else "")

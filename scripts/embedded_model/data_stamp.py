"""A note in a folder of generated pictures that says which sources and which seed drew them."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

_STAMP = "generator.json"
_PACKAGE = Path(__file__).parent
_ROOT = _PACKAGE.parent.parent
_PREFIX = "scripts.embedded_model"


class DataRefused(Exception):
    """Pictures in the folder do not belong to the data set that is wanted; the message says what to do."""


def generator_sources() -> list[Path]:
    """The modules that decide what a picture shows: `dataset.py` and all of this package that it imports."""
    found: set[Path] = set()
    waiting = [_PACKAGE / "dataset.py"]
    while waiting:
        path = waiting.pop()
        if path not in found and path != Path(__file__):
            found.add(path)
            waiting += _imported(path)
    return sorted(found)


def _imported(path: Path) -> Iterator[Path]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(_PREFIX):
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
            files = (_ROOT.joinpath(*name.split(".")).with_suffix(".py") for name in names)
            yield from (file for file in files if file.is_file())


def _fingerprint(seed: int) -> dict[str, int | str]:
    digest = hashlib.sha256()
    for path in generator_sources():
        digest.update(path.relative_to(_PACKAGE).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return {"seed": seed, "sources_sha256": digest.hexdigest()}


def claim_folder(root: Path, seed: int, adopt: bool) -> None:
    """Stamp a folder that is still without pictures; see to it that others have this generator's stamp.

    Args:
        adopt: stamp the folder anew, whatever lies there; its pictures are taken on trust.

    Raises:
        DataRefused: other sources or another seed drew its pictures, or it does not say which.
    """
    stamp, wanted = root / _STAMP, _fingerprint(seed)
    if not adopt and any(root.glob("images/*/*.jpg")):
        stored = json.loads(stamp.read_text()) if stamp.exists() else {}
        if stored != wanted:
            raise DataRefused(
                f"The pictures in {root} were not drawn by this generator with seed {seed}: "
                f"{_difference(stored, wanted)}. Delete the folder to draw them anew, or name another --work. If you "
                "know that they are those that are wanted, repeat the command with --adopt."
            )
    root.mkdir(parents=True, exist_ok=True)
    stamp.write_text(json.dumps(wanted, indent=1) + "\n")


def _difference(stored: dict[str, int | str], wanted: dict[str, int | str]) -> str:
    if not stored:
        return f"there is no {_STAMP}"
    if stored["seed"] != wanted["seed"]:
        return f"{_STAMP} says seed {stored['seed']}"
    return "its sources have changed since"


def refuse_surplus(folder: Path, indices: range) -> None:
    """See to it that a split holds none but the pictures of these indices.

    Raises:
        DataRefused: it holds others, which whoever reads the folder would take in.
    """
    wanted = {f"{index:06d}" for index in indices}
    surplus = sorted(path for path in folder.glob("*.jpg") if path.stem not in wanted)
    if surplus:
        raise DataRefused(
            f"{folder} holds {len(surplus)} pictures besides the {len(indices)} that are wanted, the first of them "
            f"{surplus[0].name}. Delete them, or ask for as many as there are."
        )

"""Small files that a run keeps, written so that a kill at any moment leaves the old content or the new one."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_whole(target: Path, text: str) -> None:
    """Replace a file's content in one step; missing folders are made."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    part.write_text(text)
    part.replace(target)


def read_lines(source: Path) -> list[dict[str, Any]]:
    """Objects of a JSON-lines file, none if it is missing. A last line that a kill cut short is left out."""
    if not source.exists():
        return []
    whole = source.read_text().rpartition("\n")[0]
    return [json.loads(line) for line in whole.splitlines()]


def write_lines(target: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Replace a JSON-lines file."""
    write_whole(target, "".join(_line(line) for line in lines))


def append_line(target: Path, line: Mapping[str, Any]) -> None:
    """Add an object to a JSON-lines file."""
    with target.open("a") as file:
        file.write(_line(line))


def _line(content: Mapping[str, Any]) -> str:
    return json.dumps(content, separators=(",", ":")) + "\n"


def put_in_place(files: Mapping[Path, Path]) -> None:
    """Copy each file to its place: all copies are made before the first of them takes the place of an old file."""
    copies = []
    for source, target in files.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        copy = target.with_name(f".{target.name}.part")
        shutil.copyfile(source, copy)
        copies.append((copy, target))
    for copy, target in copies:
        copy.replace(target)

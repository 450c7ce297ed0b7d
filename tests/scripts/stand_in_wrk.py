"""A program in the place of wrk, which is not among what the tests need: it sends a number of pictures, not a time.

It posts the form so often, one after another, prints figures as ``post.lua`` does, and notes the call.
"""

import json
import os
import sys
import time
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

_ANSWERS, _NOTES = "STAND_IN_WRK_ANSWERS", "STAND_IN_WRK_NOTES"


@dataclass(frozen=True)
class Call:
    """One load: where it went, with which options, and the server's own count of its processor time around it."""

    url: str
    options: list[str]
    server_s_before: float
    server_s_after: float

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or 0


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, answers: int) -> Path:
    """Put it first in the PATH, to send so many pictures a load. It notes in the file returned; see ``read_calls``."""
    program, notes = folder / "bin" / "wrk", folder / "calls.jsonl"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{__file__}" "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv(_ANSWERS, str(answers))
    monkeypatch.setenv(_NOTES, str(notes))
    return notes


def read_calls(notes: Path) -> list[Call]:
    """The loads so far, in their order."""
    return [Call(**json.loads(line)) for line in notes.read_text().splitlines()]


def _main() -> None:
    *options, url, _, content_type, body = sys.argv[1:]
    answers, before, began = int(os.environ[_ANSWERS]), _server_s(url), time.monotonic()
    for _ in range(answers):
        form = urllib.request.Request(url, Path(body).read_bytes(), {"Content-Type": content_type})
        with urllib.request.urlopen(form) as answer:
            answer.read()
    figures = {"answers": answers, "duration_us": round((time.monotonic() - began) * 1e6)}
    figures |= dict.fromkeys(("refused", "refusal", "broken", "timeouts"), 0)
    figures |= dict.fromkeys(("p50_us", "p90_us", "p99_us"), figures["duration_us"] / answers)
    with Path(os.environ[_NOTES]).open("a") as notes:
        print(json.dumps(asdict(Call(url, options, before, _server_s(url)))), file=notes)
    print("figures", json.dumps(figures))


def _server_s(url: str) -> float:
    place = urlsplit(url)
    with urllib.request.urlopen(f"{place.scheme}://{place.netloc}/metrics") as answer:
        rows = (line.split() for line in answer.read().decode().splitlines())
        return next(float(row[1]) for row in rows if row[0] == "process_cpu_seconds_total")


if __name__ == "__main__":
    _main()

"""The results as tables for people and as JSON for machines."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from scripts.bench.pictures import DEFAULT, Picture
from scripts.bench.rounds import Ceiling, Cell, Findings, Plan, Visit
from scripts.bench.servers import REFERENCE, Server
from scripts.bench.summary import PERCENTILES, Ratio, Summary, Throughput, summarise
from service.machine import was_busy

MEMORY = "sum over the process tree of VmHWM - (Rss - Pss): each process's own peak, shared pages counted once"
STARTUP = "from exec to the first right answer, files in the page cache"
LATENCY = "from the time a request was due to the end of its answer"
CLIENT = "wrk (closed loop) and a Python sender (open loop) on the same machine, not pinned"


@dataclass(frozen=True)
class Results:
    """A run and all that has to be known to repeat or doubt it.

    Attributes:
        about: machine, model and date, as JSON.
    """

    about: Mapping[str, Any]
    plan: Plan
    pictures: Sequence[Picture]
    servers: Sequence[Server]
    findings: Findings

    def summaries(self) -> dict[str, Summary]:
        """By server, in the order of ``servers``; without those left out."""
        visits = self.findings.visits
        return {
            server.name: summarise(visits[server.name], visits[REFERENCE])
            for server in self.servers
            if server.name in visits
        }

    def title(self, name: str) -> str:
        """Of a server, for people."""
        return next(server.title for server in self.servers if server.name == name)

    def cell_title(self, cell: Cell) -> str:
        """Of a closed-loop measurement, for people."""
        picture = next(picture for picture in self.pictures if picture.name == cell.picture)
        return f"{picture.title}, {cell.connections} at once"

    def ceiling(self) -> float:
        """Images per second of the bare engine: the better way's median over the rounds."""
        return best_ceiling(self.findings.ceilings)


def best_ceiling(ceilings: Sequence[Ceiling]) -> float:
    """Median over the rounds of one session on all cores or of one per core, whichever is more."""
    return max(median(c.one_session for c in ceilings), median(c.many_sessions for c in ceilings))


def markdown(results: Results) -> str:
    """Tables: throughput, latency with memory and start-up, and who was left out."""
    summaries = results.summaries()
    parts = [_throughput_table(results, summaries), _latency_table(results, summaries), _notes(results, summaries)]
    if results.findings.left_out:
        left = [f"- {results.title(name)}: {reason}" for name, reason in results.findings.left_out.items()]
        parts.append("Left out:\n\n" + "\n".join(left))
    return "\n\n".join(parts) + "\n"


def _throughput_table(results: Results, summaries: Mapping[str, Summary]) -> str:
    cells = results.plan.cells
    rows = [["images/s (times yolofold's, 95 % interval)", *(results.cell_title(cell) for cell in cells)]]
    for name, summary in summaries.items():
        rows.append([results.title(name), *(throughput_text(name, summary.throughput[cell]) for cell in cells)])
    rows.append(["ceiling: ONNX Runtime, tensor ready", *[f"{results.ceiling():.1f}"] * len(cells)])
    return _table(rows)


def _latency_table(results: Results, summaries: Mapping[str, Summary]) -> str:
    rate = results.findings.expected.rate_per_s
    head = [
        f"at {rate:g} requests/s",
        *(f"p{p} ms" for p in PERCENTILES),
        "p50, times yolofold's",
        "peak MB",
        "start-up s",
    ]
    rows = [head]
    for name, summary in summaries.items():
        ratio = "" if name == REFERENCE or summary.latency_ratio is None else ratio_text(summary.latency_ratio)
        latencies = (milliseconds_text(summary.latency_ms[p]) for p in PERCENTILES)
        rows.append(
            [results.title(name), *latencies, ratio, f"{summary.peak_bytes / 1e6:.0f}", f"{summary.startup_s:.1f}"]
        )
    return _table(rows)


def _notes(results: Results, summaries: Mapping[str, Summary]) -> str:
    rounds, requests = summaries[REFERENCE].rounds, summaries[REFERENCE].requests
    plan = results.plan
    lines = [
        f"{rounds} rounds; {plan.seconds} s for each closed loop, {plan.open_seconds:g} s for the open loop, "
        f"{requests} requests in all; {len(plan.cores)} cores of {results.about['machine']['cpu']}.",
        f"Latency: {LATENCY}. Peak: {MEMORY}. Start-up: {STARTUP}. Load: {CLIENT}.",
    ]
    known = [cores for cores in results.findings.other_cores if cores is not None]
    if known:
        lines.append(
            f"Other work kept up to {max(known):.1f} cores busy in a round"
            + (": trust no figure." if was_busy(max(known)) else ".")
        )
    for name, summary in summaries.items():
        most = max(figure.images_per_s for cell, figure in summary.throughput.items() if cell.picture == DEFAULT)
        if most < results.findings.expected.rate_per_s:
            lines.append(f"{results.title(name)} cannot keep up with that load: its queue grew, and latency with it.")
        if summary.unanswered:
            lines.append(
                f"{results.title(name)}: {summary.unanswered} of {summary.requests} paced requests without an answer."
            )
    return "\n".join(lines)


def throughput_text(name: str, figure: Throughput) -> str:
    """Images per second of a server, with its ratio unless it is the one that others are compared to."""
    return f"{figure.images_per_s:.1f}" + ("" if name == REFERENCE else f" ({ratio_text(figure.ratio)})")


def ratio_text(ratio: Ratio) -> str:
    """As 0.91, 0.88 to 0.94; without the interval where there is none."""
    if ratio.low is None or ratio.high is None:
        return f"{ratio.estimate:.2f}"
    return f"{ratio.estimate:.2f}, {ratio.low:.2f} to {ratio.high:.2f}"


def milliseconds_text(milliseconds: float) -> str:
    """Whole milliseconds from 100 on, one decimal below; infinite if never answered."""
    if math.isinf(milliseconds):
        return "no answer"
    return f"{milliseconds:.0f}" if milliseconds >= 100 else f"{milliseconds:.1f}"


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [" | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "|".join("-" * (width + (1 if n == 0 else 2)) for n, width in enumerate(widths)))
    return "\n".join(f"| {line} |" if n != 1 else f"|-{line}|" for n, line in enumerate(lines))


def document(results: Results) -> dict[str, Any]:
    """Everything as JSON: what was measured, every visit's raw figures and the summaries. Infinite becomes null."""
    summaries, visits, findings = results.summaries(), results.findings.visits, results.findings
    plan = results.plan
    return {
        **results.about,
        "plan": {
            **{name: value for name, value in vars(plan).items() if name != "cells"},
            "cells": [vars(cell) for cell in plan.cells],
            "rate_per_s": findings.expected.rate_per_s,
        },
        "definitions": {"memory": MEMORY, "startup": STARTUP, "latency": LATENCY, "client": CLIENT},
        "pictures": [
            {"name": p.name, "width": p.wh[0], "height": p.wh[1], "bytes": len(p.jpeg), "sha256": p.sha256}
            for p in results.pictures
        ],
        "other_cores": findings.other_cores,
        "boxes_expected": {name: len(found) for name, found in findings.expected.answers.items()},
        "ceiling": {"images_per_s": results.ceiling(), "rounds": [vars(ceiling) for ceiling in findings.ceilings]},
        "servers": [
            {
                "name": server.name,
                "title": server.title,
                "setup": server.setup,
                "packages": list(server.pins),
                "left_out": findings.left_out.get(server.name),
                "summary": _summary_json(summaries[server.name]) if server.name in summaries else None,
                "rounds": [_visit_json(visit) for visit in visits.get(server.name, [])],
            }
            for server in results.servers
        ],
    }


def _summary_json(summary: Summary) -> dict[str, Any]:
    return {
        "throughput": [
            {**vars(cell), "images_per_s": figure.images_per_s, "ratio": vars(figure.ratio)}
            for cell, figure in summary.throughput.items()
        ],
        "latency_ms": {f"p{p}": _finite(value) for p, value in summary.latency_ms.items()},
        "latency_p50_ratio": None if summary.latency_ratio is None else vars(summary.latency_ratio),
        "requests": summary.requests,
        "unanswered": summary.unanswered,
        "peak_bytes": summary.peak_bytes,
        "startup_s": summary.startup_s,
    }


def _visit_json(visit: Visit) -> dict[str, Any]:
    return {
        "startup_s": visit.startup_s,
        "peak_bytes": visit.peak_bytes,
        "closed": [{**vars(cell), **vars(found)} for cell, found in visit.closed.items()],
        "open": {
            "latencies_ms": [_finite(latency) for latency in visit.open.latencies_ms],
            "send_lag_ms": visit.open.send_lag_ms,
        },
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None

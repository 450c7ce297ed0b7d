"""The results as tables for people."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scripts.bench.comparison import Comparison, ceiling_medians, compare, over_ceiling
from scripts.bench.pictures import DEFAULT, Picture
from scripts.bench.rounds import Ceiling, Cell, Findings, Plan
from scripts.bench.servers import REFERENCE, ULTRALYTICS, Server
from scripts.bench.summary import PERCENTILES, Ratio, Summary, Throughput, summarise
from service.machine import was_busy

MEMORY = "sum over the process tree of VmHWM - (Rss - Pss): each process's own peak, shared pages counted once"
STARTUP = "from exec to the first right answer, files in the page cache"
INSTALLED = "the server's environment on disk, as pip installs it, without interpreter, model and the server's own code"
BEST_PEER = "the best of the servers that are not ours, in each round and column"
LATENCY = "from the time a request was due to the end of its answer"
CLIENT = "wrk (closed loop) and a Python sender (open loop) on the same machine, not pinned"


@dataclass(frozen=True)
class Results:
    """A run and all that has to be known to repeat or doubt it.

    Attributes:
        about: machine, model and date, as JSON.
        installed: bytes of each server's environment; None where there is none.
    """

    about: Mapping[str, Any]
    plan: Plan
    pictures: Sequence[Picture]
    servers: Sequence[Server]
    findings: Findings
    installed: Mapping[str, int | None]

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

    def ceilings(self) -> dict[str, Ceiling]:
        """Of each bare engine and precision, the fastest first: medians over the rounds."""
        medians = ceiling_medians(self.findings.ceilings)
        return dict(sorted(medians.items(), key=lambda item: -item[1].images_per_s))

    def ceiling(self) -> float:
        """Images per second of the fastest bare engine."""
        return next(iter(self.ceilings().values())).images_per_s

    def ours(self) -> list[str]:
        """Names of our servers that were measured."""
        return [server.name for server in self.servers if server.ours and server.name in self.findings.visits]

    def comparisons(self, name: str) -> dict[str, Comparison]:
        """A server's figures over the best peer's and over those of Ultralytics behind FastAPI, by title."""
        visits = self.findings.visits
        peers = [server for server in self.servers if not server.ours and server.name in visits]
        others = {"the best peer": peers} if peers else {}
        others |= {server.title: [server] for server in peers if server.name == ULTRALYTICS}
        return {
            title: compare(visits[name], [visits[server.name] for server in servers])
            for title, servers in others.items()
        }

    def ceiling_shares(self, name: str) -> dict[str, dict[Cell, Ratio]]:
        """One of our server's images per second over the ceilings of what it runs on and of the fastest engine."""
        visits, ceilings = self.findings.visits[name], self.findings.ceilings
        own = {visit.runs_on.engine for visit in visits if visit.runs_on is not None}
        wanted = {*(own if len(own) == 1 else ()), next(iter(self.ceilings()))}
        return {
            engine: over_ceiling(visits, [found[engine] for found in ceilings])
            for engine in self.ceilings()
            if engine in wanted
        }

    def runs_on(self, name: str) -> list[str]:
        """What one of our servers ran on, in words; more than one if it changed between rounds."""
        found = (visit.runs_on for visit in self.findings.visits[name])
        return list(dict.fromkeys(engine.words for engine in found if engine is not None))


def markdown(results: Results) -> str:
    """Tables: throughput, latency with memory and start-up, ours beside the best, and who was left out."""
    summaries = results.summaries()
    parts = [
        _throughput_table(results, summaries),
        _latency_table(results, summaries),
        _comparison_table(results),
        _ceiling_table(results),
        _notes(results, summaries),
    ]
    if results.findings.left_out:
        left = [f"- {results.title(name)}: {reason}" for name, reason in results.findings.left_out.items()]
        parts.append("Left out:\n\n" + "\n".join(left))
    return "\n\n".join(part for part in parts if part) + "\n"


def _throughput_table(results: Results, summaries: Mapping[str, Summary]) -> str:
    cells = results.plan.cells
    rows = [["images/s (times yolofold's, 95 % interval)", *(results.cell_title(cell) for cell in cells)]]
    for name, summary in summaries.items():
        rows.append([results.title(name), *(throughput_text(name, summary.throughput[cell]) for cell in cells)])
    for engine, ceiling in results.ceilings().items():
        rows.append([f"ceiling: {engine}, tensor ready", *[f"{ceiling.images_per_s:.1f}"] * len(cells)])
    return _table(rows)


def _latency_table(results: Results, summaries: Mapping[str, Summary]) -> str:
    rate = results.findings.expected.rate_per_s
    head = [
        f"at {rate:g} requests/s",
        *(f"p{p} ms" for p in PERCENTILES),
        "p50, times yolofold's",
        "peak MB",
        "start-up s",
        "installed MB",
    ]
    rows = [head]
    for name, summary in summaries.items():
        ratio = "" if name == REFERENCE or summary.latency_ratio is None else ratio_text(summary.latency_ratio)
        latencies = (milliseconds_text(summary.latency_ms[p]) for p in PERCENTILES)
        installed = results.installed.get(name)
        rows.append(
            [
                results.title(name),
                *latencies,
                ratio,
                f"{summary.peak_bytes / 1e6:.0f}",
                f"{summary.startup_s:.1f}",
                "" if installed is None else f"{installed / 1e6:.0f}",
            ]
        )
    return _table(rows)


def _comparison_table(results: Results) -> str:
    """Empty where no peer was measured."""
    cells = results.plan.cells
    rows = [["ours, in times", "of", *(f"images/s: {results.cell_title(cell)}" for cell in cells), "p50"]]
    for name in results.ours():
        for title, found in results.comparisons(name).items():
            latency = "" if found.latency is None else ratio_text(found.latency)
            rows.append([results.title(name), title, *(ratio_text(found.throughput[cell]) for cell in cells), latency])
    return _table(rows) if len(rows) > 1 else ""


def _ceiling_table(results: Results) -> str:
    cells, best = results.plan.cells, next(iter(results.ceilings()))
    rows = [["ours, images/s in times", "of the ceiling", *(results.cell_title(cell) for cell in cells)]]
    for name in results.ours():
        for engine, shares in results.ceiling_shares(name).items():
            title = f"{engine} (the best)" if engine == best else engine
            rows.append([results.title(name), title, *(ratio_text(shares[cell]) for cell in cells)])
    return _table(rows)


def _notes(results: Results, summaries: Mapping[str, Summary]) -> str:
    rounds, requests = summaries[REFERENCE].rounds, summaries[REFERENCE].requests
    plan = results.plan
    lines = [
        f"{rounds} rounds; {plan.seconds} s for each closed loop, {plan.open_seconds:g} s for the open loop, "
        f"{requests} requests in all; {len(plan.cores)} cores of {results.about['machine']['cpu']}.",
        f"Latency: {LATENCY}. Peak: {MEMORY}. Start-up: {STARTUP}. Installed: {INSTALLED}. Load: {CLIENT}.",
        f"The best peer: {BEST_PEER}.",
    ]
    for name in results.ours():
        lines.extend(f"{results.title(name)} ran on {words}." for words in results.runs_on(name))
        runs_on = (visit.runs_on for visit in results.findings.visits[name])
        if anew := sum(found is not None and found.remembered is False for found in runs_on):
            lines.append(f"{results.title(name)} chose its engine anew in {anew} rounds: its start-up includes that.")
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

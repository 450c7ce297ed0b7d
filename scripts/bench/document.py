"""The results as JSON for machines."""

import math
from collections.abc import Mapping
from typing import Any

from scripts.bench.comparison import Comparison
from scripts.bench.report import BEST_PEER, CLIENT, INSTALLED, LATENCY, MEMORY, STARTUP, Results
from scripts.bench.rounds import Ceiling, Cell, Visit
from scripts.bench.summary import Ratio, Summary


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
        "definitions": {
            "memory": MEMORY,
            "startup": STARTUP,
            "installed": INSTALLED,
            "latency": LATENCY,
            "best_peer": BEST_PEER,
            "client": CLIENT,
        },
        "pictures": [
            {"name": p.name, "width": p.wh[0], "height": p.wh[1], "bytes": len(p.jpeg), "sha256": p.sha256}
            for p in results.pictures
        ],
        "other_cores": findings.other_cores,
        "boxes_expected": {name: len(found) for name, found in findings.expected.answers.items()},
        "ceiling": {
            "images_per_s": results.ceiling(),
            "best": next(iter(results.ceilings())),
            "engines": {name: _ceiling_json(found) for name, found in results.ceilings().items()},
            "rounds": [{name: vars(found) for name, found in ceilings.items()} for ceilings in findings.ceilings],
        },
        "servers": [
            {
                "name": server.name,
                "title": server.title,
                "setup": server.setup,
                "packages": list(server.pins),
                "ours": server.ours,
                "installed_bytes": results.installed.get(server.name),
                "left_out": findings.left_out.get(server.name),
                "summary": _summary_json(summaries[server.name]) if server.name in summaries else None,
                **(_ours_json(results, server.name) if server.name in results.ours() else {}),
                "rounds": [_visit_json(visit) for visit in visits.get(server.name, [])],
            }
            for server in results.servers
        ],
    }


def _ours_json(results: Results, name: str) -> dict[str, Any]:
    return {
        "runs_on": results.runs_on(name),
        "over": {title: _comparison_json(found) for title, found in results.comparisons(name).items()},
        "over_ceiling": {engine: _ratios_json(found) for engine, found in results.ceiling_shares(name).items()},
    }


def _comparison_json(comparison: Comparison) -> dict[str, Any]:
    latency = comparison.latency
    return {
        "throughput": _ratios_json(comparison.throughput),
        "latency_p50": None if latency is None else vars(latency),
    }


def _ratios_json(ratios: Mapping[Cell, Ratio]) -> list[dict[str, Any]]:
    return [{**vars(cell), "ratio": vars(ratio)} for cell, ratio in ratios.items()]


def _ceiling_json(ceiling: Ceiling) -> dict[str, float]:
    return {**vars(ceiling), "images_per_s": ceiling.images_per_s}


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
        "runs_on": None if visit.runs_on is None else vars(visit.runs_on),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None

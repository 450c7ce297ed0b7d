"""The chart for README: images per second beside latency at the given load, as SVG without any library."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from scripts.bench.pictures import DEFAULT
from scripts.bench.report import Results, milliseconds_text, throughput_text
from scripts.bench.rounds import Cell

WIDTH, _LABELS, _BARS, _ROW, _TOP = 860, 230, 420, 30, 34
#: To the left of it all: how wide the longest title is depends on the reader's font.
_MARGIN = 16
#: A bar that is this many times as long as the shortest is cut, or one overloaded server would flatten the others.
_MOST_TIMES = 6.0
# Both of GitHub's backgrounds are met: the file follows the reader's colour scheme.
_STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#1f2328}.title{font-weight:600}.small{font-size:11px;fill:#59636e}"
    ".bar{fill:#8c959f}.own{fill:#0969da}.line{stroke:#59636e;fill:none}.dash{stroke:#59636e;stroke-dasharray:4 3}"
    "@media(prefers-color-scheme:dark){text{fill:#f0f6fc}.small{fill:#9198a1}.bar{fill:#656c76}.own{fill:#4493f8}"
    ".line,.dash{stroke:#9198a1}}"
)


@dataclass(frozen=True)
class _Bar:
    """One row: ``value`` is drawn as a bar, a line from it reaches to ``end``."""

    label: str
    value: float
    end: float
    text: str
    own: bool


def busiest_default(cells: Sequence[Cell]) -> Cell:
    """The cell that the chart shows: the default picture, with the middle number of connections."""
    own = sorted((cell for cell in cells if cell.picture == DEFAULT), key=lambda cell: cell.connections)
    return own[len(own) // 2]


def draw(results: Results) -> str:
    """The SVG document: two panels of horizontal bars, yolofold's in blue."""
    summaries, cell = results.summaries(), busiest_default(results.plan.cells)
    ours = results.ours()
    rates, latencies = [], []
    for name, summary in summaries.items():
        own, label = name in ours, results.title(name)
        rate, p50, p99 = summary.throughput[cell], summary.latency_ms[50], summary.latency_ms[99]
        rates.append(_Bar(label, rate.images_per_s, rate.images_per_s, throughput_text(name, rate), own))
        text = f"{milliseconds_text(p50)} / {milliseconds_text(p99)}"
        latencies.append(_Bar(label, p50, p99, text, own))
    first, height = _panel(f"Images per second: {results.cell_title(cell)}", rates, 0, results.ceiling())
    rate_per_s = results.findings.expected.rate_per_s
    second, height = _panel(
        f"Latency at {rate_per_s:g} requests/s, ms: p50 (bar) / p99 (line)", latencies, height, None
    )
    machine = escape(f"{len(results.plan.cores)} cores of {results.about['machine']['cpu']}")
    note = (
        f"{machine}. Dashed: the fastest bare engine. In parentheses: times yolofold's, 95 % interval. "
        "\u25b8: longer than drawn."
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{-_MARGIN} 0 {WIDTH + _MARGIN} {height + 20}" role="img" '
        f'aria-label="Throughput and latency of yolofold beside other servers"><style>{_STYLE}</style>'
        f'{first}{second}<text class="small" x="0" y="{height + 8}">{note}</text></svg>\n'
    )


def _panel(title: str, bars: Sequence[_Bar], top: int, mark: float | None) -> tuple[str, int]:
    """A panel that begins at ``top``, and where it ends. ``mark`` is the value of the dashed line."""
    shortest = min((bar.end for bar in bars if math.isfinite(bar.end)), default=1.0)
    full = max(min(max(bar.end for bar in bars), _MOST_TIMES * shortest), mark or 0.0)
    scale = _BARS / full
    parts = [f'<text class="title" x="0" y="{top + 20}">{escape(title)}</text>']
    for number, bar in enumerate(bars):
        y = top + _TOP + number * _ROW
        value, end = (min(v * scale, _BARS) for v in (bar.value, bar.end))
        text = bar.text if bar.end <= full else f"\u25b8 {bar.text}"
        parts.append(f'<text x="{_LABELS - 10}" y="{y + 16}" text-anchor="end">{escape(bar.label)}</text>')
        kind = "own" if bar.own else "bar"
        parts.append(f'<rect class="{kind}" x="{_LABELS}" y="{y + 3}" width="{value:.1f}" height="18"/>')
        if end > value:
            parts.append(f'<path class="line" d="M{_LABELS + value:.1f} {y + 12}H{_LABELS + end:.1f}m0 -5v10"/>')
        at = _LABELS + max(end, (mark or 0.0) * scale) + 8
        parts.append(f'<text class="small" x="{at:.1f}" y="{y + 16}">{escape(text)}</text>')
    bottom = top + _TOP + len(bars) * _ROW
    if mark is not None:
        x = _LABELS + mark * scale
        parts.append(f'<path class="dash" d="M{x:.1f} {top + _TOP - 2}V{bottom}"/>')
    return "".join(parts), bottom + 10

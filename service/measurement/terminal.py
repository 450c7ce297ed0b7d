"""A latency report as lines of text."""

from collections.abc import Iterator

from service.bundle.latency import Comparison, LatencyReport, Series


def report_lines(report: LatencyReport) -> Iterator[str]:
    """The whole report for a terminal, line by line."""
    yield f"{report.machine.cpu}, {report.machine.cores} cores, {report.threads} threads, {report.imgsz} px"
    for series in report.series:
        yield from ("", *_series_lines(series))
    if report.memory:
        yield from ("", "Peak memory of loading and running, each in a process of its own")
    for item in report.memory:
        above = (item.peak_bytes - item.baseline_bytes) / 1e6
        yield f"{above:9.1f} MB above the {item.baseline_bytes / 1e6:.1f} MB before, batch {item.batch}  {item.arm}"
    if report.not_measured:
        yield from ("", "Not measured")
    for left in report.not_measured:
        yield f"  {left.question} {left.reason}"


def series_title(series: Series) -> str:
    """What was measured, in a few words."""
    callers = "" if series.callers == 1 else f", {series.callers} callers"
    return f"{series.kind.capitalize()} on {series.device}, batch {series.batch}{callers}"


def series_verdicts(series: Series) -> Iterator[str]:
    """A line for each question of a series, the null control first."""
    null = series.null_control
    yield _verdict(null)
    noise = max(null.ci95_high, 1 / null.ci95_low)
    for item in series.comparisons:
        # Without its reason, such a verdict would seem to contradict the interval beside it.
        beyond_1 = not item.ci95_low <= 1 <= item.ci95_high
        lost = f" (two copies of the same graph seem to differ by up to {noise:.2f}x)"
        yield _verdict(item) + (lost if beyond_1 and item.verdict == "indistinguishable" else "")


def _series_lines(series: Series) -> Iterator[str]:
    others = "unknown" if series.other_cores is None else f"{series.other_cores:.2f}"
    yield (
        f"{series_title(series)}: {series.sessions} sessions, {series.rounds} rounds, {series.dropped_rounds} dropped "
        f"and repeated, cores busy with other work: {others}"
    )
    for arm in series.arms:
        spread = f"[{arm.p05_ms:.2f}, {arm.p95_ms:.2f}]"
        nodes = "" if arm.nodes is None else f"{arm.nodes} nodes, "
        yield (
            f"{arm.median_ms:9.2f} ms {spread:<20}{arm.images_per_second:8.1f} images/s  {arm.title} ({arm.precision}, "
            f"{nodes}{arm.batch_normalizations} BatchNorm, {arm.bytes / 1e6:.1f} MB, loads in {arm.load_ms:.0f} ms)"
        )
    yield from series_verdicts(series)


def _verdict(item: Comparison) -> str:
    return f"{item.speedup:5.2f}x [{item.ci95_low:.2f}, {item.ci95_high:.2f}] {item.verdict:<17} {item.question}"

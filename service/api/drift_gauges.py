"""Drift of live pictures, as Prometheus sees it."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from service.drift.monitor import Report


def drift_metrics(report: Report) -> Iterator[Metric]:
    """Gauges and counters of `GET /model/drift`. What is not known yet has no sample."""
    yield CounterMetricFamily("yolofold_drift_pictures", "Pictures measured for drift since the start.", report.sampled)
    drifting = float(report.onset is not None)
    yield GaugeMetricFamily("yolofold_drift_alarm", "1 while the pictures are drifting, else 0.", drifting)
    if report.onset is not None:
        text = "When the present drift began, seconds since 1970."
        yield GaugeMetricFamily("yolofold_drift_onset_timestamp_seconds", text, report.onset)
    if report.calibrated is not None:
        text = "Score above which a window raises the alarm."
        yield GaugeMetricFamily("yolofold_drift_threshold", text, report.calibrated.baseline.threshold)
    if report.windows and report.windows[-1].score is not None:
        text = "Score of the last full window against the calibration."
        yield GaugeMetricFamily("yolofold_drift_score", text, report.windows[-1].score)
    yield from _layer_metrics(report)


def _layer_metrics(report: Report) -> Iterator[Metric]:
    labels = ["layer", "reference"]
    shifts = GaugeMetricFamily(
        "yolofold_drift_layer_z_rms", "Shift of the means, in standard deviations of the reference.", labels=labels
    )
    divergences = GaugeMetricFamily(
        "yolofold_drift_layer_symmetric_kl", "Mean symmetric divergence of the channels, nats.", labels=labels
    )
    for layer in report.layers:
        for reference, found in (("training", layer.training), ("baseline", layer.baseline)):
            if found is not None:
                shifts.add_metric([layer.name, reference], found.z_rms)
                divergences.add_metric([layer.name, reference], found.symmetric_kl)
    yield shifts
    yield divergences

"""Drift of live pictures, as Prometheus sees it."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from service.drift.monitor import Report

#: Attributes of ``LayerDistances``.
_FIGURES = {
    "z_rms": "shift of the means, in standard deviations of the reference, root mean square.",
    "log_variance_ratio": "median over the channels of |ln(variance / that of the reference)|.",
    "symmetric_kl": "mean symmetric divergence of the channels, nats.",
    "wasserstein2": "2-Wasserstein distance, root mean square, in units of the output.",
}


def drift_metrics(report: Report, processor_s: float) -> Iterator[Metric]:
    """Gauges and counters of `GET /model/drift`. What is not known yet has no sample.

    Args:
        processor_s: processor time that watching live pictures has taken, seconds.
    """
    yield CounterMetricFamily("yolofold_drift_pictures", "Pictures measured for drift since the start.", report.sampled)
    # Beside `process_cpu_seconds_total` it says what watching costs here and now.
    text = "Processor time of the thread that watches live pictures."
    yield CounterMetricFamily("yolofold_drift_cpu_seconds", text, processor_s)
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
    yield from _overall_metrics(report)
    yield from _layer_metrics(report)


def _overall_metrics(report: Report) -> Iterator[Metric]:
    for name, text in _FIGURES.items():
        gauge = GaugeMetricFamily(f"yolofold_drift_{name}", f"All probed layers: {text}", labels=["reference"])
        for reference, found in (("training", report.training), ("baseline", report.baseline)):
            if found is not None:
                gauge.add_metric([reference], getattr(found, name))
        yield gauge


def _layer_metrics(report: Report) -> Iterator[Metric]:
    for name, text in _FIGURES.items():
        gauge = GaugeMetricFamily(f"yolofold_drift_layer_{name}", f"One layer: {text}", labels=["layer", "reference"])
        for layer in report.layers:
            for reference, found in (("training", layer.training), ("baseline", layer.baseline)):
                if found is not None:
                    gauge.add_metric([layer.name, reference], getattr(found, name))
        yield gauge

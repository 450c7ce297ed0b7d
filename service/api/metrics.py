"""``GET /metrics``: figures for Prometheus, computed when they are asked for."""

from collections.abc import Iterator

from fastapi import APIRouter, Depends, Response
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from service.api import problems
from service.api.query import KnownQuery
from service.api.state import Service, ServiceDep
from service.drift.monitor import Report

router = APIRouter(tags=["health"])


@router.get(
    "/metrics",
    summary="Figures for Prometheus",
    response_class=Response,
    responses={
        200: {
            "description": "Prometheus' text format, version 0.0.4.",
            "content": {"text/plain": {"schema": {"type": "string"}, "example": "yolofold_jobs_waiting 0.0\n"}},
        },
        **problems.document_problems(problems.UNKNOWN_PARAMETER, problems.NOT_READY),
    },
    dependencies=[Depends(KnownQuery())],
)
def get_metrics(service: ServiceDep) -> Response:
    """Drift of live pictures as in `GET /model/drift`, and how busy the workers are.

    What is not known yet has no sample: scores before the first full window, the onset while there is no drift.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_ServiceCollector(service))
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_PLAIN_0_0_4)


class _ServiceCollector(Collector):
    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        pool = self._service.pool
        yield GaugeMetricFamily("yolofold_jobs_waiting", "Jobs that no worker has begun.", pool.waiting)
        yield GaugeMetricFamily("yolofold_jobs_running", "Jobs being worked on.", pool.running)
        yield CounterMetricFamily("yolofold_jobs_begun", "Jobs that a worker has begun since the start.", pool.begun)
        yield from _drift_metrics(self._service.drift.monitor.report())


def _drift_metrics(report: Report) -> Iterator[Metric]:
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

"""What is read from the running service at the moment of a scrape."""

from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from service import __version__
from service.api.drift_gauges import drift_metrics
from service.api.state import Service


class ServiceGauges(Collector):
    """Gauges of one application. Each group is a function below that ``collect`` names; a new one goes there."""

    def __init__(self, running: Callable[[], Service | None]) -> None:
        """``running`` gives the service, or None before it has started and after it has stopped."""
        self._running = running

    def collect(self) -> Iterator[Metric]:
        """Every group; without a running service only that it is not ready. Called on any thread."""
        service = self._running()
        yield _readiness(service)
        if service is None:
            return
        yield _identity(service)
        yield from _queue(service)
        yield from _uploads(service)
        yield from drift_metrics(service.drift.monitor.report(), service.drift.processor_s)


def _readiness(service: Service | None) -> Metric:
    ready = service is not None and service.pool.alive
    return GaugeMetricFamily("yolofold_ready", "1 when GET /readyz answers 200, else 0.", value=float(ready))


def _identity(service: Service) -> Metric:
    model, engine = service.bundle.manifest.model, service.engine
    what = {
        "model": model.name,
        "version": model.version,
        "engine": engine.provider,
        "runtime": engine.runtime,
        "service_version": __version__,
    }
    return InfoMetricFamily("yolofold", "What is served and what runs it.", value=what)


def _queue(service: Service) -> Iterator[Metric]:
    pool = service.pool
    yield GaugeMetricFamily("yolofold_queue_waiting", "Jobs that no worker has begun.", value=pool.waiting)
    yield GaugeMetricFamily("yolofold_queue_running", "Jobs being worked on.", value=pool.running)
    yield CounterMetricFamily("yolofold_jobs_begun", "Jobs that a worker has begun since the start.", value=pool.begun)
    yield GaugeMetricFamily("yolofold_workers", "Worker threads.", value=pool.workers)


def _uploads(service: Service) -> Iterator[Metric]:
    held = service.uploads.held_bytes
    yield GaugeMetricFamily("yolofold_upload_held_bytes", "Bytes of request bodies held now.", value=held)

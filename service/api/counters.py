"""What is counted while requests are answered, and the plain ASGI that counts them."""

import time
from collections import Counter as Tally
from collections.abc import Collection, Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

STAGES = ("decode", "queue", "inference", "postprocess")
#: The route of every path that leads nowhere. No path contains a bare "(", so it cannot be mistaken for one.
UNKNOWN_ROUTE = "(unknown)"
#: The parser lets some forty methods through; each would be a series of its own.
OTHER_METHOD = "other"
_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_REQUEST_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
#: Decoding a small picture and waiting in an empty queue take less than any whole request.
_STAGE_BUCKETS_S = (0.001, 0.0025, 0.005, *_REQUEST_BUCKETS_S)


class Counters:
    """The counters of one application, in the registry given. Safe to use from several threads."""

    def __init__(self, registry: CollectorRegistry, classes: Sequence[str]) -> None:
        """``classes`` are the model's; each has its series from the start, so that a first detection is a rise."""
        self._requests = Counter(
            "yolofold_requests_total",
            "Requests answered, by route template; HEAD counts as the GET it is answered as.",
            ("route", "method", "status"),
            registry=registry,
        )
        self._seconds = Histogram(
            "yolofold_request_seconds",
            "Seconds from the request's head to the end of its answer, the upload included.",
            ("route",),
            buckets=_REQUEST_BUCKETS_S,
            registry=registry,
        )
        self._in_progress = Gauge(
            "yolofold_requests_in_progress", "Requests not answered yet, a scrape itself included.", registry=registry
        )
        stages = Histogram(
            "yolofold_stage_seconds",
            "Seconds of each stage of a picture in POST /detect and /detect/batch, as in its timing_ms.",
            ("stage",),
            buckets=_STAGE_BUCKETS_S,
            registry=registry,
        )
        found = Counter(
            "yolofold_detections_total",
            "Objects that POST /detect and /detect/batch found, by class.",
            ("class",),
            registry=registry,
        )
        self._batch_images = Counter(
            "yolofold_batch_images_total",
            "Pictures that POST /detect/batch answered, by the status that each would have had alone.",
            ("status",),
            registry=registry,
        )
        self._stages = {stage: stages.labels(stage) for stage in STAGES}
        self._found = [found.labels(name) for name in classes]

    def begin_request(self) -> None:
        """A request has arrived; ``end_request`` must follow."""
        self._in_progress.inc()

    def end_request(self, route: str, method: str, status: int, seconds: float) -> None:
        """A request has been answered. ``route`` must come from a bounded set."""
        self._in_progress.dec()
        self._requests.labels(route, method if method in _METHODS else OTHER_METHOD, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def add_detections(self, steps_ms: Mapping[str, float], class_ids: Sequence[int]) -> None:
        """One picture went through.

        Args:
            steps_ms: milliseconds of each of ``STAGES``.
            class_ids: class of every object found.
        """
        for stage, histogram in self._stages.items():
            histogram.observe(steps_ms[stage] / 1e3)
        for class_id, count in Tally(class_ids).items():
            self._found[class_id].inc(count)

    def add_batch_image(self, status: int) -> None:
        """One picture of a batch has its result, 200 or the status of its problem."""
        self._batch_images.labels(str(status)).inc()


class CountRequests:
    """Counts each HTTP request when the last of its answer is handed over, or when it fails.

    So a client that has its answer finds it counted. It must be the innermost middleware: routing leaves the route in
    the scope that it was given, and waiting for bodies nobody read is no part of the answer.
    """

    def __init__(self, app: ASGIApp, counters: Counters, plain_paths: Collection[str]) -> None:
        """``plain_paths`` are those served by something other than a route of FastAPI: a page or a mounted folder."""
        self._app, self._counters, self._plain_paths = app, counters, plain_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count HTTP, pass everything else on as it is."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, counted = time.perf_counter(), False
        status = 500  # what the server answers for a request that raised before it answered anything
        self._counters.begin_request()

        def count() -> None:
            nonlocal counted
            if not counted:
                counted = True
                self._counters.end_request(self._route(scope), scope["method"], status, time.perf_counter() - began)

        async def send_and_count(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            elif message["type"] == "http.response.body" and not message.get("more_body", False):
                count()
            await send(message)

        try:
            await self._app(scope, receive, send_and_count)
        finally:
            count()

    def _route(self, scope: Scope) -> str:
        if (route := scope.get("route")) is not None:
            return str(route.path)
        # Within a mounted folder, root_path is where it is mounted.
        plain = scope.get("root_path") or scope["path"]
        return plain if plain in self._plain_paths else UNKNOWN_ROUTE

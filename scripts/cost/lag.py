"""How late the event loop is while the server has all it can do, by what the server itself counts in GET /metrics."""

import http.client
import math
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from scripts.bench.closed_loop import LoadFailed, run_closed_loop
from scripts.bench.pictures import SEED
from scripts.bench.running import ServerFailed
from scripts.bench.turns import PAUSE_S, start_ours
from scripts.bench.upload import Address, form_body, get, post
from scripts.cost.measuring import Say
from scripts.cost.spots import Spot
from service.settings import Settings

#: Of the closed loop. Its pictures are the usual ones.
CONNECTIONS = 16
#: What the loop is to stay under, seconds.
GOAL_S = 0.02
#: A load lasts so many times as long as one of the curves: the loop is looked at 20 times a second.
LONGER = 5
_LIMIT_S = 60.0
_SERIES = "yolofold_event_loop_lag_seconds"
_LARGEST_QUALITY = 95
#: Of the largest file allowed: the form around it has room, too.
_SHARE_OF_LARGEST = 0.99


@dataclass(frozen=True)
class Lag:
    """What the server counted during one load.

    Attributes:
        load: what it was, for people.
        looks: at the loop's lateness.
        p99_ms, most_ms: upper edge of the bucket in which the 99th percentile and the latest look are, milliseconds;
            None beyond the last.
        over_goal: looks that were later than ``GOAL_S``.
        uploads: of the largest size, answered meanwhile.
    """

    load: str
    looks: int
    p99_ms: float | None
    most_ms: float | None
    over_goal: int
    uploads: int

    @property
    def words(self) -> str:
        """For people."""
        p99, most = ("off the scale" if ms is None else f"at most {ms:g} ms" for ms in (self.p99_ms, self.most_ms))
        return (
            f"{self.load}: p99 {p99}, latest {most}, {self.over_goal} of {self.looks} looks later than "
            f"{GOAL_S * 1e3:g} ms, {self.uploads} largest uploads"
        )


def measure_lag(
    spot: Spot, cores: Sequence[int], seconds: int, scratch: Path, say: Say, settings: Mapping[str, str] | None = None
) -> list[Lag]:
    """Load a server with ``CONNECTIONS`` connections, and again while one more sends the largest picture allowed.

    A first load warms up and does not count.

    Args:
        spot: what is served and sent; its connections do not matter.
        cores: numbers of those that the server may use.
        seconds: of a load, before ``LONGER``.
        settings: environment variables of the server.

    Raises:
        ServerFailed, LoadFailed: the server does not start, or refuses a request or leaves it without an answer.
    """
    largest = form_body(largest_picture(Settings.model_fields["max_upload_bytes"].default))
    plain = f"{CONNECTIONS} connections"
    found = []
    with start_ours(spot.bundle, cores[: spot.cores], scratch / "lag.log", spot.body, settings) as up:
        run_closed_loop(up.address, spot.body, CONNECTIONS, seconds)
        for load, body in ((plain, None), (f"{plain} and one that sends {len(largest) / 1e6:.1f} MB", largest)):
            say(f"Lag of the event loop: {load}")
            time.sleep(PAUSE_S)
            with _sending(up.address, body) as answered:
                before = lag_buckets(get(up.address, "/metrics", _LIMIT_S).decode())
                run_closed_loop(up.address, spot.body, CONNECTIONS, LONGER * seconds)
                after = lag_buckets(get(up.address, "/metrics", _LIMIT_S).decode())
            found.append(summarise(load, before, after, len(answered)))
    return found


def largest_picture(max_bytes: int) -> bytes:
    """A JPEG of coloured noise, nearly as large as a file may be: nothing has more bytes for its pixels."""

    def encode(side: int) -> bytes:
        pixels = np.random.default_rng(SEED).integers(0, 256, (side, side, 3), np.uint8)
        return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, _LARGEST_QUALITY])[1].tobytes()

    tried = 512
    return encode(math.floor(tried * math.sqrt(_SHARE_OF_LARGEST * max_bytes / len(encode(tried)))))


def lag_buckets(metrics: str) -> dict[float, int]:
    """How many looks were no later than each edge, in seconds, by the text of GET /metrics.

    Raises:
        ServerFailed: it does not say.
    """
    samples = (sample for family in text_string_to_metric_families(metrics) for sample in family.samples)
    found = {float(s.labels["le"]): int(s.value) for s in samples if s.name == f"{_SERIES}_bucket"}
    if not found:
        raise ServerFailed("it does not say how late its event loop is")
    return dict(sorted(found.items()))


def summarise(load: str, before: Mapping[float, int], after: Mapping[float, int], uploads: int) -> Lag:
    """What was counted between two looks at ``GET /metrics``; both by edge, from the least to infinity.

    Raises:
        LoadFailed: nothing was.
    """
    counted = {edge: after[edge] - before[edge] for edge in after}
    looks = counted[math.inf]
    if not looks:
        raise LoadFailed("the server did not look at its event loop")

    def edge_ms(share: float) -> float | None:
        edge = next(edge for edge, count in counted.items() if count >= share * looks)
        return edge * 1e3 if math.isfinite(edge) else None

    return Lag(load, looks, edge_ms(0.99), edge_ms(1.0), looks - counted[GOAL_S], uploads)


@contextmanager
def _sending(address: Address, body: bytes | None) -> Iterator[list[int]]:
    """Send a body again and again until the block ends; none where there is none. Gives the statuses answered.

    Raises:
        LoadFailed: when the block ends, if one was not answered well.
    """
    answered: list[int] = []
    over = threading.Event()

    def send(body: bytes) -> None:
        while not over.is_set():
            try:
                answered.append(post(address, body, _LIMIT_S)[0])
            except (OSError, http.client.HTTPException):
                answered.append(0)

    sender = None if body is None else threading.Thread(target=send, args=(body,))
    if sender is not None:
        sender.start()
    try:
        yield answered
    finally:
        over.set()
        if sender is not None:
            sender.join()
    if set(answered) - {200}:
        raise LoadFailed(f"the largest pictures were answered {sorted(set(answered))}")

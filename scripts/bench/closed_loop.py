"""Throughput: each of so many connections sends its next request as soon as the last is answered. By wrk, in C."""

import json
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from scripts.bench.upload import CONTENT_TYPE, Address

SCRIPT = Path(__file__).with_name("post.lua")
#: Longest wait for one answer.
TIMEOUT_S = 30
_MARK = "figures "


class LoadFailed(Exception):
    """Requests were not answered as they should have been."""


@dataclass(frozen=True)
class ClosedLoop:
    """What wrk counted.

    Attributes:
        answers: all 2xx. What is in flight when the time is up does not count, about one picture's work a run.
        seconds: wrk's own measurement of the time.
        p50_ms, p90_ms, p99_ms: from a request's sending to the end of its answer.
    """

    answers: int
    seconds: float
    p50_ms: float
    p90_ms: float
    p99_ms: float

    @property
    def images_per_s(self) -> float:
        """Answers per second."""
        return self.answers / self.seconds


def run_closed_loop(address: Address, body: bytes, connections: int, seconds: int) -> ClosedLoop:
    """Load a server with wrk.

    Args:
        body: the form, as ``form_body`` makes it.
        connections: requests at work at once, one per connection, which is kept open.
        seconds: whole, as wrk wants them.

    Raises:
        LoadFailed: wrk is not there, or any request was refused, broken off or not answered in time.
    """
    wrk = shutil.which("wrk")
    if wrk is None:
        raise LoadFailed("wrk is not installed (Debian: apt-get install wrk)")
    with tempfile.NamedTemporaryFile(prefix="yolofold-bench-") as file:
        file.write(body)
        file.flush()
        options = ["-t1", f"-c{connections}", f"-d{seconds}s", f"--timeout={TIMEOUT_S}s", "-s", str(SCRIPT)]
        command = [wrk, *options, address.url, "--", CONTENT_TYPE, file.name]
        # wrk stops by itself; the rest is for one that hangs.
        limit_s = seconds + TIMEOUT_S + 10
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s)
        except subprocess.TimeoutExpired as error:
            raise LoadFailed(f"wrk had not ended after {limit_s} s") from error
    if done.returncode:
        raise LoadFailed(f"wrk ended with code {done.returncode}: {done.stderr.strip()}")
    return parse_figures(done.stdout)


def parse_figures(output: str) -> ClosedLoop:
    """What ``post.lua`` printed.

    Raises:
        LoadFailed: no figures, no answer, or a request that failed.
    """
    line = next((line for line in output.splitlines() if line.startswith(_MARK)), None)
    if line is None:
        raise LoadFailed(f"wrk printed no figures: {output[-300:]!r}")
    figures = json.loads(line.removeprefix(_MARK))
    if figures["refused"]:
        raise LoadFailed(f"{figures['refused']} requests were refused, the last with status {figures['refusal']}")
    if figures["broken"] or figures["timeouts"]:
        raise LoadFailed(f"{figures['broken']} connections broke and {figures['timeouts']} answers came too late")
    if not figures["answers"]:
        raise LoadFailed("no request was answered")
    milliseconds = {f"{p}_ms": figures[f"{p}_us"] / 1000 for p in ("p50", "p90", "p99")}
    return ClosedLoop(figures["answers"], figures["duration_us"] / 1e6, **milliseconds)

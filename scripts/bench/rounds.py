"""The run: servers one after another, every one once per round, in an order drawn anew for each round.

Each visit starts the server afresh, so a round is one independent observation of everything that its start decides,
and whatever slows the machine down for longer than a round hits all servers alike.
"""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from scripts.bench.answers import Found, read_answer, require_same
from scripts.bench.closed_loop import ClosedLoop, LoadFailed, run_closed_loop
from scripts.bench.open_loop import MOST_REQUESTS, OpenLoop, run_open_loop
from scripts.bench.peers.task import Task
from scripts.bench.pictures import DEFAULT, Picture
from scripts.bench.process_tree import processor_s
from scripts.bench.running import START_LIMIT_S, Check, Running, ServerFailed, require_answer, running
from scripts.bench.runs_on import RunsOn, ask_runs_on
from scripts.bench.servers import ROOT, Server
from scripts.bench.upload import Address, form_body, get_json, post
from service.machine import CpuWatch, was_busy

SEED = 20261129
#: Connections while a server warms up and while yolofold's capacity is measured, at the least.
_BUSY_CONNECTIONS = 4
#: Warm-up requests for each of these.
_WARM_UP = 4
#: Longest first start of a server: measuring the engines alone may take five minutes.
_REHEARSAL_LIMIT_S = 420.0


class CannotBenchmark(Exception):
    """There is nothing to compare with; the text is for the person who started the run."""


@dataclass(frozen=True)
class Cell:
    """One closed-loop measurement."""

    picture: str
    connections: int


@dataclass(frozen=True)
class Plan:
    """What is measured and for how long.

    Attributes:
        rounds: at most.
        seconds: of each closed-loop measurement; whole.
        open_seconds: of the open-loop measurement.
        load: the open loop's requests per second, as a share of yolofold's images per second.
        rate_per_s: the open loop's requests per second; None takes ``load``.
        minutes: no round is begun that would, being as long as the longest so far, end later than this.
        cores: numbers of the cores on which the servers run.
    """

    rounds: int
    seconds: int
    open_seconds: float
    load: float
    rate_per_s: float | None
    minutes: float
    cores: tuple[int, ...]
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Expected:
    """What every server has to answer, and the load that all get.

    Attributes:
        answers: the reference's detections, by picture.
        predict: arguments with which Ultralytics' predict gives them.
        rate_per_s: of the open loop.
    """

    answers: Mapping[str, list[Found]]
    predict: dict[str, Any]
    rate_per_s: float


@dataclass(frozen=True)
class Visit:
    """What one server showed in one round.

    Attributes:
        runs_on: None for servers that are not ours.
    """

    startup_s: float
    peak_bytes: int
    closed: Mapping[Cell, ClosedLoop]
    open: OpenLoop
    runs_on: RunsOn | None = None


@dataclass(frozen=True)
class Ceiling:
    """Images per second of a bare engine on a tensor that is ready.

    Attributes:
        one_run: at a time, on all cores.
        run_per_core: so many at once, of one thread each.
    """

    one_run: float
    run_per_core: float

    @property
    def images_per_s(self) -> float:
        """Of the better way."""
        return max(self.one_run, self.run_per_core)


@dataclass
class Findings:
    """All that a run has found in its whole rounds.

    Attributes:
        ceilings: by round, then by engine and precision.
        other_cores: by round, what other work kept busy meanwhile; None where the system does not say.
        visits: by server, then by round.
        left_out: reason by server.
    """

    expected: Expected
    ceilings: list[Mapping[str, Ceiling]] = field(default_factory=list)
    other_cores: list[float | None] = field(default_factory=list)
    visits: dict[str, list[Visit]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


class Bench:
    """One run over a set of servers. ``say`` gets a line for each step."""

    def __init__(
        self, plan: Plan, task: Task, pictures: Sequence[Picture], logs: Path, say: Callable[[str], None]
    ) -> None:
        self._plan, self._task, self._logs, self._say = plan, task, logs, say
        self._bodies = {picture.name: form_body(picture.jpeg) for picture in pictures}

    def run(self, reference: Server, servers: Sequence[Server], keep: Callable[[Findings], None]) -> Findings:
        """Ask the reference, then go the rounds.

        Args:
            keep: called after each round with all that has been found: whatever ends the run, that is not lost.

        Raises:
            CannotBenchmark: the reference, which has to be among the servers, fails, or finds nothing in a picture.
        """
        started, longest = time.monotonic(), 0.0
        findings = Findings(self._ask(reference))
        self._rehearse([server for server in servers if server.name != reference.name], findings)
        random_order = random.Random(SEED)
        for number in range(1, self._plan.rounds + 1):
            if number > 1 and time.monotonic() - started + longest > self._plan.minutes * 60:
                self._say(f"{number - 1} rounds: another would not end within {self._plan.minutes:g} minutes.")
                break
            round_started, others = time.monotonic(), CpuWatch(own_s=processor_s)
            ceilings, visits = self._measure_ceilings(), dict[str, Visit]()
            taking_part = [server for server in servers if server.name not in findings.left_out]
            for server in random_order.sample(taking_part, len(taking_part)):
                self._say(f"round {number}: {server.title}")
                try:
                    visits[server.name] = self._visit(server, number, findings.expected)
                except (ServerFailed, LoadFailed) as failure:
                    if server.name == reference.name:
                        raise CannotBenchmark(f"{reference.title} failed in round {number}: {failure}") from failure
                    self._say(f"  left out: {failure}")
                    findings.left_out[server.name] = str(failure)
                    findings.visits.pop(server.name, None)
            other_cores = others.other_cores()
            if was_busy(other_cores):
                self._say(f"round {number}: other work kept {other_cores:.1f} cores busy: trust none of its figures")
            findings.ceilings.append(ceilings)
            findings.other_cores.append(None if other_cores is None else round(other_cores, 2))
            for name, visit in visits.items():
                findings.visits.setdefault(name, []).append(visit)
            keep(findings)
            longest = max(longest, time.monotonic() - round_started)
        return findings

    def _ask(self, reference: Server) -> Expected:
        self._say(f"asking {reference.title} for the boxes expected")
        try:
            with self._running(reference, self._task, "reference", read_answer) as server:
                answers = {name: read_answer(self._answer(server.address, name)) for name in self._bodies}
                for name, found in answers.items():
                    if not found:
                        raise CannotBenchmark(
                            f"The model finds nothing in the picture {name}; agreement would be empty."
                        )
                predict = get_json(server.address, "/model", 30)["ultralytics_predict"]
                rate = self._plan.rate_per_s
                if rate is None:
                    self._warm_up(server.address)
                    busy = self._busy_connections()
                    capacity = run_closed_loop(server.address, self._bodies[DEFAULT], busy, self._plan.seconds)
                    rate = self._plan.load * capacity.images_per_s
        except (ServerFailed, LoadFailed) as failure:
            raise CannotBenchmark(f"{reference.title} cannot be asked: {failure}") from failure
        rate = max(round(rate, 1), 0.1)
        requests = round(rate * self._plan.open_seconds)
        if not 1 <= requests <= MOST_REQUESTS:
            raise CannotBenchmark(
                f"{rate:g} requests/s for {self._plan.open_seconds:g} s are {requests} requests; the open loop takes "
                f"1 to {MOST_REQUESTS}. Change --open-seconds, --rate or --load."
            )
        return Expected(answers, predict, rate)

    def _rehearse(self, servers: Sequence[Server], findings: Findings) -> None:
        """Start each once and hold its answers against those expected; who fails here is left out.

        What a server finds out or makes at its first start and keeps is there when its start is timed: the choice of an
        engine, an exported graph, compiled Python, files in the page cache.
        """
        for server in servers:
            self._say(f"first start of {server.title}")
            try:
                task, log = replace(self._task, predict=findings.expected.predict), f"{server.name}-first"
                check = self._check(findings.expected, DEFAULT)
                with self._running(server, task, log, check, _REHEARSAL_LIMIT_S) as up:
                    self._require_answers(up.address, findings.expected)
                    if server.ours:
                        self._say(f"  it runs on {ask_runs_on(up.address).words}")
            except ServerFailed as failure:
                self._say(f"  left out: {failure}")
                findings.left_out[server.name] = str(failure)

    def _answer(self, address: Address, picture: str) -> bytes:
        status, answer = post(address, self._bodies[picture], 30)
        if status != 200:
            raise ServerFailed(f"it answered the picture {picture} with status {status}: {answer[:200]!r}")
        return answer

    def _visit(self, server: Server, number: int, expected: Expected) -> Visit:
        task = replace(self._task, predict=expected.predict)
        with self._running(server, task, f"{server.name}-{number}", self._check(expected, DEFAULT)) as up:
            self._require_answers(up.address, expected)
            runs_on = ask_runs_on(up.address) if server.ours else None
            self._warm_up(up.address)
            closed = {
                cell: run_closed_loop(up.address, self._bodies[cell.picture], cell.connections, self._plan.seconds)
                for cell in self._plan.cells
            }
            paced = run_open_loop(up.address, self._bodies[DEFAULT], expected.rate_per_s, self._plan.open_seconds)
            return Visit(up.startup_s, up.peak_bytes(), closed, paced, runs_on)

    def _require_answers(self, address: Address, expected: Expected) -> None:
        for picture, body in self._bodies.items():
            require_answer(address, body, self._check(expected, picture))

    def _running(
        self, server: Server, task: Task, log: str, check: Check, start_limit_s: float = START_LIMIT_S
    ) -> AbstractContextManager[Running]:
        log_file = self._logs / f"{log}.log"
        return running(server, task, self._plan.cores, log_file, self._bodies[DEFAULT], check, start_limit_s)

    def _check(self, expected: Expected, picture: str) -> Check:
        return lambda body: require_same(read_answer(body), expected.answers[picture], self._task.confidence)

    def _warm_up(self, address: Address) -> None:
        """Enough requests at once that every worker gets some."""
        body = self._bodies[DEFAULT]
        busy = self._busy_connections()
        with ThreadPoolExecutor(busy) as pool:
            for _ in pool.map(lambda _: require_answer(address, body, read_answer), range(busy * _WARM_UP)):
                pass

    def _busy_connections(self) -> int:
        return max(_BUSY_CONNECTIONS, 2 * len(self._plan.cores))

    def _measure_ceilings(self) -> dict[str, Ceiling]:
        self._say("the bare engines")
        pinned = ["taskset", "-c", ",".join(map(str, self._plan.cores)), sys.executable, "-m", f"{__package__}.ceiling"]
        command = [*pinned, self._task.graph, str(len(self._plan.cores)), str(self._plan.seconds)]
        limit_s = 6 * self._plan.seconds + 120  # of three engines, two ways each
        done = subprocess.run(command, cwd=ROOT, env=os.environ, stdout=subprocess.PIPE, timeout=limit_s, check=True)
        return {name: Ceiling(**found) for name, found in json.loads(done.stdout).items()}

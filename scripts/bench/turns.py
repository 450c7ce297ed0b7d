"""Servers of ours that are up at once and loaded one at a time, in an order drawn anew for each turn.

Whatever slows the machine down for longer than a turn then hits all of them alike.
"""

import http.client
import random
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from prometheus_client.parser import text_string_to_metric_families

from scripts.bench.answers import read_answer
from scripts.bench.closed_loop import ClosedLoop, run_closed_loop
from scripts.bench.peers.task import Task
from scripts.bench.running import Running, ServerFailed, running
from scripts.bench.servers import reference_server
from scripts.bench.upload import Address, get
from service.bundle.store import load_bundle

SEED = 20261129
#: After each load, so that what a server does after its last answer is not paid for by the next one.
PAUSE_S = 0.5
_SCRAPE_LIMIT_S = 30.0
Name = TypeVar("Name")


@dataclass(frozen=True)
class Load:
    """What is sent, and to which server.

    Attributes:
        body: the form.
        connections: of the closed loop.
        query: of the address; begins with a question mark.
    """

    server: Running
    body: bytes
    connections: int
    query: str = ""


def start_ours(
    bundle: Path, cores: Sequence[int], log: Path, body: bytes, settings: Mapping[str, str] | None = None
) -> AbstractContextManager[Running]:
    """yolofold with its defaults, but for ``settings``; ``running`` says how it is started and ended.

    Args:
        cores: numbers of those that it may use.
        log: file for what it prints.
        body: the form that it has to answer first.
        settings: environment variables.

    Raises:
        BundleError: there is no bundle, or it is damaged.
        ServerFailed: on entering, it does not start.
    """
    model = load_bundle(bundle).manifest.model
    task = Task(0, len(cores), "", "", model.classes, model.default_confidence, predict={})
    plain = reference_server(bundle, Path(sys.executable))
    server = replace(plain, settings={**plain.settings, **(settings or {})})
    return running(server, task, cores, log, body, read_answer)


def take_turns(loads: Mapping[Name, Load], seconds: int, order: random.Random) -> dict[Name, ClosedLoop]:
    """Load each once, for ``seconds``, one after another; a pause follows each, the last one too.

    Raises:
        LoadFailed: wrk is not there, or a server refuses a request.
    """
    found = {}
    for name in order.sample(list(loads), len(loads)):
        load = loads[name]
        address = replace(load.server.address, query=load.query)
        found[name] = run_closed_loop(address, load.body, load.connections, seconds)
        time.sleep(PAUSE_S)
    return found


def pictures_begun(address: Address) -> int:
    """How many pictures yolofold has begun to work on since its start.

    After a load it is more than wrk's answers, by those in work when the time was up: they are worked on to their end.

    Raises:
        ServerFailed: it does not say.
    """
    try:
        families = text_string_to_metric_families(get(address, "/metrics", _SCRAPE_LIMIT_S).decode())
        samples = (sample for family in families for sample in family.samples)
        return next(int(sample.value) for sample in samples if sample.name == "yolofold_jobs_begun_total")
    except (OSError, http.client.HTTPException, StopIteration) as error:
        raise ServerFailed(f"it did not say how many pictures it has begun ({error!r})") from error

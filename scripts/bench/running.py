"""One server process tree: started on given cores, timed to its first right answer, and ended whatever happens."""

import http.client
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from scripts.bench.answers import WrongAnswer
from scripts.bench.peers.task import HOST, Task
from scripts.bench.process_tree import end_processes, peak_bytes, process_tree, tree_processor_s
from scripts.bench.servers import ROOT, Server
from scripts.bench.upload import Address, post

START_LIMIT_S = 120.0
ANSWER_LIMIT_S = 30.0
_POLL_S = 0.02


#: Raises ``WrongAnswer`` unless the body of an answer is right.
Check = Callable[[bytes], object]


class ServerFailed(Exception):
    """The server cannot be measured; the text is the reason given in the report."""


@dataclass(frozen=True)
class Running:
    """A server that answers.

    Attributes:
        startup_s: from its exec to its first right answer.
    """

    address: Address
    pid: int
    startup_s: float

    def peak_bytes(self) -> int:
        """See ``process_tree.peak_bytes``."""
        return peak_bytes([process.pid for process in process_tree(self.pid)])

    def processor_s(self) -> float:
        """See ``process_tree.tree_processor_s``."""
        return tree_processor_s(self.pid)


@contextmanager
def running(
    server: Server,
    task: Task,
    cores: Sequence[int],
    log: Path,
    body: bytes,
    check: Check,
    start_limit_s: float = START_LIMIT_S,
) -> Iterator[Running]:
    """Start a server on a free port, wait for its first right answer, and end it afterwards.

    Args:
        task: its port is replaced.
        cores: numbers of the cores to which it is pinned.
        log: file for what it prints.
        body: the form that it has to answer.
        check: of the answer.
        start_limit_s: longest wait for the first answer.

    Raises:
        ServerFailed: not installed, ended, silent for ``start_limit_s``, or its answer is wrong.
    """
    if not server.python.exists():
        raise ServerFailed("its environment could not be installed")
    address = Address(HOST, _free_port())
    task = replace(task, port=address.port)
    # Without the operator's own settings: the report says how each server is set up.
    own = {name: value for name, value in os.environ.items() if not name.startswith("YOLOFOLD_")}
    environ = own | task.environ() | {"YOLOFOLD_PORT": str(address.port)} | dict(server.settings)
    pinned = [shutil.which("taskset") or "taskset", "-c", ",".join(map(str, cores))]
    command = [*pinned, str(server.python), "-m", server.module, *server.arguments]
    with log.open("wb") as output:
        started = time.perf_counter()
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            _await_answer(address, process, log, body, check, start_limit_s)
            yield Running(address, process.pid, time.perf_counter() - started)
        finally:
            end_processes(process.pid)
            process.wait()


def require_answer(address: Address, body: bytes, check: Check) -> None:
    """Ask once for one picture's boxes.

    Raises:
        ServerFailed: no answer, or a wrong one.
    """
    try:
        status, answer = post(address, body, ANSWER_LIMIT_S)
    except (OSError, http.client.HTTPException) as error:
        raise ServerFailed(f"it did not answer ({error!r})") from error
    if status != 200:
        raise ServerFailed(f"it answered with status {status}: {answer[:200]!r}")
    _require_right(answer, check)


def _require_right(answer: bytes, check: Check) -> None:
    try:
        check(answer)
    except WrongAnswer as error:
        raise ServerFailed(f"it answers wrongly: {error}") from error


def _await_answer(
    address: Address, process: subprocess.Popen[bytes], log: Path, body: bytes, check: Check, limit_s: float
) -> None:
    deadline = time.perf_counter() + limit_s
    last = "it did not listen"
    while time.perf_counter() < deadline:
        if process.poll() is not None:
            raise ServerFailed(f"it ended with code {process.returncode} and said: {_last_line(log)}")
        try:
            status, answer = post(address, body, ANSWER_LIMIT_S)
        except (OSError, http.client.HTTPException) as error:
            last = f"last: {error!r}"
        else:
            if status == 200:
                _require_right(answer, check)
                return
            last = f"last: status {status}, {answer[:200]!r}"
        time.sleep(_POLL_S)
    raise ServerFailed(f"it was not ready after {limit_s:.0f} s ({last}); its log ends: {_last_line(log)}")


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1].strip()[:300] if lines else "nothing"


def _free_port() -> int:
    """A port that nobody listens on. Another process could take it before the server does; then that fails loudly."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port
